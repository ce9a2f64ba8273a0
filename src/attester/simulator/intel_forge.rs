//! One simulated machine with its guest or enclave, everything its evidence says settable.

use super::forge::Patch;
use super::intel_certificates::{CrlList, IntelCa, Key, PckCertificate};
use super::intel_collateral::{IntelCollateral, Level};
use crate::attester::Quote;
use crate::crypto::{sha256, sha384, sha512};
use crate::evidence::eventlog::{Event, Log};
use crate::evidence::intel::log::Events;
use crate::evidence::intel::{self, Body, EnclaveReport, MEDIA_TYPE, Newer, TdReport, VENDOR, certification};
use crate::evidence::tpm::Hash;
use crate::evidence::{Endorsement, Endorsements, Evidence, ReportData, Timestamp};

const DAY: u64 = 86_400;

/// The claims of a trust domain that can be set; the first is its measurement.
pub(super) const TDX_CLAIMS: &[&str] = &[
    "mrtd",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
    "mrseam",
    "mrservicetd",
    "mrsignerseam",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "seam_attributes",
    "td_attributes",
    "tee_tcb_svn",
    "tee_tcb_svn2",
    "xfam",
    "fmspc",
    "ppid",
];

/// The claims of an enclave that can be set; the first is its measurement.
pub(super) const SGX_CLAIMS: &[&str] = &[
    "mrenclave",
    "attributes",
    "config_id",
    "config_svn",
    "cpu_svn",
    "isv_ext_prod_id",
    "isv_family_id",
    "isv_prod_id",
    "isv_svn",
    "misc_select",
    "mrsigner",
    "fmspc",
    "ppid",
];

/// Everything that goes into evidence. The constructors give what the default rules accept; the fields change one thing
/// each, which is how evidence that must be refused is made.
#[derive(Clone, Debug)]
pub struct IntelForge {
    /// Who certifies the machine and signs its collateral.
    pub ca: IntelCa,
    /// Who signs the collateral, where it is another.
    pub collateral_ca: IntelCa,
    /// Part of what the machine's keys are derived from.
    pub seed: u64,
    /// The quote. Its report data, keys, certificates and signatures are written when it is made.
    pub quote: intel::Quote,
    /// Octets changed in the encoded quote before it is signed.
    pub patches: Vec<Patch>,
    /// Octets changed in the finished quote.
    pub late_patches: Vec<Patch>,
    /// What is put behind the finished quote.
    pub trailing: Vec<u8>,
    /// What the quoting enclave binds beside the key's digest: zeros.
    pub qe_report_tail: [u8; 32],
    /// Whether the quoting enclave binds another attestation key than the one that signs.
    pub binds_other_key: bool,
    /// The certificate of the machine.
    pub pck: PckCertificate,
    /// What Intel says of it.
    pub collateral: IntelCollateral,
    /// The root's revocation list.
    pub root_crl: CrlList,
    /// The intermediate's revocation list.
    pub pck_crl: CrlList,
    /// The event log that lies beside the quote.
    pub log: Option<Events>,
    /// Short names of endorsements that are not stapled.
    pub unstapled: Vec<&'static str>,
}

impl IntelForge {
    /// A trust domain of TD 1.0 in a version 4 quote.
    #[must_use]
    pub fn tdx10(seed: u64, now: Timestamp) -> Self {
        Self::of_trust_domain(4, None, seed, now)
    }

    /// A trust domain of TD 1.5 in a version 5 quote.
    #[must_use]
    pub fn tdx15(seed: u64, now: Timestamp) -> Self {
        Self::of_trust_domain(5, Some(Newer { tee_tcb_svn: TEE_TCB_SVN, mr_service_td: [0; 48] }), seed, now)
    }

    /// An enclave in a version 3 quote.
    #[must_use]
    pub fn sgx(seed: u64, now: Timestamp) -> Self {
        let report = EnclaveReport {
            cpu_svn: COMPONENTS,
            misc_select: 0,
            cet_attributes: 0,
            isv_ext_prod_id: [0; 16],
            attributes: [5, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0], // INIT, MODE64BIT
            mr_enclave: *b"portcullis simulator: no enclave",
            mr_signer: sha256(&[b"portcullis simulator: signer"]),
            config_id: [0; 64],
            isv_prod_id: 1,
            isv_svn: 1,
            config_svn: 0,
            isv_family_id: [0; 16],
            report_data: [0; 64],
        };
        Self::new(3, Body::Enclave(report), None, seed, now)
    }

    fn of_trust_domain(version: u16, newer: Option<Newer>, seed: u64, now: Timestamp) -> Self {
        let log = boot();
        let replayed = log.replay(Hash::Sha384).expect("the simulated log has SHA-384 digests");
        let register = |register: u32| replayed.get(&register).and_then(|value| value.as_slice().try_into().ok()).unwrap_or([0; 48]);
        let report = TdReport {
            tee_tcb_svn: TEE_TCB_SVN,
            mr_seam: sha384(&[b"portcullis simulator: module"]),
            mr_signer_seam: [0; 48],
            seam_attributes: [0; 8],
            td_attributes: 1 << 28,
            xfam: 0xe7,
            mr_td: super::MEASUREMENT,
            mr_config_id: [0; 48],
            mr_owner: [0; 48],
            mr_owner_config: [0; 48],
            rtmr: [1, 2, 3, 4].map(register),
            report_data: [0; 64],
            newer,
        };
        Self::new(version, Body::TrustDomain(report), Some(Events { firmware: log, guest: Vec::new() }), seed, now)
    }

    fn new(version: u16, body: Body, log: Option<Events>, seed: u64, now: Timestamp) -> Self {
        let enclave = matches!(body, Body::Enclave(_));
        let (mrsigner, isvprodid) = if enclave { (QE_SIGNER, 1) } else { (TD_QE_SIGNER, 2) };
        let mut ppid = [0; 16];
        ppid.copy_from_slice(&sha512(&[b"portcullis simulator: ppid", &seed.to_be_bytes()])[..16]);
        let qe_report = EnclaveReport {
            cpu_svn: COMPONENTS,
            misc_select: 0,
            cet_attributes: 0,
            isv_ext_prod_id: [0; 16],
            attributes: [0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0],
            mr_enclave: sha256(&[b"portcullis simulator: quoting enclave"]),
            mr_signer: mrsigner,
            config_id: [0; 64],
            isv_prod_id: isvprodid,
            isv_svn: 8,
            config_svn: 0,
            isv_family_id: [0; 16],
            report_data: [0; 64],
        };
        let level = |down: u8, status, advisories: &[&'static str]| Level {
            sgx: COMPONENTS.map(|svn| svn.saturating_sub(down)),
            pce_svn: 13,
            tdx: [5, 0, 6 - down, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            status,
            advisories: advisories.to_vec(),
        };
        let collateral = IntelCollateral {
            tcb_id: if enclave { "SGX" } else { "TDX" },
            qe_id: if enclave { "QE" } else { "TD_QE" },
            issued: now.minus(DAY),
            next_update: now.plus(29 * DAY),
            fmspc: FMSPC,
            pce_id: [0; 2],
            number: 21,
            levels: vec![level(0, "UpToDate", &[]), level(1, "OutOfDate", &["INTEL-SA-00001"])],
            module: vec![(5, "UpToDate"), (2, "OutOfDate")],
            quoting_enclave: vec![(8, "UpToDate"), (4, "OutOfDate")],
            mrsigner,
            isvprodid,
        };
        let crl = CrlList { this_update: now.minus(DAY), next_update: now.plus(29 * DAY), revoked: Vec::new() };
        Self {
            ca: IntelCa::new(),
            collateral_ca: IntelCa::new(),
            seed,
            quote: intel::Quote {
                version,
                svns: [0; 4],
                vendor: VENDOR,
                user_data: [0; 20],
                body,
                signature: [0; 64],
                attestation_key: [0; 64],
                qe_report,
                qe_signature: [0; 64],
                qe_auth: (0..32).collect(),
                certification_type: certification::PCK_CHAIN,
                certification: Vec::new(),
                padding: 0,
            },
            patches: Vec::new(),
            late_patches: Vec::new(),
            trailing: Vec::new(),
            qe_report_tail: [0; 32],
            binds_other_key: false,
            pck: PckCertificate {
                serial: 0x1_0000 + seed % 0x1_0000,
                ppid,
                components: COMPONENTS,
                pce_svn: 13,
                pce_id: [0; 2],
                fmspc: FMSPC,
                not_before: now.minus(30 * DAY),
                not_after: now.plus(7 * 365 * DAY),
            },
            collateral,
            root_crl: crl.clone(),
            pck_crl: crl,
            log,
            unstapled: Vec::new(),
        }
    }

    /// The report of the trust domain. Panics for an enclave: a mistake of the caller's.
    pub fn trust_domain(&mut self) -> &mut TdReport {
        match &mut self.quote.body {
            Body::TrustDomain(report) => report,
            Body::Enclave(_) => panic!("this forge makes enclaves"),
        }
    }

    /// The report of the enclave. Panics for a trust domain: a mistake of the caller's.
    pub fn enclave(&mut self) -> &mut EnclaveReport {
        match &mut self.quote.body {
            Body::Enclave(report) => report,
            Body::TrustDomain(_) => panic!("this forge makes trust domains"),
        }
    }

    /// Sets a claim by its name in `inspect`: octets in hex as the quote has them, numbers in decimal.
    ///
    /// # Errors
    /// A sentence about a claim that is not known or a value that does not fit.
    pub fn set(&mut self, claim: &str, value: &str) -> Result<(), String> {
        let pck = &mut self.pck;
        match claim {
            "fmspc" => {
                self.collateral.fmspc = hex(claim, value)?;
                pck.fmspc = self.collateral.fmspc;
                return Ok(());
            }
            "ppid" => {
                pck.ppid = hex(claim, value)?;
                return Ok(());
            }
            _ => {}
        }
        match &mut self.quote.body {
            Body::Enclave(report) => set_enclave(report, claim, value),
            Body::TrustDomain(report) => {
                if claim.starts_with("rtmr") {
                    // The log would tell of other values.
                    self.log = None;
                }
                set_trust_domain(report, claim, value)
            }
        }
    }

    /// Evidence over `report_data`, with its endorsements.
    #[must_use]
    pub fn quote(&self, report_data: &ReportData) -> Quote {
        Quote { evidence: Evidence::new(MEDIA_TYPE, self.sign(report_data)), endorsements: self.endorsements() }
    }

    /// The endorsements that are stapled.
    #[must_use]
    pub fn endorsements(&self) -> Endorsements {
        let all = [
            ("tcb_info", Endorsement::SIGNED_JSON, self.collateral.signed_tcb_info(&self.collateral_ca)),
            ("qe_identity", Endorsement::SIGNED_JSON, self.collateral.signed_qe_identity(&self.collateral_ca)),
            ("pck_crl", Endorsement::REVOCATION_LIST, self.ca.pck_crl(&self.pck_crl)),
            ("root_crl", Endorsement::REVOCATION_LIST, self.ca.root_crl(&self.root_crl)),
        ];
        let stapled = all.into_iter().filter(|(name, ..)| !self.unstapled.contains(name));
        stapled.map(|(name, media_type, bytes)| Endorsement { name: name.to_owned(), media_type: media_type.to_owned(), bytes }).collect()
    }

    /// A quote over `report_data`, signed and encoded.
    #[must_use]
    pub fn sign(&self, report_data: &ReportData) -> Vec<u8> {
        let seed = self.seed.to_be_bytes();
        let (pck, attestation) = (Key::derive(&[b"pck", &seed]), Key::derive(&[b"attestation key", &seed]));
        let mut quote = self.quote.clone();
        match &mut quote.body {
            Body::Enclave(report) => report.report_data = report_data.0,
            Body::TrustDomain(report) => report.report_data = report_data.0,
        }
        quote.attestation_key.copy_from_slice(&attestation.point()[1..]);
        let key = if self.binds_other_key { [0x5a; 64] } else { quote.attestation_key };
        let bound = sha256(&[&key, &quote.qe_auth]);
        quote.qe_report.report_data = [bound, self.qe_report_tail].concat().try_into().expect("two halves of 32 octets");
        quote.qe_signature = pck.sign(&quote.qe_report.encode());
        if quote.certification_type == certification::PCK_CHAIN {
            // As genuine quotes have it: a NUL behind the text.
            quote.certification = [self.ca.pck_chain(&self.pck, pck.point()), vec![0]].concat();
        }
        let mut signed = quote.signed_part();
        patch(&mut signed, &self.patches);
        quote.signature = attestation.sign(&signed);
        let mut bytes = quote.encode();
        bytes.splice(..signed.len(), signed);
        patch(&mut bytes, &self.late_patches);
        bytes.extend(&self.trailing);
        bytes
    }
}

fn patch(bytes: &mut [u8], patches: &[Patch]) {
    for Patch { offset, octets } in patches {
        bytes.iter_mut().skip(*offset).zip(octets).for_each(|(byte, octet)| *byte = *octet);
    }
}

fn set_trust_domain(report: &mut TdReport, claim: &str, value: &str) -> Result<(), String> {
    let older = || format!("{claim}: a trust domain of TD 1.0 has none");
    match claim {
        "mrtd" => report.mr_td = hex(claim, value)?,
        "mr_config_id" => report.mr_config_id = hex(claim, value)?,
        "mr_owner" => report.mr_owner = hex(claim, value)?,
        "mr_owner_config" => report.mr_owner_config = hex(claim, value)?,
        "mrseam" => report.mr_seam = hex(claim, value)?,
        "mrsignerseam" => report.mr_signer_seam = hex(claim, value)?,
        "mrservicetd" => report.newer.as_mut().ok_or_else(older)?.mr_service_td = hex(claim, value)?,
        "rtmr0" => report.rtmr[0] = hex(claim, value)?,
        "rtmr1" => report.rtmr[1] = hex(claim, value)?,
        "rtmr2" => report.rtmr[2] = hex(claim, value)?,
        "rtmr3" => report.rtmr[3] = hex(claim, value)?,
        "seam_attributes" => report.seam_attributes = hex(claim, value)?,
        "td_attributes" => report.td_attributes = u64::from_le_bytes(hex(claim, value)?),
        "tee_tcb_svn" => report.tee_tcb_svn = hex(claim, value)?,
        "tee_tcb_svn2" => report.newer.as_mut().ok_or_else(older)?.tee_tcb_svn = hex(claim, value)?,
        "xfam" => report.xfam = u64::from_le_bytes(hex(claim, value)?),
        _ => return Err(format!("unknown claim {claim}")),
    }
    Ok(())
}

fn set_enclave(report: &mut EnclaveReport, claim: &str, value: &str) -> Result<(), String> {
    let number = || value.parse::<u16>().map_err(|_| format!("{claim}: expected a number below 65536, found \"{value}\""));
    match claim {
        "attributes" => report.attributes = hex(claim, value)?,
        "config_id" => report.config_id = hex(claim, value)?,
        "config_svn" => report.config_svn = number()?,
        "cpu_svn" => report.cpu_svn = hex(claim, value)?,
        "isv_ext_prod_id" => report.isv_ext_prod_id = hex(claim, value)?,
        "isv_family_id" => report.isv_family_id = hex(claim, value)?,
        "isv_prod_id" => report.isv_prod_id = number()?,
        "isv_svn" => report.isv_svn = number()?,
        "misc_select" => report.misc_select = number()?.into(),
        "mrenclave" => report.mr_enclave = hex(claim, value)?,
        "mrsigner" => report.mr_signer = hex(claim, value)?,
        _ => return Err(format!("unknown claim {claim}")),
    }
    Ok(())
}

fn hex<const N: usize>(claim: &str, value: &str) -> Result<[u8; N], String> {
    let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok();
    octets.and_then(|octets| octets.try_into().ok()).ok_or_else(|| format!("{claim}: expected {} hex digits, found \"{value}\"", 2 * N))
}

/// The log of a simulated boot: firmware, configuration, kernel, command line.
fn boot() -> Log {
    const SEPARATOR: u32 = 4;
    const PLATFORM_CONFIG: u32 = 10;
    const BOOT_SERVICES: u32 = 0x8000_0003;
    const IPL: u32 = 13;
    let mut log = Log::empty(&[Hash::Sha384]);
    let events: [(u32, u32, &[u8]); 4] = [
        (1, PLATFORM_CONFIG, b"simulated configuration"),
        (1, SEPARATOR, &[0; 4]),
        (2, BOOT_SERVICES, b"simulated kernel"),
        (3, IPL, b"simulated command line"),
    ];
    for (register, kind, data) in events {
        log.events.push(Event { register, kind, digests: vec![(Hash::Sha384.id(), sha384(&[data]).to_vec())], data: data.to_vec() });
    }
    log
}

/// What machines of 2025 have.
const COMPONENTS: [u8; 16] = [11, 11, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
const TEE_TCB_SVN: [u8; 16] = [5, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const FMSPC: [u8; 6] = [0xc0, 0x80, 0x6f, 0, 0, 0];

/// MRSIGNER of Intel's quoting enclave for SGX.
const QE_SIGNER: [u8; 32] = [
    0x8c, 0x4f, 0x57, 0x75, 0xd7, 0x96, 0x50, 0x3e, 0x96, 0x13, 0x7f, 0x77, 0xc6, 0x8a, 0x82, 0x9a, 0x00, 0x56, 0xac, 0x8d, 0xed, 0x70, 0x14, 0x0b, 0x08, 0x1b,
    0x09, 0x44, 0x90, 0xc5, 0x7b, 0xff,
];

/// MRSIGNER of Intel's quoting enclave for TDX.
const TD_QE_SIGNER: [u8; 32] = [
    0xdc, 0x9e, 0x2a, 0x7c, 0x6f, 0x94, 0x8f, 0x17, 0x47, 0x4e, 0x34, 0xa7, 0xfc, 0x43, 0xed, 0x03, 0x0f, 0x7c, 0x15, 0x63, 0xf1, 0xba, 0xbd, 0xdf, 0x63, 0x40,
    0xc8, 0x2e, 0x0e, 0x54, 0xa8, 0xc5,
];
