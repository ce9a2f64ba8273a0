//! One simulated machine and its guest, everything its evidence says settable.

use super::MEASUREMENT;
use super::authority::{Role, SimulatedVendor};
use super::certificate::{Trailer, VekCertificate};
use super::keys::VekKey;
use super::machine::SimulatedAttester;
use super::revocation::RevocationList;
use crate::attester::Quote;
use crate::crypto::sha512;
use crate::evidence::snp::{Firmware, MEDIA_TYPE, Product, REPORT_SIZE, Report, SIGNED_SIZE, SigningKey, Tcb, VekKind};
use crate::evidence::{Endorsement, Endorsements, Evidence, ReportData, Timestamp};

/// Everything that goes into evidence. [`Forge::new`] gives a machine and a guest that the default rules accept.
///
/// The methods change the report and the certificate together, so that they go on agreeing; the fields change one of
/// them alone, which is how evidence that must be refused is made.
#[derive(Clone, Debug)]
pub struct Forge {
    /// Who endorses the machine. [`SimulatedVendor::impostor`] for a root that nobody trusts.
    pub vendor: SimulatedVendor,
    /// Part of what the machine's key and identifiers are derived from: the same seed is the same machine.
    pub seed: u64,
    /// The report. Its REPORT_DATA and signature are written when it is made.
    pub report: Report,
    /// Octets changed in the encoded report before it is signed: for what [`Report`] cannot say.
    pub patches: Vec<Patch>,
    /// The certificate of the key that signs it.
    pub vek: VekCertificate,
    /// The revocation list.
    pub crl: RevocationList,
    /// Short names of endorsements that are not stapled. `ark` never is: verifiers have their own.
    pub unstapled: Vec<&'static str>,
    /// What is stapled beside them.
    pub further: Vec<Endorsement>,
}

/// Octets at an offset of the encoded report.
#[derive(Clone, Debug)]
pub struct Patch {
    /// From the report's front; what lies behind the signed part is overwritten by the signature.
    pub offset: usize,
    /// What is written there.
    pub octets: Vec<u8>,
}

impl Forge {
    /// A machine of `product` with firmware of 2025, and an ordinary guest in it, whose certificate and revocation list
    /// are current at `now`: a version 5 report signed by a VCEK that is good for 7 years since a day ago.
    #[must_use]
    pub fn new(product: Product, seed: u64, now: Timestamp) -> Self {
        const DAY: u64 = 86_400;
        let (tcb, cpuid, product_name, trailer) = ordinary(product);
        let chip_id = chip_id(product, seed);
        let raw_tcb = tcb.encode(product);
        let firmware = Firmware { major: 1, minor: 55, build: 43 };
        let report = Report {
            version: 5,
            guest_svn: 0,
            policy: 0x3_0000, // SMT allowed, and the bit that is always 1
            family_id: [0; 16],
            image_id: [0; 16],
            vmpl: 0,
            sig_algo: 1,
            current_tcb: raw_tcb,
            platform_info: 0x25, // SMT_EN, ECC_EN, ALIAS_CHECK_COMPLETE
            key_info: 0,
            report_data: [0; 64],
            measurement: MEASUREMENT,
            host_data: [0; 32],
            id_key_digest: [0; 48],
            author_key_digest: [0; 48],
            report_id: half(&sha512(&[b"portcullis simulator: report id", &seed.to_be_bytes()])),
            report_id_ma: [0xff; 32],
            reported_tcb: raw_tcb,
            cpuid: Some(cpuid),
            chip_id,
            committed_tcb: raw_tcb,
            current_firmware: firmware,
            committed_firmware: firmware,
            launch_tcb: raw_tcb,
            mit_vectors: [1, 1],
            signature: [0; REPORT_SIZE - SIGNED_SIZE],
        };
        let vek = VekCertificate {
            kind: VekKind::Vcek,
            product,
            product_name: product_name.to_owned(),
            tcb,
            hwid: hwid(product, &chip_id),
            csp_id: "CN=cloud.simulator.invalid".to_owned(),
            not_before: now.minus(DAY),
            not_after: now.plus(7 * 365 * DAY),
            omit: Vec::new(),
            repeat: Vec::new(),
            trailer,
        };
        let (vendor, crl) = (SimulatedVendor::new(product), RevocationList::at(now));
        Self { vendor, seed, report, patches: Vec::new(), vek, crl, unstapled: Vec::new(), further: Vec::new() }
    }

    /// The report in another version, 2 to 5, with what that version has.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.report.version = version;
        self.report.cpuid = (version >= 3).then(|| ordinary(self.vek.product).1);
        self.report.mit_vectors = if version >= 5 { [1, 1] } else { [0, 0] };
        self
    }

    /// Another launch measurement.
    #[must_use]
    pub const fn measurement(mut self, measurement: [u8; 48]) -> Self {
        self.report.measurement = measurement;
        self
    }

    /// Another TCB: reported, committed, current, at launch and in the certificate.
    #[must_use]
    pub const fn tcb(mut self, tcb: Tcb) -> Self {
        let raw = tcb.encode(self.vek.product);
        self.report.reported_tcb = raw;
        self.report.committed_tcb = raw;
        self.report.current_tcb = raw;
        self.report.launch_tcb = raw;
        self.vek.tcb = tcb;
        self
    }

    /// Another chip, in the report and in the certificate. Turin's identifier is the first 8 octets, the rest are zero.
    #[must_use]
    pub fn chip(mut self, chip_id: [u8; 64]) -> Self {
        self.report.chip_id = chip_id;
        self.vek.hwid = hwid(self.vek.product, &chip_id);
        self
    }

    /// Signed by a cloud's key: a VLEK with this `cspID`, good for a year as genuine ones are.
    #[must_use]
    pub fn vlek(mut self, csp_id: &str) -> Self {
        self.report.key_info = (self.report.key_info & !0x1c) | (1 << 2);
        self.vek.kind = VekKind::Vlek;
        self.vek.product_name = self.vek.product.vendor_name().to_owned();
        self.vek.csp_id = csp_id.to_owned();
        self.vek.not_after = self.vek.not_before.plus(365 * 86_400);
        self
    }

    /// The certificate of the key that signs this machine's reports, DER.
    #[must_use]
    pub fn vek_certificate(&self) -> Vec<u8> {
        self.endorse(&self.key())
    }

    /// The endorsements that are stapled: `vcek` and `ask` (or `vlek` and `asvk`), `crl`.
    #[must_use]
    pub fn endorsements(&self) -> Endorsements {
        self.staple(&self.key())
    }

    /// A report over `report_data`, signed and encoded.
    #[must_use]
    pub fn report_over(&self, report_data: &ReportData) -> Vec<u8> {
        self.sign(&self.key(), report_data)
    }

    /// Evidence over `report_data` with its endorsements.
    #[must_use]
    pub fn quote(&self, report_data: &ReportData) -> Quote {
        let key = self.key();
        Quote { evidence: evidence(self.sign(&key, report_data)), endorsements: self.staple(&key) }
    }

    /// An attester that makes this evidence.
    #[must_use]
    pub fn attester(self) -> SimulatedAttester {
        SimulatedAttester::new(self)
    }

    /// The key of this machine: of its product, chip and reported TCB, as in the hardware, and of the seed.
    pub(super) fn key(&self) -> VekKey {
        let kind = match self.report.signing_key() {
            Some(SigningKey::Vlek) => VekKind::Vlek,
            _ => VekKind::Vcek,
        };
        VekKey::derive(&[self.vek.product.name().as_bytes(), kind.name().as_bytes(), &self.report.chip_id, &self.report.reported_tcb, &self.seed.to_be_bytes()])
    }

    pub(super) fn sign(&self, key: &VekKey, report_data: &ReportData) -> Vec<u8> {
        let mut bytes = Report { report_data: report_data.0, ..self.report.clone() }.encode();
        for Patch { offset, octets } in &self.patches {
            bytes.iter_mut().skip(*offset).zip(octets).for_each(|(byte, octet)| *byte = *octet);
        }
        bytes.truncate(SIGNED_SIZE);
        let signature = key.sign(&bytes);
        bytes.extend(Report::signature_field(&signature));
        bytes
    }

    pub(super) fn staple(&self, key: &VekKey) -> Endorsements {
        let issuer = Role::issuing(self.vek.kind);
        let all = [
            (self.vek.kind.name(), Endorsement::CERTIFICATE, self.endorse(key)),
            (issuer.name(), Endorsement::CERTIFICATE, self.vendor.certificate(issuer)),
            ("crl", Endorsement::REVOCATION_LIST, self.vendor.revoke(&self.crl)),
        ];
        let stapled = all.into_iter().filter(|(name, ..)| !self.unstapled.contains(name));
        let stapled = stapled.map(|(name, media_type, bytes)| Endorsement { name: name.to_owned(), media_type: media_type.to_owned(), bytes });
        stapled.chain(self.further.iter().cloned()).collect()
    }

    fn endorse(&self, key: &VekKey) -> Vec<u8> {
        self.vendor.endorse(&self.vek, key.public())
    }
}

/// A report as evidence.
pub(super) fn evidence(bytes: Vec<u8>) -> Evidence {
    Evidence::new(MEDIA_TYPE, bytes)
}

/// What machines with firmware of 2025 say: TCB, CPUID, `productName` in VCEKs, form of the VEK's signature parameters.
fn ordinary(product: Product) -> (Tcb, [u8; 3], &'static str, Trailer) {
    let tcb = |fmc, bootloader, snp, microcode| Tcb { fmc, bootloader, tee: 0, snp, microcode };
    match product {
        Product::Genoa => (tcb(None, 10, 25, 84), [0x19, 0x11, 0x01], "Genoa", Trailer::Default),
        Product::Milan => (tcb(None, 4, 24, 219), [0x19, 0x01, 0x01], "Milan-B0", Trailer::Explicit),
        Product::Turin => (tcb(Some(1), 1, 2, 71), [0x1a, 0x02, 0x01], "Turin", Trailer::Default),
    }
}

fn chip_id(product: Product, seed: u64) -> [u8; 64] {
    let mut chip_id = sha512(&[b"portcullis simulator: chip id", product.name().as_bytes(), &seed.to_be_bytes()]);
    if product == Product::Turin {
        chip_id[8..].fill(0);
    }
    chip_id
}

fn hwid(product: Product, chip_id: &[u8; 64]) -> Vec<u8> {
    match product {
        Product::Genoa | Product::Milan => chip_id.to_vec(),
        Product::Turin => chip_id[..8].to_vec(),
    }
}

fn half(digest: &[u8; 64]) -> [u8; 32] {
    let mut half = [0; 32];
    half.copy_from_slice(&digest[..32]);
    half
}
