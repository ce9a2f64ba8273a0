//! The entries for what tells of a boot: a vTPM's quotes, the paravisor's report, event logs, and the images that are measured.

use portcullis::attester::qgs;
use portcullis::attester::simulator::{AzureForge, LaunchForge, LaunchHardware, VtpmAuthority, VtpmForge, ordinary_log};
use portcullis::collateral;
use portcullis::evidence::eventlog::Log;
use portcullis::evidence::hcl::{HclReport, RuntimeClaims};
use portcullis::evidence::launch::{Golden, LaunchEndorsement};
use portcullis::evidence::snp::Product;
use portcullis::evidence::tpm::{Attest, Hash, Instance, Member, Signature};
use portcullis::measure::{eif, snp, tdx};
use portcullis::verify::tpm::{AttestationKey, prove};

use super::NOW;

/// A vTPM's quote with its registers, certificates and log, proven with whatever key came along.
pub(crate) fn tpm_member(data: &[u8]) -> bool {
    let Ok(member) = Member::parse(data) else { return false };
    let signature = member.signature.encode();
    assert_eq!(Member::encode(&member.signed, &signature, &member.pcrs, &member.extras), data, "accepted another encoding");
    assert_eq!(Attest::parse(&member.signed).as_ref(), Ok(&member.quote));
    assert_eq!(Signature::parse(&signature).as_ref(), Ok(&member.signature));
    for certificate in &member.extras.certificates {
        let _ = Instance::of_certificate(certificate);
        if let Ok(key) = AttestationKey::of_certificate(certificate) {
            let _ = prove(&member, &key);
        }
    }
    true
}

pub(crate) fn tpm_member_seeds() -> Vec<Vec<u8>> {
    let mut full = VtpmForge::new(1);
    full.extras.certificates = VtpmAuthority::Google.certify(full.key, "instance-1", NOW);
    full.extras.log = Some(ordinary_log().encode());
    vec![VtpmForge::new(1).quote(&[7; 48]), full.quote(&[7; 48])]
}

/// The report of Azure's paravisor and the claims in it.
pub(crate) fn hcl_report(data: &[u8]) -> bool {
    let Ok(report) = HclReport::parse(data) else { return false };
    assert_eq!(report.encode(), data, "accepted another encoding");
    RuntimeClaims::parse(&report.claims).is_ok()
}

pub(crate) fn hcl_report_seeds() -> Vec<Vec<u8>> {
    let mut padded = AzureForge::new(Product::Genoa, 1, NOW).report();
    padded.padding = 40;
    vec![padded.encode(), AzureForge::tdx(1, NOW).report().encode()]
}

/// Google's endorsement of firmware, which is a protocol buffer.
pub(crate) fn launch_endorsement(data: &[u8]) -> bool {
    let Ok(endorsement) = LaunchEndorsement::parse(data) else { return false };
    assert_eq!(Golden::parse(&endorsement.golden.encode()).as_ref(), Ok(&endorsement.golden), "what was read is written as something else");
    let again = LaunchEndorsement::encode(&endorsement.signed, &endorsement.signature);
    assert_eq!(LaunchEndorsement::parse(&again).as_ref(), Ok(&endorsement), "what was read is written as something else");
    true
}

pub(crate) fn launch_endorsement_seeds() -> Vec<Vec<u8>> {
    [LaunchHardware::SevSnp, LaunchHardware::Tdx].map(|hardware| LaunchForge::new(hardware, [7; 48], NOW).sign()).to_vec()
}

/// What a host's quote generation service answers.
pub(crate) fn quote_service(data: &[u8]) -> bool {
    qgs::answer(data).is_ok_and(|quote| quote.len() < data.len())
}

pub(crate) fn quote_service_seeds() -> Vec<Vec<u8>> {
    let body = [&16_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), &[7; 16], b"quote"].concat();
    vec![[&[1, 0, 1, 0, 1, 0, 0, 0][..], &45_u32.to_le_bytes(), &[0; 4], &body].concat()]
}

/// A firmware's event log, replayed in every bank.
pub(crate) fn event_log(data: &[u8]) -> bool {
    let Ok(log) = Log::parse(data) else { return false };
    assert_eq!(Log::parse(&log.encode()).as_ref(), Ok(&log), "what was read is written as something else");
    for bank in Hash::ALL {
        if let Ok(registers) = log.replay(bank) {
            assert!(registers.values().all(|value| value.len() == bank.size()));
        }
    }
    true
}

pub(crate) fn event_log_seeds() -> Vec<Vec<u8>> {
    let one = ordinary_log().encode();
    vec![[one.as_slice(), &[0xff; 30]].concat(), Log::empty(&[Hash::Sha1, Hash::Sha384]).encode(), one]
}

/// Images that are measured: firmware and enclave images.
pub(crate) fn images(data: &[u8]) -> bool {
    let direct = || snp::Direct { kernel: b"kernel", initrd: b"initrd", cmdline: "quiet" };
    let launch = snp::Launch { firmware: data, direct: Some(direct()), vcpus: 2, vcpu_signature: 0x00a0_0f11, hypervisor: snp::Hypervisor::Qemu, features: 1 };
    let firmware = snp::measure(&launch).is_ok() | tdx::measure(data, tdx::Order::PageByPage, None).is_ok();
    eif::measure(data).is_ok() | firmware
}

pub(crate) fn images_seeds() -> Vec<Vec<u8>> {
    let sections: [(u16, &[u8]); 3] = [(1, b"kernel"), (2, b"quiet"), (3, b"disk")];
    let mut image = [b".eif".as_slice(), &[0, 4], &[0; 542]].concat();
    image[27] = 3;
    for (at, (kind, content)) in sections.iter().enumerate() {
        let start = u64::try_from(image.len()).unwrap_or_default();
        image[28 + 8 * at..36 + 8 * at].copy_from_slice(&start.to_be_bytes());
        image.extend([kind.to_be_bytes(), [0, 0]].concat());
        image.extend(u64::try_from(content.len()).unwrap_or_default().to_be_bytes());
        image.extend(*content);
    }
    vec![image]
}

/// What a source of collateral answers, and a bundle of such answers.
pub(crate) fn collateral_item(data: &[u8]) -> bool {
    let bundle = collateral::read_bundle(data).is_ok();
    match collateral::read("crl", data, Some("-----BEGIN CERTIFICATE-----")) {
        Ok(read) => {
            assert_eq!(collateral::endorsed(read.endorsement.clone()).as_ref(), Ok(&read), "what was read is read otherwise when it is kept");
            true
        }
        Err(_) => bundle,
    }
}

pub(crate) fn collateral_item_seeds() -> Vec<Vec<u8>> {
    let forge = portcullis::attester::simulator::Forge::new(Product::Genoa, 1, NOW);
    let endorsements = forge.endorsements();
    let of = |name: &str| endorsements.find(name).unwrap_or_default().to_vec();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", data_encoding::BASE64.encode(&of("ask")));
    let json = br#"{"tcbInfo":{"id":"TDX","issueDate":"2026-10-01T00:00:00Z","nextUpdate":"2026-10-31T00:00:00Z"},"signature":"00"}"#;
    vec![of("ask"), of("crl"), data_encoding::HEXLOWER.encode(&of("crl")).into_bytes(), pem.into_bytes(), json.to_vec()]
}
