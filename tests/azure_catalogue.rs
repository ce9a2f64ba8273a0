//! The negative catalogue of Azure VMs: each case is a fixture that passes with one thing changed, and the one code that
//! the change is refused with. Evidence is forged under the simulator's roots, which the policy text names.

#![cfg(feature = "simulator")]

#[path = "support/session.rs"]
mod session;
#[path = "support/signed.rs"]
mod signed;

use portcullis::attester::Quote;
use portcullis::attester::simulator::{AttestationKey, AzureForge, MEASUREMENT, Patch, VtpmAuthority};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::eventlog::Log;
use portcullis::evidence::hcl::{HclReport, Kind as Hardware};
use portcullis::evidence::snp::Product;
use portcullis::evidence::tpm::{self, Hash, Selection};
use portcullis::evidence::{Auxiliary, Evidence, Timestamp};
use portcullis::platform::{self, PLATFORMS};
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::Appraiser;
use portcullis::verify::memo::NoMemo;
use session::binding;

/// 2026-12-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_796_083_200);

struct Case {
    name: &'static str,
    expect: Reason,
    /// Further keys of the policy's entry; the fixture passes without them.
    entry: &'static str,
    change: Change,
}

enum Change {
    /// Before it is signed.
    Forge(fn(&mut AzureForge)),
    /// After it is signed.
    Quote(fn(&mut Quote)),
}

const fn forged(name: &'static str, expect: Reason, change: fn(&mut AzureForge)) -> Case {
    Case { name, expect, entry: "", change: Change::Forge(change) }
}

const fn tampered(name: &'static str, expect: Reason, change: fn(&mut Quote)) -> Case {
    Case { name, expect, entry: "", change: Change::Quote(change) }
}

impl Case {
    const fn under(self, entry: &'static str) -> Self {
        Self { entry, ..self }
    }

    fn run(&self) -> Result<(), Denied> {
        let mut forge = fixture();
        let tamper = match self.change {
            Change::Forge(change) => {
                change(&mut forge);
                |_: &mut Quote| {}
            }
            Change::Quote(change) => change,
        };
        judge(&forge, tamper, &appraiser(self.entry))
    }
}

fn fixture() -> AzureForge {
    let mut forge = AzureForge::new(Product::Genoa, 7, NOW);
    forge.vtpm.extras.log = Some(portcullis::attester::simulator::ordinary_log().encode());
    forge
}

/// Pins the measurement and the registers 4 and 7 of the fixture.
fn appraiser(entry: &str) -> Appraiser {
    let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
    let pcrs = &fixture().vtpm.pcrs.values;
    let text = format!(
        r#"{{ "version": 1, "name": "catalogue", "insecure_roots": ["simulator"], "accept": [ {{ "id": "fixture", "tee": "azure-snp",
            "measurement": "{}", "pcrs": {{ "4": "{}", "7": "{}" }}{entry} }} ] }}"#,
        hex(&MEASUREMENT),
        hex(&pcrs[&4]),
        hex(&pcrs[&7])
    );
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let (policy, _) = AppraisalPolicy::load(text.as_bytes(), &vocabularies).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    Appraiser { anchors: platform::anchors(&policy), policy }
}

fn judge(forge: &AzureForge, tamper: fn(&mut Quote), appraiser: &Appraiser) -> Result<(), Denied> {
    let verifier = platform::by_name("azure-snp").expect("the platform").verifier;
    let (bind, binding) = binding(&[]);
    let mut quote = forge.quote(&binding.expected().short);
    tamper(&mut quote);
    let presented = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
    appraiser.judge(verifier, &presented, &binding, &NoMemo, NOW).map(drop)
}

/// Changes the HCL report after it was made.
fn report(quote: &mut Quote, change: impl Fn(&mut HclReport)) {
    let mut report = HclReport::parse(&quote.evidence.bytes).expect("a report");
    change(&mut report);
    quote.evidence.bytes = report.encode();
}

/// Changes the vTPM's member after it was made.
fn member(quote: &mut Quote, change: impl Fn(&mut tpm::Member)) {
    let mut member = tpm::Member::parse(&quote.evidence.auxiliary[0].bytes).expect("a member");
    change(&mut member);
    quote.evidence.auxiliary[0].bytes = tpm::Member::encode(&member.signed, &member.signature.encode(), &member.pcrs, &member.extras);
}

fn patch(forge: &mut AzureForge, offset: usize, octets: &[u8]) {
    forge.vtpm.patches.push(Patch { offset, octets: octets.to_vec() });
}

fn other_key(forge: &AzureForge) -> AttestationKey {
    if forge.vtpm.key == AttestationKey::Even { AttestationKey::Odd } else { AttestationKey::Even }
}

fn catalogue() -> Vec<Case> {
    use Reason::*;
    vec![
        // The catalogue of the protocol, by its names.
        forged("hcl-hash", TpmQuoteInvalid, |forge| forge.vouched = Some(b"{}".to_vec())),
        tampered("hcl-hash, one octet of the claims", TpmQuoteInvalid, |quote| {
            report(quote, |report| {
                let at = report.claims.windows(4).position(|octets| octets == b"true").expect("a truth");
                report.claims.splice(at..at + 4, *b"null");
            });
        }),
        forged("hcl-ak-other", TpmQuoteInvalid, |forge| {
            forge.claimed_key = Some(other_key(forge).modulus());
            forge.vtpm.extras.certificates.clear();
        }),
        forged("tpm-pcrselect, one register not selected", TpmQuoteInvalid, |forge| {
            forge.vtpm.selection = Some(Selection::of(Hash::Sha256, (0..24).filter(|index| *index != 9)));
        }),
        forged("tpm-pcrselect, one register not supplied", TpmQuoteInvalid, |forge| {
            forge.vtpm.selection = Some(forge.vtpm.pcrs.selection());
            forge.vtpm.pcrs.values.remove(&9);
        }),
        forged("tpm-pcrselect, none at all", TpmQuoteInvalid, |forge| forge.vtpm.pcrs.values.clear()),
        forged("tpm-magic", TpmQuoteInvalid, |forge| patch(forge, 4, &0x8017_u16.to_be_bytes())),
        forged("tpm-magic itself", TpmQuoteInvalid, |forge| patch(forge, 0, &[0])),
        forged("tpm-bank", TpmQuoteInvalid, |forge| {
            forge.vtpm.pcrs.bank = Hash::Sha1;
            forge.vtpm.pcrs.values.values_mut().for_each(|value| value.truncate(20));
            forge.vtpm.extras.log = None;
        }),
        tampered("vtpm-alone", EvidenceUnsupported, |quote| quote.evidence.bytes[..4].copy_from_slice(b"NONE")),
        // What else can be wrong with the quote.
        tampered("no quote", EvidenceUnsupported, |quote| quote.evidence.auxiliary.clear()),
        forged("a digest of other registers", TpmQuoteInvalid, |forge| forge.vtpm.digest = Some(vec![0; 32])),
        tampered("a register changed", TpmQuoteInvalid, |quote| member(quote, |member| member.pcrs.values.get_mut(&9).expect("it")[0] ^= 1)),
        tampered("a signature changed", TpmQuoteInvalid, |quote| {
            member(quote, |member| {
                let tpm::Signature::Rsassa { octets, .. } = &mut member.signature else { panic!("RSA") };
                octets[100] ^= 1;
            });
        }),
        tampered("a signature of another scheme", TpmQuoteInvalid, |quote| {
            member(quote, |member| member.signature = tpm::Signature::Ecdsa { hash: Hash::Sha256, r: vec![1; 32], s: vec![1; 32] });
        }),
        tampered("a signature over SHA-1", TpmQuoteInvalid, |quote| {
            member(quote, |member| {
                let tpm::Signature::Rsassa { hash, .. } = &mut member.signature else { panic!("RSA") };
                *hash = Hash::Sha1;
            });
        }),
        tampered("a quote for another challenge", BindingMismatch, |quote| quote.evidence.auxiliary[0].bytes = fixture().vtpm.quote(&[5; 48])),
        tampered("a quote for a longer challenge", BindingMismatch, |quote| quote.evidence.auxiliary[0].bytes = fixture().vtpm.quote(&[5; 64])),
        tampered("a quote for no challenge", BindingMismatch, |quote| quote.evidence.auxiliary[0].bytes = fixture().vtpm.quote(b"")),
        tampered("a quote of another machine", TpmQuoteInvalid, |quote| {
            let (_, binding) = binding(&[]);
            let mut other = AzureForge::new(Product::Genoa, 8, NOW);
            other.vtpm.extras.certificates.clear();
            quote.evidence.auxiliary[0].bytes = other.vtpm.quote(&binding.expected().short);
        }),
        tampered("two quotes", AuxiliaryUnbound, |quote| {
            let second = Auxiliary { label: "vtpm/1".to_owned(), ..quote.evidence.auxiliary[0].clone() };
            quote.evidence.auxiliary.push(second);
        }),
        tampered("a quote that is no CBOR", EvidenceMalformed, |quote| quote.evidence.auxiliary[0].bytes.push(0)),
        tampered("a quote of another type", EvidenceUnsupported, |quote| quote.evidence.auxiliary[0].media_type = "application/cbor".to_owned()),
        tampered("a quote without end", EvidenceSize, |quote| quote.evidence.auxiliary[0].bytes = vec![0; 1 << 20]),
        // The event log.
        forged("a log of another boot", EventLogMismatch, |forge| {
            let mut log = Log::parse(forge.vtpm.extras.log.as_deref().expect("a log")).expect("a log");
            log.events.pop();
            forge.vtpm.extras.log = Some(log.encode());
        }),
        forged("a log without the bank", EventLogMismatch, |forge| {
            let mut log = Log::empty(&[Hash::Sha1]);
            log.events.push(portcullis::evidence::eventlog::Event { register: 0, kind: 8, digests: vec![(4, vec![0; 20])], data: Vec::new() });
            forge.vtpm.extras.log = Some(log.encode());
        }),
        forged("a log that is none", EvidenceMalformed, |forge| forge.vtpm.extras.log = Some(vec![1; 100])),
        forged("a log that is too long", EvidenceSize, |forge| forge.vtpm.extras.log = Some(vec![0; 300 * 1024])),
        // The attestation key's certificate.
        forged("a certificate of another key", ChainUntrusted, |forge| {
            forge.vtpm.extras.certificates = VtpmAuthority::Azure.certify(other_key(forge), "x", NOW);
        }),
        forged("a certificate of another cloud", ChainUntrusted, |forge| {
            forge.vtpm.extras.certificates = VtpmAuthority::Google.certify(forge.vtpm.key, "x", NOW);
        }),
        forged("a certificate without its issuer", ChainUntrusted, |forge| drop(forge.vtpm.extras.certificates.pop())),
        forged("a certificate that has ended", ChainUntrusted, |forge| {
            forge.vtpm.extras.certificates = VtpmAuthority::Azure.certify(forge.vtpm.key, "x", NOW.minus(2 * 365 * 86_400));
        }),
        forged("a leaf as its own issuer", ChainUntrusted, |forge| {
            let leaf = forge.vtpm.extras.certificates[0].clone();
            forge.vtpm.extras.certificates.insert(0, leaf);
        }),
        forged("no certificate where one is wanted", ChainUntrusted, |forge| forge.vtpm.extras.certificates.clear())
            .under(r#", "ak_certificate": ["verified"]"#),
        // The HCL report.
        tampered("another signature", EvidenceUnsupported, |quote| quote.evidence.bytes[0] = b'h'),
        tampered("another version", EvidenceUnsupported, |quote| quote.evidence.bytes[4] = 3),
        tampered("another request", EvidenceUnsupported, |quote| quote.evidence.bytes[12] = 1),
        tampered("a status", EvidenceUnsupported, |quote| quote.evidence.bytes[16] = 1),
        tampered("reserved octets", ReservedBitsSet, |quote| quote.evidence.bytes[31] = 1),
        tampered("another hash", EvidenceUnsupported, |quote| quote.evidence.bytes[1228] = 2),
        tampered("other hardware", EvidenceUnsupported, |quote| report(quote, |report| report.kind = Hardware::Tdx)),
        tampered("a size that lies", EvidenceMalformed, |quote| quote.evidence.bytes[8] ^= 1),
        tampered("claims beyond the end", EvidenceMalformed, |quote| quote.evidence.bytes[1234] = 0xff),
        tampered("a tail that is not zero", ReservedBitsSet, |quote| quote.evidence.bytes.extend([0, 0, 1])),
        tampered("a report that is cut off", EvidenceSize, |quote| quote.evidence.bytes.truncate(1235)),
        tampered("a report without end", EvidenceSize, |quote| quote.evidence.bytes.resize(4097, 0)),
        tampered("claims that are no JSON", EvidenceMalformed, |quote| report(quote, |report| report.claims = b"[".to_vec())),
        forged("a member of the claims twice", EvidenceMalformed, |_| {}).under("").replaced(|quote| {
            report(quote, |report| {
                let text = String::from_utf8(report.claims.clone()).expect("text");
                report.claims = text.replacen("\"keys\":", "\"keys\":[],\"keys\":", 1).into_bytes();
            });
        }),
        // The hardware inside is judged as on its own platform.
        forged("snp debug", DebugEnabled, |forge| forge.hardware.report.policy |= 1 << 19),
        forged("snp vmpl", VmplNotAllowed, |forge| forge.hardware.report.vmpl = 1),
        forged("snp measurement", MeasurementUnknown, |forge| forge.hardware.report.measurement = [9; 48]),
        forged("snp signature", SignatureInvalid, |_| {}).replaced(|quote| quote.evidence.bytes[32 + 0x90] ^= 1),
        forged("snp list out of date", CollateralUnavailable, |forge| forge.hardware.crl.next_update = Some(NOW.minus(1))),
        // The policy's own keys.
        forged("another boot", MeasurementUnknown, |forge| {
            forge.vtpm.extras.log = None;
            forge.vtpm.pcrs.values.insert(4, vec![4; 32]);
        }),
        forged("a register that is wanted and not quoted", MeasurementUnknown, |forge| drop(forge.vtpm.pcrs.values.remove(&4))),
        forged("registers of the longer bank", MeasurementUnknown, |forge| {
            forge.vtpm.pcrs.bank = Hash::Sha384;
            forge.vtpm.pcrs.values.values_mut().for_each(|value| value.resize(48, 0));
            forge.vtpm.extras.log = None;
        }),
        forged("no secure boot", GuestPolicyViolation, |forge| forge.claims["vm-configuration"]["secure-boot"] = false.into()),
        forged("secure boot not told", GuestPolicyViolation, |forge| {
            forge.claims["vm-configuration"].as_object_mut().expect("an object").remove("secure-boot");
        }),
        forged("no vTPM", GuestPolicyViolation, |forge| forge.claims["vm-configuration"]["tpm-enabled"] = false.into()),
        forged("another machine", PlatformNotAllowed, |_| {}).under(r#", "vm_unique_id": ["00000000-0000-0000-0000-000000000000"]"#),
    ]
}

impl Case {
    fn replaced(self, change: fn(&mut Quote)) -> Self {
        Self { change: Change::Quote(change), ..self }
    }
}

#[test]
fn the_fixture_passes() {
    judge(&fixture(), |_| {}, &appraiser("")).expect("the fixture passes");
    judge(&fixture(), |_| {}, &appraiser(r#", "ak_certificate": ["verified"]"#)).expect("its certificate leads to the simulated root");
}

#[test]
fn every_case_is_refused_with_its_code() {
    let wrong: Vec<_> = catalogue()
        .iter()
        .filter_map(|case| match case.run() {
            Err(denied) if denied.reason() == case.expect => None,
            other => {
                Some(format!("{}: expected {}, found {}", case.name, case.expect, other.map_or_else(|denied| denied.to_string(), |()| "accepted".to_owned())))
            }
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_quote_that_the_claims_list_is_refused() {
    let forge = fixture();
    let (_, plain) = binding(&[]);
    let quote = forge.quote(&plain.expected().short);
    let (bind, listed) = binding(&quote.evidence.auxiliary);
    let presented = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
    let verifier = platform::by_name("azure-snp").expect("the platform").verifier;
    let denied = appraiser("").judge(verifier, &presented, &listed, &NoMemo, NOW).expect_err("the claims cannot list what signs them");
    assert_eq!(denied.reason(), Reason::AuxiliaryUnbound);
}

#[test]
fn a_quote_alone_is_of_no_platform() {
    let alone = Evidence::new(tpm::MEDIA_TYPE, fixture().vtpm.quote(&[0; 48]));
    assert!(platform::of_evidence(&alone).is_none());
}

#[test]
fn no_flipped_bit_is_accepted() {
    let (verifier, appraiser) = (platform::by_name("azure-snp").expect("the platform").verifier, appraiser(""));
    let quote = fixture().quote(&[7; 48]);
    let accepts = |evidence: &Evidence| appraiser.examine(verifier, evidence, &quote.endorsements, &NoMemo, NOW).is_ok();
    assert!(accepts(&quote.evidence));
    let mut accepted = Vec::new();
    for at in 0..quote.evidence.bytes.len() {
        let mut flipped = quote.evidence.clone();
        flipped.bytes[at] ^= 1 << (at * 5 % 8);
        accepted.extend(accepts(&flipped).then(|| format!("report {at:#x}")));
    }
    let member = tpm::Member::parse(&quote.evidence.auxiliary[0].bytes).expect("a member");
    let certificates: usize = member.extras.certificates.iter().map(|certificate| certificate.len() + 3).sum();
    let log = member.extras.log.as_ref().map_or(0, |log| log.len() + 4);
    // Log and certificates are judged by what they come to; everything before them is covered by the signature.
    for at in 0..quote.evidence.auxiliary[0].bytes.len() - certificates - log - 2 {
        let mut flipped = quote.evidence.clone();
        flipped.auxiliary[0].bytes[at] ^= 1 << (at * 5 % 8);
        accepted.extend(accepts(&flipped).then(|| format!("quote {at:#x}")));
    }
    assert!(accepted.is_empty(), "{accepted:?}");
}

/// A wrong code fails: for each region of the certificates above the attestation key, whether a policy wants them or not.
#[test]
fn each_region_of_the_attestation_keys_certificates_has_its_code() {
    let (verifier, quote) = (platform::by_name("azure-snp").expect("the platform").verifier, fixture().quote(&[7; 48]));
    let member = &quote.evidence.auxiliary[0].bytes;
    let certificates = tpm::Member::parse(member).expect("a member").extras.certificates;
    assert_eq!(certificates.len(), 2, "the key's and its issuer's");
    let (mut wrong, mut changed) = (Vec::new(), 0);
    for appraiser in [appraiser(""), appraiser(r#", "ak_certificate": ["verified"]"#)] {
        for (number, der) in certificates.iter().enumerate() {
            let place = member.windows(der.len()).position(|part| part == der).expect("it is in the member");
            for region in signed::certified(der) {
                for at in region.clone().step_by(region.len().div_ceil(48)) {
                    let mut quote = quote.clone();
                    quote.evidence.auxiliary[0].bytes[place + at] ^= 1 << (at % 8);
                    let denied = appraiser.examine(verifier, &quote.evidence, &quote.endorsements, &NoMemo, NOW).err();
                    let found = denied.as_ref().and_then(|denied| denied.findings().next()).map(|finding| (finding.reason, finding.field.as_ref()));
                    changed += 1;
                    if found != Some((Reason::ChainUntrusted, "vtpm.ak_certificate")) {
                        wrong.push(format!("certificate {number}, octet {at:#x}: {found:?}"));
                    }
                }
            }
        }
    }
    assert!(changed > 300 && wrong.is_empty(), "{} of {changed} octets: {wrong:#?}", wrong.len());
}

/// TDX behind the paravisor: the quote beside the HCL report is what the hardware says.
mod tdx {
    use portcullis::attester::simulator::intel::IntelForge;
    use portcullis::evidence::ReportData;
    use portcullis::evidence::hcl::TD_QUOTE;

    use super::*;

    type Vm = AzureForge<IntelForge>;

    /// Judges evidence whose listed members are those of the forge, changed after they were listed or before.
    fn judge(forge: &Vm, listed: fn(&mut Vec<Auxiliary>), tamper: fn(&mut Evidence)) -> Result<(), Reason> {
        let text = r#"{ "version": 1, "name": "tdx", "insecure_roots": ["simulator"], "accept": [ { "id": "vm", "tee": "azure-tdx",
            "insecure_any_measurement": true, "insecure_any_pcrs": true } ] }"#;
        let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
        let (policy, _) = AppraisalPolicy::load(text.as_bytes(), &vocabularies).unwrap_or_else(|problems| panic!("{problems:?}"));
        let appraiser = Appraiser { anchors: platform::anchors(&policy), policy };
        let mut members = forge.listed();
        listed(&mut members);
        let (bind, binding) = binding(&members);
        let mut quote = forge.quote(&binding.expected().short);
        quote.evidence.auxiliary.extend(members);
        tamper(&mut quote.evidence);
        let presented = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
        let verifier = platform::by_name("azure-tdx").expect("the platform").verifier;
        appraiser.judge(verifier, &presented, &binding, &NoMemo, NOW).map(drop).map_err(|denied| denied.reason())
    }

    fn vm() -> Vm {
        AzureForge::tdx(7, NOW)
    }

    fn td_quote(evidence: &mut Evidence) -> &mut Auxiliary {
        evidence.auxiliary.iter_mut().find(|member| member.label == TD_QUOTE).expect("a TD quote")
    }

    #[test]
    fn the_fixture_passes_and_each_change_is_refused_with_its_code() {
        use Reason::*;
        assert_eq!(judge(&vm(), |_| {}, |_| {}), Ok(()));
        assert_eq!(judge(&vm(), Vec::clear, |_| {}), Err(EvidenceUnsupported), "no TD quote");
        assert_eq!(judge(&vm(), |_| {}, |evidence| td_quote(evidence).bytes[200] ^= 1), Err(AuxiliaryUnbound), "another than was listed");
        assert_eq!(judge(&vm(), |listed| listed[0].bytes[200] ^= 1, |_| {}), Err(SignatureInvalid), "listed and not genuine");
        let other = |listed: &mut Vec<Auxiliary>| listed[0].bytes = AzureForge::tdx(8, NOW).hardware.sign(&ReportData([1; 64]));
        assert_eq!(judge(&vm(), other, |_| {}), Err(TpmQuoteInvalid), "of another machine");
        let enclave = |listed: &mut Vec<Auxiliary>| listed[0].bytes = IntelForge::sgx(7, NOW).sign(&ReportData([1; 64]));
        assert_eq!(judge(&vm(), enclave, |_| {}), Err(EvidenceUnsupported), "of an enclave");
        let tdreport = |evidence: &mut Evidence| evidence.bytes[32 + 128] ^= 1;
        assert_eq!(judge(&vm(), |_| {}, tdreport), Err(TpmQuoteInvalid), "a TDREPORT that says otherwise");
        let claims = |evidence: &mut Evidence| {
            let at = evidence.bytes.windows(6).position(|octets| octets == b":true,").expect("a truth");
            evidence.bytes[at..at + 6].copy_from_slice(b":null,");
        };
        assert_eq!(judge(&vm(), |_| {}, claims), Err(TpmQuoteInvalid), "hcl-hash");
        let mut debug = vm();
        debug.hardware.trust_domain().td_attributes |= 1;
        assert_eq!(judge(&debug, |_| {}, |_| {}), Err(DebugEnabled), "tdx-debug");
        let mut foreign = vm();
        foreign.claimed_key = Some(if foreign.vtpm.key == AttestationKey::Even { AttestationKey::Odd } else { AttestationKey::Even }.modulus());
        foreign.vtpm.extras.certificates.clear();
        assert_eq!(judge(&foreign, |_| {}, |_| {}), Err(TpmQuoteInvalid), "hcl-ak-other");
        let snp = |evidence: &mut Evidence| evidence.bytes = AzureForge::new(Product::Genoa, 7, NOW).report().encode();
        assert_eq!(judge(&vm(), |_| {}, snp), Err(EvidenceUnsupported), "a report of other hardware");
    }
}
