//! The negative catalogue of SEV-SNP: each case is a fixture that passes with one thing changed, and the one code that
//! the change is refused with. Evidence is forged under the simulator's roots, which the policy text names.

#![cfg(feature = "simulator")]

#[path = "support/session.rs"]
mod session;
#[path = "support/signed.rs"]
mod signed;

use std::collections::BTreeMap;
use std::ops::Range;

use portcullis::attester::Quote;
use portcullis::attester::simulator::{self, Fault, Forge, MEASUREMENT, Patch, Role, SimulatedVendor, VekExtension};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::snp::{Firmware, Product, Tcb};
use portcullis::evidence::{Endorsement, Endorsements, Evidence, ReportData, Timestamp};
use portcullis::platform::{self, PLATFORMS};
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::Appraiser;
use portcullis::verify::memo::NoMemo;
use session::binding;

/// 2026-12-01T00:00:00Z.
const NOW: Timestamp = Timestamp(1_796_083_200);
const DAY: u64 = 86_400;

/// One row: the fixture, which passes under the policy's entry keys, and what is changed.
struct Case {
    name: &'static str,
    product: Product,
    /// Further keys of the policy's entry, and further keys of the policy.
    entry: &'static str,
    policy: &'static str,
    /// Makes the fixture of the ordinary machine.
    fixture: fn(&mut Forge),
    change: Change,
    expect: Reason,
}

enum Change {
    /// Before it is signed.
    Forge(fn(&mut Forge)),
    /// Other entry keys in the policy.
    Entry(&'static str),
    /// Other keys of the policy.
    Policy(&'static str),
    /// After it is signed.
    Quote(fn(&mut Quote)),
}

const fn case(name: &'static str, expect: Reason, change: Change) -> Case {
    Case { name, product: Product::Genoa, entry: "", policy: SIMULATED, fixture: |_| {}, change, expect }
}

/// Changed before signing.
const fn forged(name: &'static str, expect: Reason, change: fn(&mut Forge)) -> Case {
    case(name, expect, Change::Forge(change))
}

/// Changed after signing.
const fn tampered(name: &'static str, expect: Reason, change: fn(&mut Quote)) -> Case {
    case(name, expect, Change::Quote(change))
}

impl Case {
    const fn of(self, product: Product) -> Self {
        Self { product, ..self }
    }

    const fn under(self, entry: &'static str) -> Self {
        Self { entry, ..self }
    }

    const fn from(self, fixture: fn(&mut Forge)) -> Self {
        Self { fixture, ..self }
    }

    fn forge(&self) -> Forge {
        let mut forge = Forge::new(self.product, 7, NOW);
        (self.fixture)(&mut forge);
        forge
    }

    /// The verdicts on the fixture and on the changed fixture.
    fn run(&self) -> [Result<(), Denied>; 2] {
        let good = judge(&self.forge(), |_| {}, &policy(self.entry, self.policy));
        let (mut forge, appraiser) = (self.forge(), policy(self.entry, self.policy));
        let bad = match self.change {
            Change::Forge(change) => {
                change(&mut forge);
                judge(&forge, |_| {}, &appraiser)
            }
            Change::Entry(entry) => judge(&forge, |_| {}, &policy(entry, self.policy)),
            Change::Policy(keys) => judge(&forge, |_| {}, &policy(self.entry, keys)),
            Change::Quote(change) => judge(&forge, change, &appraiser),
        };
        [good, bad]
    }
}

const SIMULATED: &str = r#", "insecure_roots": ["simulator"]"#;

fn policy(entry: &str, keys: &str) -> Appraiser {
    let measurement = data_encoding::HEXLOWER.encode(&MEASUREMENT);
    let text = format!(
        r#"{{ "version": 1, "name": "catalogue"{keys}, "accept": [ {{ "id": "fixture", "tee": "sev-snp", "measurement": "{measurement}"{entry} }} ] }}"#
    );
    let vocabularies: Vec<_> = PLATFORMS.iter().map(|platform| platform.verifier.vocabulary()).collect();
    let policy = match AppraisalPolicy::load(text.as_bytes(), &vocabularies) {
        Ok((policy, _)) => policy,
        Err(problems) => panic!("{problems:?}\n{text}"),
    };
    Appraiser { anchors: platform::anchors(&policy), policy }
}

/// Judges as a relying party does and as a file is examined; both must come to the same.
fn judge(forge: &Forge, tamper: fn(&mut Quote), appraiser: &Appraiser) -> Result<(), Denied> {
    let verifier = platform::by_name("sev-snp").expect("the platform").verifier;
    let (bind, binding) = binding(&[]);
    let mut quote = forge.quote(&binding.expected().long);
    tamper(&mut quote);
    let examined = appraiser.examine(verifier, &quote.evidence, &quote.endorsements, &NoMemo, NOW).map(drop);
    let presented = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
    let judged = appraiser.judge(verifier, &presented, &binding, &NoMemo, NOW).map(drop);
    assert_eq!(reason(&examined), reason(&judged), "examine and judge differ: {examined:?} {judged:?}");
    judged
}

fn reason(verdict: &Result<(), Denied>) -> Option<Reason> {
    verdict.as_ref().err().map(Denied::reason)
}

fn endorsement<'a>(quote: &'a mut Quote, change: impl Fn(&mut Endorsement) + 'a) {
    quote.endorsements = std::mem::take(&mut quote.endorsements)
        .into_iter()
        .map(|mut e| {
            change(&mut e);
            e
        })
        .collect();
}

fn patch(forge: &mut Forge, offset: usize, octets: &[u8]) {
    forge.patches.push(Patch { offset, octets: octets.to_vec() });
}

const VLEK: &str = r#", "signing_key": ["VLEK"], "csp_id": ["CN=cloud.simulator.invalid"]"#;
const MILAN: &str = r#", "products": ["milan"], "insecure_allow_milan": "a test""#;
const CHIP: &str =
    r#", "chip_id": "11111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111""#;
const AUTHOR: &str = r#", "author_key_digest": "a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0""#;
const ID_KEY: &str = r#", "id_key_digest": "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0""#;
const SVN: &str = r#", "guest_svn": 5, "id_key_digest": "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0""#;
const HOST_DATA: &str = r#", "host_data": "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0""#;
const TURIN_FLOOR: &str = r#", "min_tcb": { "turin": { "bootloader": 3 } }"#;

fn turin(fmc: u8, bootloader: u8) -> Tcb {
    Tcb { fmc: Some(fmc), bootloader, tee: 0, snp: 2, microcode: 71 }
}

/// The order `n` of P-384, big-endian.
const ORDER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973";

fn order_little_endian() -> Vec<u8> {
    let mut order = data_encoding::HEXLOWER.decode(ORDER.as_bytes()).expect("hex");
    order.reverse();
    order
}

/// The catalogue's rows by their names, then what its rows imply.
fn catalogue() -> Vec<Case> {
    use Reason::*;
    let mut all = vec![
        tampered("sig-bitflip", SignatureInvalid, |q| q.evidence.bytes[0x2a0] ^= 1),
        tampered("sig-bitflip s", SignatureInvalid, |q| q.evidence.bytes[0x2a0 + 72] ^= 1),
        tampered("body-bitflip", SignatureInvalid, |q| q.evidence.bytes[0x90] ^= 1),
        forged("measurement-unlisted", MeasurementUnknown, |f| f.report.measurement = [1; 48]),
        forged("debug", DebugEnabled, |f| f.report.policy |= 1 << 19),
        forged("migrate-ma", GuestPolicyViolation, |f| f.report.policy |= 1 << 18),
        forged("vmpl1", VmplNotAllowed, |f| f.report.vmpl = 1),
        forged("version-1", EvidenceUnsupported, |f| f.report.version = 1),
        forged("version-1 99", EvidenceUnsupported, |f| f.report.version = 99),
        tampered("truncated", EvidenceSize, |q| q.evidence.bytes.truncate(1183)),
        tampered("trailing", EvidenceSize, |q| q.evidence.bytes.push(0)),
        tampered("sig-high-limb", SignatureInvalid, |q| q.evidence.bytes[0x2a0 + 48] = 1),
        forged("reserved-nonzero", ReservedBitsSet, |f| patch(f, 0x4c, &[1])),
        forged("tcb-mismatch-vek", TcbTooLow, |f| f.vek.tcb.snp -= 1),
        forged("tcb-below-floor-launch", TcbTooLow, |f| f.report.launch_tcb[6] = 0x15),
        forged("turin-tcb-as-milan", TcbTooLow, |f| *f = f.clone().tcb(turin(5, 1)))
            .of(Product::Turin)
            .under(TURIN_FLOOR)
            .from(|f| *f = f.clone().tcb(turin(5, 3))),
        forged("vlek-signed-as-vcek", ChainUntrusted, |f| f.report.key_info |= 1 << 2),
        forged("key-none", ChainUntrusted, |f| f.report.key_info |= 7 << 2),
        forged("vek-hwid-mismatch", ChainUntrusted, |f| f.vek.hwid[0] ^= 1),
        forged("chip-id-masked", ChainUntrusted, |f| f.report.chip_id = [0; 64]),
        forged("turin-hwid-length", ChainUntrusted, |f| f.report.chip_id[8] = 1).of(Product::Turin),
        forged("vek-ext-missing", ChainUntrusted, |f| f.vek.omit.push(VekExtension::UcodeSpl)),
        forged("wrong-root", ChainUntrusted, |f| f.vendor = SimulatedVendor::impostor(Product::Genoa)),
        forged("ask-revoked", ChainRevoked, |f| f.crl.revoked.push((f.vendor.serial(Role::Ask), NOW.minus(DAY)))),
        forged("crl-expired", CollateralUnavailable, |f| f.crl.next_update = Some(NOW.minus(1))),
        forged("alias-check-missing", GuestPolicyViolation, |f| f.report.platform_info &= !(1 << 5)),
        case("product-milan", PlatformNotAllowed, Change::Entry("")).of(Product::Milan).under(MILAN),
        forged("chip-not-listed", PlatformNotAllowed, |f| *f = f.clone().chip([0x12; 64])).under(CHIP).from(|f| *f = f.clone().chip([0x11; 64])),
        forged("author-key-unset", GuestPolicyViolation, |f| f.report.key_info &= !1).under(AUTHOR).from(|f| {
            f.report.author_key_digest = [0xa0; 48];
            f.report.key_info |= 1;
        }),
        forged("guest-svn", MeasurementUnknown, |f| f.report.guest_svn = 4).under(SVN).from(|f| {
            f.report.id_key_digest = [0xb0; 48];
            f.report.guest_svn = 5;
        }),
    ];
    all.extend(form());
    all.extend(chain());
    all.extend(guest());
    all
}

fn form() -> Vec<Case> {
    use Reason::*;
    vec![
        tampered("empty", EvidenceSize, |q| q.evidence.bytes.clear()),
        forged("version 0", EvidenceUnsupported, |f| f.report.version = 0),
        forged("version 6", EvidenceUnsupported, |f| f.report.version = 6),
        forged("version in the upper half", EvidenceUnsupported, |f| patch(f, 2, &[1])),
        tampered("sig-high-limb of s", SignatureInvalid, |q| q.evidence.bytes[0x2a0 + 72 + 48] = 1),
        tampered("behind the signature", SignatureInvalid, |q| q.evidence.bytes[0x330] = 1),
        tampered("last octet", SignatureInvalid, |q| q.evidence.bytes[0x49f] = 1),
        tampered("r zero", SignatureInvalid, |q| q.evidence.bytes[0x2a0..0x2a0 + 48].fill(0)),
        tampered("s zero", SignatureInvalid, |q| q.evidence.bytes[0x2a0 + 72..0x2a0 + 120].fill(0)),
        tampered("r and s zero", SignatureInvalid, |q| q.evidence.bytes[0x2a0..].fill(0)),
        tampered("r the order", SignatureInvalid, |q| q.evidence.bytes[0x2a0..0x2a0 + 48].copy_from_slice(&order_little_endian())),
        tampered("s the order", SignatureInvalid, |q| q.evidence.bytes[0x2a0 + 72..0x2a0 + 120].copy_from_slice(&order_little_endian())),
        tampered("r and s exchanged", SignatureInvalid, |q| {
            let (r, s) = (q.evidence.bytes[0x2a0..0x2a0 + 72].to_vec(), q.evidence.bytes[0x2a0 + 72..0x2a0 + 144].to_vec());
            q.evidence.bytes[0x2a0..0x2a0 + 144].copy_from_slice(&[s, r].concat());
        }),
        forged("sig-algo", EvidenceUnsupported, |f| f.report.sig_algo = 2),
        forged("reserved in key info", ReservedBitsSet, |f| f.report.key_info |= 1 << 5),
        forged("reserved behind cpuid", ReservedBitsSet, |f| patch(f, 0x18b, &[1])),
        forged("reserved behind the firmware", ReservedBitsSet, |f| patch(f, 0x1eb, &[1])),
        forged("reserved behind the committed firmware", ReservedBitsSet, |f| patch(f, 0x1ef, &[1])),
        forged("reserved at the end", ReservedBitsSet, |f| patch(f, 0x29f, &[1])),
        forged("mitigations before version 4", ReservedBitsSet, |f| patch(f, 0x1f8, &[1])).from(|f| *f = f.clone().version(3)),
        forged("cpuid in version 2", ReservedBitsSet, |f| patch(f, 0x188, &[0x19])).from(|f| *f = f.clone().version(2)),
        forged("policy bit 26", ReservedBitsSet, |f| f.report.policy |= 1 << 26),
        forged("policy bit 63", ReservedBitsSet, |f| f.report.policy |= 1 << 63),
        forged("policy bit 17 clear", ReservedBitsSet, |f| f.report.policy &= !(1 << 17)),
        forged("platform info bit 8", ReservedBitsSet, |f| f.report.platform_info |= 1 << 8),
        forged("reserved octet of a TCB", ReservedBitsSet, |f| f.report.current_tcb[3] = 1),
        forged("reserved octet of the launch TCB", ReservedBitsSet, |f| f.report.launch_tcb[5] = 1),
    ]
}

fn chain() -> Vec<Case> {
    use Reason::*;
    let mut all = vec![
        case("simulator without its key", ChainUntrusted, Change::Policy("")),
        forged("key without a meaning", ChainUntrusted, |f| f.report.key_info |= 3 << 2),
        tampered("a VCEK under the VLEK's name", ChainUntrusted, |q| {
            endorsement(q, |e| match e.name.as_str() {
                "vcek" => e.name = "vlek".to_owned(),
                "ask" => e.name = "asvk".to_owned(),
                _ => {}
            });
        }),
        forged("a VLEK for a report that says VCEK", ChainUntrusted, |f| f.report.key_info &= !0x1c)
            .under(VLEK)
            .from(|f| *f = f.clone().vlek("CN=cloud.simulator.invalid")),
        forged("mask-chip-key", ChainUntrusted, |f| f.report.key_info |= 2),
        forged("another chip", ChainUntrusted, |f| f.report.chip_id[63] ^= 1),
        forged("hwid too short", ChainUntrusted, |f| f.vek.hwid.truncate(8)),
        forged("hwid too long", ChainUntrusted, |f| f.vek.hwid.push(0)).of(Product::Turin),
        forged("vek expired", ChainUntrusted, |f| f.vek.not_after = NOW.minus(1)),
        forged("vek not yet valid", ChainUntrusted, |f| f.vek.not_before = NOW.plus(1)),
        forged("vek of another product", ChainUntrusted, |f| f.vek.product_name = "Turin".to_owned()),
        forged("vek of no product", ChainUntrusted, |f| f.vek.product_name = "Rome".to_owned()),
        forged("report of another product", ChainUntrusted, |f| f.report.cpuid = Some([0x1a, 2, 1])),
        forged("unknown processor", PlatformNotAllowed, |f| f.report.cpuid = Some([0x1b, 2, 1])),
        forged("vek missing", CollateralUnavailable, |f| f.unstapled.push("vcek")),
        forged("ask missing", CollateralUnavailable, |f| f.unstapled.push("ask")),
        forged("crl missing", CollateralUnavailable, |f| f.unstapled.push("crl")),
        forged("crl of the future", CollateralUnavailable, |f| f.crl.this_update = NOW.plus(1)),
        forged("crl without an end", CollateralUnavailable, |f| f.crl.next_update = None),
        forged("asvk revoked", ChainRevoked, |f| f.crl.revoked.push((f.vendor.serial(Role::Asvk), NOW.minus(DAY))))
            .under(VLEK)
            .from(|f| *f = f.clone().vlek("CN=cloud.simulator.invalid")),
        tampered("crl by another root", CollateralUnavailable, |q| {
            let list = SimulatedVendor::impostor(Product::Genoa).revoke(&simulator::RevocationList::at(NOW));
            endorsement(q, |e| {
                if e.name == "crl" {
                    e.bytes.clone_from(&list);
                }
            });
        }),
        tampered("crl of another product", CollateralUnavailable, |q| {
            let list = SimulatedVendor::new(Product::Turin).revoke(&simulator::RevocationList::at(NOW));
            endorsement(q, |e| {
                if e.name == "crl" {
                    e.bytes.clone_from(&list);
                }
            });
        }),
        tampered("a list of addresses for a crl", CollateralUnavailable, |q| {
            endorsement(q, |e| {
                if e.name == "crl" {
                    e.bytes = b"http://127.0.0.1/crl".to_vec();
                }
            });
        }),
        tampered("ask of an impostor", ChainUntrusted, |q| {
            let ask = SimulatedVendor::impostor(Product::Genoa).certificate(Role::Ask);
            endorsement(q, |e| {
                if e.name == "ask" {
                    e.bytes.clone_from(&ask);
                }
            });
        }),
        tampered("ask of another product", ChainUntrusted, |q| {
            let ask = SimulatedVendor::new(Product::Turin).certificate(Role::Ask);
            endorsement(q, |e| {
                if e.name == "ask" {
                    e.bytes.clone_from(&ask);
                }
            });
        }),
        tampered("root for an intermediate", ChainUntrusted, |q| {
            let ark = SimulatedVendor::new(Product::Genoa).certificate(Role::Ark);
            endorsement(q, |e| {
                if e.name == "ask" {
                    e.bytes.clone_from(&ark);
                }
            });
        }),
        tampered("intermediate for a vek", ChainUntrusted, |q| {
            let ask = SimulatedVendor::new(Product::Genoa).certificate(Role::Ask);
            endorsement(q, |e| {
                if e.name == "vcek" {
                    e.bytes.clone_from(&ask);
                }
            });
        }),
        tampered("octets behind the vek", ChainUntrusted, |q| {
            endorsement(q, |e| {
                if e.name == "vcek" {
                    e.bytes.push(0);
                }
            });
        }),
        tampered("an endless vek", ChainUntrusted, |q| {
            endorsement(q, |e| {
                if e.name == "vcek" {
                    e.bytes.resize(1 << 20, 0);
                }
            });
        }),
        tampered("peer-endorsement-root", ChainUntrusted, |q| {
            let impostor = SimulatedVendor::impostor(Product::Genoa);
            q.endorsements.push(Endorsement { name: "ark".to_owned(), media_type: "application/pkix-cert".to_owned(), bytes: impostor.certificate(Role::Ark) });
        }),
        forged("peer-endorsement-root with its whole chain", ChainUntrusted, |f| f.vendor = SimulatedVendor::impostor(Product::Genoa)),
    ];
    // The one certificate of another machine of the same vendor: genuine, and not this report's.
    all.push(tampered("vek of another machine", ChainUntrusted, |q| {
        let other = Forge::new(Product::Genoa, 8, NOW).vek_certificate();
        endorsement(q, |e| {
            if e.name == "vcek" {
                e.bytes.clone_from(&other);
            }
        });
    }));
    all.push(tampered("vek of the same chip and TCB with another key", SignatureInvalid, |q| {
        let original = Forge::new(Product::Genoa, 7, NOW);
        let mut other = Forge::new(Product::Genoa, 8, NOW);
        other.vek.hwid.clone_from(&original.vek.hwid);
        let other = other.vek_certificate();
        endorsement(q, |e| {
            if e.name == "vcek" {
                e.bytes.clone_from(&other);
            }
        });
    }));
    all
}

fn guest() -> Vec<Case> {
    use Reason::*;
    vec![
        forged("vmpl of the host", VmplNotAllowed, |f| f.report.vmpl = u32::MAX),
        forged("vmpl4", VmplNotAllowed, |f| f.report.vmpl = 4),
        forged("report-id-ma", GuestPolicyViolation, |f| f.report.report_id_ma = [0; 32]),
        forged("cxl", GuestPolicyViolation, |f| f.report.policy |= 1 << 21),
        forged("smt forbidden", GuestPolicyViolation, |f| f.report.policy |= 1 << 16)
            .under(r#", "guest_policy": { "smt": false }"#)
            .from(|f| f.report.policy &= !(1 << 16)),
        forged("provisional firmware", GuestPolicyViolation, |f| f.report.current_tcb[6] += 1),
        forged("committed below reported", TcbTooLow, |f| f.report.committed_tcb[6] -= 1),
        forged("current below committed", TcbTooLow, |f| f.report.current_tcb[7] -= 1),
        forged("all below the floor", TcbTooLow, |f| *f = f.clone().tcb(Tcb { fmc: None, bootloader: 10, tee: 0, snp: 0x15, microcode: 84 })),
        forged("microcode floor", TcbTooLow, |f| *f = f.clone().tcb(Tcb { fmc: None, bootloader: 10, tee: 0, snp: 25, microcode: 83 }))
            .under(r#", "min_tcb": { "genoa": { "microcode": 84 } }"#),
        forged("current firmware", TcbTooLow, |f| f.report.current_firmware = Firmware { major: 1, minor: 54, build: 99 }),
        forged("committed firmware", TcbTooLow, |f| f.report.committed_firmware = Firmware { major: 0, minor: 99, build: 99 }),
        forged("host-data", MeasurementUnknown, |f| f.report.host_data[31] ^= 1).under(HOST_DATA).from(|f| f.report.host_data = [0xc0; 32]),
        forged("id-key", GuestPolicyViolation, |f| f.report.id_key_digest[0] ^= 1).under(ID_KEY).from(|f| f.report.id_key_digest = [0xb0; 48]),
        forged("author-key other", GuestPolicyViolation, |f| f.report.author_key_digest[0] ^= 1).under(AUTHOR).from(|f| {
            f.report.author_key_digest = [0xa0; 48];
            f.report.key_info |= 1;
        }),
        forged("mitigations of an older version", TcbTooLow, |f| *f = f.clone().version(4)).under(r#", "current_mit_vector": "0x1""#),
        forged("mitigation missing", TcbTooLow, |f| f.report.mit_vectors[0] = 2)
            .under(r#", "launch_mit_vector": "0x3""#)
            .from(|f| f.report.mit_vectors = [3, 3]),
        case("vlek by default", PlatformNotAllowed, Change::Entry("")).under(VLEK).from(|f| *f = f.clone().vlek("CN=cloud.simulator.invalid")),
        forged("vlek of another cloud", PlatformNotAllowed, |f| f.vek.csp_id = "CN=other.simulator.invalid".to_owned())
            .under(VLEK)
            .from(|f| *f = f.clone().vlek("CN=cloud.simulator.invalid")),
        case("policy expired", PolicyInvalid, Change::Policy(r#", "insecure_roots": ["simulator"], "expires": "2026-11-30T23:59:59Z""#)),
        case("entry expired", PolicyInvalid, Change::Entry(r#", "not_after": "2026-11-30T23:59:59Z""#)),
    ]
}

#[test]
fn each_change_to_a_passing_fixture_is_refused_with_its_code() {
    let mut failed = Vec::new();
    let all = catalogue();
    for case in &all {
        let [good, bad] = case.run();
        let found = reason(&bad);
        match (&good, found == Some(case.expect)) {
            (Ok(()), true) => println!("ok   {}: {}", case.name, case.expect),
            _ => {
                println!("FAIL {}: fixture {good:?}, changed {bad:?}, expected {}", case.name, case.expect);
                failed.push(case.name);
            }
        }
    }
    assert!(failed.is_empty(), "{} of {} cases: {failed:?}", failed.len(), all.len());
}

#[test]
fn every_extension_of_a_vek_is_there_and_once() {
    use VekExtension::*;
    let accepted = |change: &dyn Fn(&mut Forge)| {
        let mut forge = Forge::new(Product::Turin, 7, NOW);
        change(&mut forge);
        judge(&forge, |_| {}, &policy("", SIMULATED))
    };
    assert!(accepted(&|_| {}).is_ok());
    for extension in [StructVersion, ProductName, BlSpl, TeeSpl, SnpSpl, UcodeSpl, FmcSpl, HwId] {
        let omitted = accepted(&|forge| forge.vek.omit.push(extension));
        assert_eq!(reason(&omitted), Some(Reason::ChainUntrusted), "without {extension:?}");
        let repeated = accepted(&|forge| forge.vek.repeat.push(extension));
        assert_eq!(reason(&repeated), Some(Reason::ChainUntrusted), "twice {extension:?}");
    }
}

#[test]
fn every_version_and_product_has_a_fixture_that_passes() {
    for (product, keys) in [(Product::Genoa, ""), (Product::Milan, MILAN), (Product::Turin, "")] {
        for version in [2, 3, 4, 5] {
            let verdict = judge(&Forge::new(product, 7, NOW).version(version), |_| {}, &policy(keys, SIMULATED));
            assert!(verdict.is_ok(), "{product:?} version {version}: {verdict:?}");
        }
    }
}

#[test]
fn no_flipped_bit_of_a_report_is_accepted() {
    let appraiser = policy("", SIMULATED);
    let verifier = platform::by_name("sev-snp").expect("the platform").verifier;
    let quote = Forge::new(Product::Genoa, 7, NOW).quote(&ReportData([0x77; 64]));
    let accepts = |bytes: Vec<u8>| {
        let evidence = Evidence { bytes, ..quote.evidence.clone() };
        appraiser.examine(verifier, &evidence, &quote.endorsements, &NoMemo, NOW).is_ok()
    };
    assert!(accepts(quote.evidence.bytes.clone()), "the fixture passes");
    let accepted: Vec<_> = flips(&quote.evidence.bytes).filter(|(_, flipped)| accepts(flipped.clone())).map(|(at, _)| at).collect();
    assert_eq!(accepted, Vec::<usize>::new(), "offsets of flipped bits");
}

#[test]
fn no_flipped_bit_of_what_the_vendor_signed_is_accepted() {
    let appraiser = policy("", SIMULATED);
    let verifier = platform::by_name("sev-snp").expect("the platform").verifier;
    let quote = Forge::new(Product::Genoa, 7, NOW).quote(&ReportData([0x77; 64]));
    let examine = |endorsements: &Endorsements| appraiser.examine(verifier, &quote.evidence, endorsements, &NoMemo, NOW);
    let claims = examine(&quote.endorsements).expect("the fixture passes").claims().clone();
    let all: Vec<Endorsement> = quote.endorsements.iter().cloned().collect();
    assert_eq!(all.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["vcek", "ask", "crl"]);
    for (place, endorsement) in all.iter().enumerate() {
        let unsigned = unsigned(&endorsement.bytes);
        for (at, bytes) in flips(&endorsement.bytes) {
            let mut flipped = all.clone();
            flipped[place].bytes = bytes;
            if let Ok(appraisal) = examine(&flipped.into_iter().collect()) {
                // The frame around what is signed repeats what is inside; the parser reads it less strictly.
                assert!(unsigned.contains(&at), "{}: bit flipped at {at:#x} of {:#x}", endorsement.name, endorsement.bytes.len());
                assert_eq!(appraisal.claims(), &claims, "{} at {at:#x}", endorsement.name);
            }
        }
    }
}

/// A wrong code fails: for each region of the certificates and of the revocation list that a peer staples. A list that is not as
/// the root signed it is as good as none, whatever was changed in it; a policy that does without one is told that it has none.
#[test]
fn each_region_of_what_the_vendor_signed_has_its_code() {
    let (strict, lenient) = (policy("", SIMULATED), policy("", r#", "insecure_roots": ["simulator"], "insecure_allow_missing_crl": true"#));
    let verifier = platform::by_name("sev-snp").expect("the platform").verifier;
    let (mut wrong, mut told) = (Vec::new(), BTreeMap::<String, usize>::new());
    // A list that names another certificate, and one that names this chain's: whose name does not go away by changing it.
    let forge = Forge::new(Product::Genoa, 7, NOW);
    for (serial, expect) in [(0x7777, None), (forge.vendor.serial(Role::Ask), Some(Reason::ChainRevoked))] {
        let mut forge = forge.clone();
        forge.crl.revoked.push((serial, NOW.minus(DAY)));
        let (bind, binding) = binding(&[]);
        let Quote { evidence, endorsements } = forge.quote(&binding.expected().long);
        let all: Vec<Endorsement> = endorsements.iter().cloned().collect();
        let judged = |appraiser: &Appraiser, endorsements: Vec<Endorsement>| {
            let presented = Collection { tee: evidence.clone(), bind: bind.clone(), endorsements: endorsements.into_iter().collect() };
            appraiser.judge(verifier, &presented, &binding, &NoMemo, NOW)
        };
        assert_eq!(judged(&strict, all.clone()).err().map(|denied| denied.reason()), expect);
        assert_eq!(judged(&lenient, all.clone()).err().map(|denied| denied.reason()), expect);
        for (which, endorsement) in all.iter().enumerate() {
            let regions = match endorsement.name.as_str() {
                "crl" => listed(&endorsement.bytes),
                _ if expect.is_some() => continue,
                _ => signed::certified(&endorsement.bytes).map(|region| ("certificate", region, Reason::ChainUntrusted)).to_vec(),
            };
            for (what, region, code) in regions {
                for at in region.clone().step_by(region.len().div_ceil(24)) {
                    let mut all = all.clone();
                    all[which].bytes[at] ^= 1 << (at % 8);
                    let verdict = judged(&strict, all.clone()).map(drop).map_err(|denied| denied.reason());
                    *told.entry(format!("{} {what}: {code}", endorsement.name)).or_default() += 1;
                    // Without the list nothing is known of revocation, and that is said.
                    let without = endorsement.name != "crl" || judged(&lenient, all).is_ok_and(|result| !result.appraisal().revocation_checked());
                    if verdict != Err(code) || !without {
                        wrong.push(format!("{} {what}, octet {at:#x}: {verdict:?}, not {code:?}; without: {without}", endorsement.name));
                    }
                }
            }
        }
    }
    println!("{told:#?}");
    assert_eq!(told.len(), 9, "{told:#?}");
    assert!(wrong.is_empty(), "{} octets: {wrong:#?}", wrong.len());
}

/// The regions of a revocation list that names one certificate.
fn listed(der: &[u8]) -> Vec<(&'static str, Range<usize>, Reason)> {
    use x509_parser::prelude::FromDer as _;
    let (_, list) = x509_parser::revocation_list::CertificateRevocationList::from_der(der).expect("a list");
    let (body, issuer) = (signed::place(der, list.tbs_cert_list.as_ref()), signed::place(der, list.issuer().as_raw()));
    // Two dates of fifteen octets each, the list of one certificate, the extensions.
    let dates = issuer.end..issuer.end + 30;
    let named = dates.end..dates.end + 2 + usize::from(der[dates.end + 1]);
    let signature = signed::place(der, list.signature_value.as_ref());
    [
        ("version and algorithm", body.start..issuer.start),
        ("issuer", issuer),
        ("this update", dates.start..dates.start + 15),
        ("next update", dates.start + 15..dates.end),
        ("serial number and date of a revoked certificate", named.clone()),
        ("extensions", named.end..body.end),
        ("signature", signature),
    ]
    .map(|(what, region)| (what, region, Reason::CollateralUnavailable))
    .to_vec()
}

/// `octets` with one bit flipped, for each of its octets; which bit goes round.
fn flips(octets: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..octets.len()).map(|at| {
        let mut flipped = octets.to_vec();
        flipped[at] ^= 1 << (at * 5 % 8);
        (at, flipped)
    })
}

/// The octets of a certificate or list between what is signed and its signature: the repeated algorithm, the tag and the
/// length of the signature.
fn unsigned(der: &[u8]) -> Range<usize> {
    // SEQUENCE { SEQUENCE to be signed, SEQUENCE algorithm, BIT STRING of 512 octets }, each with a length of two octets.
    let [0x30, 0x82, _, _, 0x30, 0x82, high, low, ..] = der else { panic!("a signed document") };
    8 + usize::from(u16::from_be_bytes([*high, *low]))..der.len() - 512
}

#[test]
fn an_attester_that_signs_other_report_data_is_refused() {
    use portcullis::attester::Attester as _;
    let attester = Forge::new(Product::Genoa, 7, NOW).attester();
    attester.misbehave(Fault::OtherReportData);
    let (bind, binding) = binding(&[]);
    let quote = attester.attest(binding.expected()).expect("a quote");
    let verifier = platform::by_name("sev-snp").expect("the platform").verifier;
    let presented = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
    let judged = policy("", SIMULATED).judge(verifier, &presented, &binding, &NoMemo, NOW).map(drop);
    assert_eq!(reason(&judged), Some(Reason::BindingMismatch));
}

/// AMD's numbers for EntrySign (AMD-SB-3019), one for each stepping: of two products of a line neither says anything of the other.
#[test]
fn microcode_is_held_to_the_number_of_its_own_stepping() {
    const NUMBERS: [(Product, [u8; 3], u8); 5] = [
        (Product::Milan, [0x19, 0x01, 1], 0xdb),
        (Product::Milan, [0x19, 0x01, 2], 0x44),
        (Product::Genoa, [0x19, 0x11, 1], 0x54),
        (Product::Genoa, [0x19, 0x11, 2], 0x4f),
        (Product::Genoa, [0x19, 0xa0, 2], 0x19),
    ];
    let short = |product: Product, cpuid: Option<[u8; 3]>, microcode: u8| {
        let mut forge = Forge::new(product, 1, NOW).tcb(Tcb { fmc: None, bootloader: 10, tee: 0, snp: 0x20, microcode });
        match cpuid {
            Some(_) => forge.report.cpuid = cpuid,
            None => forge = forge.version(2),
        }
        let quote = forge.quote(&ReportData([0; 64]));
        let platform = platform::of_evidence(&quote.evidence).expect("a platform");
        let (policy, _) = AppraisalPolicy::load(br#"{ "version": 1, "name": "p", "insecure_roots": ["simulator"], "accept": [] }"#, &platform::vocabularies())
            .unwrap_or_else(|problems| panic!("{problems:?}"));
        let anchors = platform::anchors(&policy);
        let grounds = portcullis::verify::Grounds {
            anchors: &anchors,
            revocation: portcullis::policy::Revocation::Required,
            references: portcullis::policy::References::Required,
            memo: &NoMemo,
            now: NOW,
        };
        platform.verifier.standing(&quote.evidence, &quote.endorsements, &grounds).expect("a standing").short
    };
    for (product, cpuid, least) in NUMBERS {
        assert_eq!(short(product, Some(cpuid), least), [], "{cpuid:?}");
        let found = short(product, Some(cpuid), least - 1);
        assert_eq!(found.iter().map(|short| (short.found, short.needed)).collect::<Vec<_>>(), [(u64::from(least - 1), u64::from(least)); 4]);
        assert!(found.iter().all(|short| short.source.starts_with("AMD-SB-3019")), "{found:?}");
    }
    assert_eq!(short(Product::Genoa, Some([0x19, 0x11, 7]), 0), [], "of a stepping without a number nothing is said");
    assert_eq!(short(Product::Genoa, None, 0), [], "nor of a report that does not tell");
}
