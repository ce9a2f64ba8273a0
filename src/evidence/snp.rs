//! AMD SEV-SNP: the attestation report (SEV Secure Nested Paging Firmware ABI, table "ATTESTATION_REPORT Structure"),
//! its TCB versions, and the certificate of the key that signs it (VCEK or VLEK).
//!
//! A parsed report has been read, not believed. What the specification reserves must be zero.

pub mod saved;
pub mod table;
mod vek;

use super::{ClaimValue, Claims, ReportData};
use crate::refusal::{Denied, Finding, Reason};

pub use vek::{MAX_CERTIFICATE, Vek, VekKind};

/// The media type of a raw report.
pub const MEDIA_TYPE: &str = "application/vnd.amd.sev-snp.attestation-report";

/// The length of a report in octets.
pub const REPORT_SIZE: usize = 0x4a0;

/// The length of the part of a report that is signed, from its front.
pub const SIGNED_SIZE: usize = 0x2a0;

/// The processor lines, by the layout of their TCB versions and the roots of their keys.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Product {
    /// EPYC 9004, 97x4 and 8004 (CPUID 19h, models 10h-1Fh and A0h-AFh).
    Genoa,
    /// EPYC 7003 (CPUID 19h, models 00h-0Fh).
    Milan,
    /// EPYC 9005 (CPUID 1Ah, models 00h-11h).
    Turin,
}

impl Product {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Genoa, Self::Milan, Self::Turin];

    /// Its name in policies and claims.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Genoa => "genoa",
            Self::Milan => "milan",
            Self::Turin => "turin",
        }
    }

    /// Its name in certificates and in the paths of the vendor's service.
    #[must_use]
    pub const fn vendor_name(self) -> &'static str {
        match self {
            Self::Genoa => "Genoa",
            Self::Milan => "Milan",
            Self::Turin => "Turin",
        }
    }

    /// The product with this CPUID family and model (extended ones added in).
    #[must_use]
    pub const fn of_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Self::Genoa),
            (0x1a, 0x00..=0x11) => Some(Self::Turin),
            _ => None,
        }
    }

    /// The product that a certificate's `productName` extension names, with or without a stepping (`Milan-B0`).
    #[must_use]
    pub fn of_product_name(name: &str) -> Option<Self> {
        let line = name.split_once('-').map_or(name, |(line, _)| line);
        Self::ALL.into_iter().find(|product| product.vendor_name() == line)
    }
}

/// A TCB_VERSION, taken apart in its product's layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tcb {
    /// Security version of the FMC; Turin and later.
    pub fmc: Option<u8>,
    /// Security version of the bootloader.
    pub bootloader: u8,
    /// Security version of the PSP operating system.
    pub tee: u8,
    /// Security version of the SNP firmware.
    pub snp: u8,
    /// Lowest microcode patch level of all cores.
    pub microcode: u8,
}

impl Tcb {
    /// Takes apart the eight octets of a report. The octets that the layout reserves must be zero.
    #[must_use]
    pub const fn parse(raw: [u8; 8], product: Product) -> Option<Self> {
        match (product, raw) {
            (Product::Genoa | Product::Milan, [bootloader, tee, 0, 0, 0, 0, snp, microcode]) => Some(Self { fmc: None, bootloader, tee, snp, microcode }),
            (Product::Turin, [fmc, bootloader, tee, snp, 0, 0, 0, microcode]) => Some(Self { fmc: Some(fmc), bootloader, tee, snp, microcode }),
            _ => None,
        }
    }

    /// The eight octets of a report.
    #[must_use]
    pub const fn encode(self, product: Product) -> [u8; 8] {
        let Self { fmc, bootloader, tee, snp, microcode } = self;
        match (product, fmc) {
            (Product::Genoa | Product::Milan, _) => [bootloader, tee, 0, 0, 0, 0, snp, microcode],
            (Product::Turin, Some(fmc)) => [fmc, bootloader, tee, snp, 0, 0, 0, microcode],
            (Product::Turin, None) => [0, bootloader, tee, snp, 0, 0, 0, microcode],
        }
    }

    /// Whether each component is at least the other's.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.fmc >= other.fmc && self.bootloader >= other.bootloader && self.tee >= other.tee && self.snp >= other.snp && self.microcode >= other.microcode
    }

    /// The components by the names that claims use.
    #[must_use]
    pub fn claims(&self) -> Claims {
        let mut claims = Claims::default();
        if let Some(fmc) = self.fmc {
            claims.push("fmc", ClaimValue::Integer(fmc.into()));
        }
        for (name, value) in [("bl", self.bootloader), ("tee", self.tee), ("snp", self.snp), ("ucode", self.microcode)] {
            claims.push(name, ClaimValue::Integer(value.into()));
        }
        claims
    }
}

/// A firmware version: major, minor, build.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Firmware {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

/// The key that signed a report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SigningKey {
    /// Signed by nobody.
    None,
    /// Versioned chip endorsement key.
    Vcek,
    /// Versioned loaded endorsement key (a cloud's).
    Vlek,
}

/// An attestation report, version 2 to 5.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// VERSION: 2, 3, 4 or 5.
    pub version: u32,
    /// GUEST_SVN.
    pub guest_svn: u32,
    /// POLICY: the guest's launch policy.
    pub policy: u64,
    /// FAMILY_ID.
    pub family_id: [u8; 16],
    /// IMAGE_ID.
    pub image_id: [u8; 16],
    /// VMPL of the requester; 0xffff_ffff when the host asked.
    pub vmpl: u32,
    /// SIGNATURE_ALGO: 1 is ECDSA P-384 with SHA-384.
    pub sig_algo: u32,
    /// CURRENT_TCB.
    pub current_tcb: [u8; 8],
    /// PLATFORM_INFO.
    pub platform_info: u64,
    /// The word at 0x48: AUTHOR_KEY_EN, MASK_CHIP_KEY, SIGNING_KEY.
    pub key_info: u32,
    /// REPORT_DATA.
    pub report_data: [u8; 64],
    /// MEASUREMENT: the launch digest.
    pub measurement: [u8; 48],
    /// HOST_DATA.
    pub host_data: [u8; 32],
    /// ID_KEY_DIGEST.
    pub id_key_digest: [u8; 48],
    /// AUTHOR_KEY_DIGEST.
    pub author_key_digest: [u8; 48],
    /// REPORT_ID.
    pub report_id: [u8; 32],
    /// REPORT_ID_MA; all ones when there is no migration agent.
    pub report_id_ma: [u8; 32],
    /// REPORTED_TCB: what the signing key is derived from.
    pub reported_tcb: [u8; 8],
    /// CPUID family, model and stepping; version 3 and later.
    pub cpuid: Option<[u8; 3]>,
    /// CHIP_ID; zero when masked.
    pub chip_id: [u8; 64],
    /// COMMITTED_TCB.
    pub committed_tcb: [u8; 8],
    /// CURRENT_MAJOR, _MINOR, _BUILD.
    pub current_firmware: Firmware,
    /// COMMITTED_MAJOR, _MINOR, _BUILD.
    pub committed_firmware: Firmware,
    /// LAUNCH_TCB.
    pub launch_tcb: [u8; 8],
    /// LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR; version 5. In version 4 the octets are kept and mean nothing.
    pub mit_vectors: [u64; 2],
    /// The signature field as it stands: R and S, 72 octets each, little-endian, then reserved octets.
    pub signature: [u8; REPORT_SIZE - SIGNED_SIZE],
}

impl Report {
    /// Reads a report of exactly [`REPORT_SIZE`] octets.
    ///
    /// # Errors
    /// `evidence_size`, `evidence_unsupported` for a version other than 2 to 5, `reserved_bits_set`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Denied> {
        if bytes.len() != REPORT_SIZE {
            return Finding::new(Reason::EvidenceSize, "report", format!("{REPORT_SIZE} octets"), bytes.len().to_string()).refuse();
        }
        let mut cursor = Cursor { bytes, at: 0 };
        let version = u32::from_le_bytes(cursor.take()?);
        if !(2..=5).contains(&version) {
            return Finding::new(Reason::EvidenceUnsupported, "report.version", "2, 3, 4 or 5", version.to_string()).refuse();
        }
        let guest_svn = u32::from_le_bytes(cursor.take()?);
        let policy = u64::from_le_bytes(cursor.take()?);
        let (family_id, image_id) = (cursor.take()?, cursor.take()?);
        let (vmpl, sig_algo) = (u32::from_le_bytes(cursor.take()?), u32::from_le_bytes(cursor.take()?));
        let current_tcb = cursor.take()?;
        let platform_info = u64::from_le_bytes(cursor.take()?);
        let key_info = u32::from_le_bytes(cursor.take()?);
        if key_info >> 5 != 0 {
            return reserved("report.key_info", key_info >> 5);
        }
        cursor.zeros::<4>()?;
        let (report_data, measurement, host_data) = (cursor.take()?, cursor.take()?, cursor.take()?);
        let (id_key_digest, author_key_digest) = (cursor.take()?, cursor.take()?);
        let (report_id, report_id_ma) = (cursor.take()?, cursor.take()?);
        let reported_tcb = cursor.take()?;
        let cpuid = if version >= 3 {
            Some(cursor.take()?)
        } else {
            cursor.zeros::<3>()?;
            None
        };
        cursor.zeros::<21>()?;
        let (chip_id, committed_tcb) = (cursor.take()?, cursor.take()?);
        let (current_firmware, committed_firmware) = (cursor.firmware()?, cursor.firmware()?);
        let launch_tcb = cursor.take()?;
        let mit_vectors = if version >= 4 {
            [u64::from_le_bytes(cursor.take()?), u64::from_le_bytes(cursor.take()?)]
        } else {
            cursor.zeros::<16>()?;
            [0; 2]
        };
        cursor.zeros::<152>()?;
        let signature = cursor.take()?;
        Ok(Self {
            version,
            guest_svn,
            policy,
            family_id,
            image_id,
            vmpl,
            sig_algo,
            current_tcb,
            platform_info,
            key_info,
            report_data,
            measurement,
            host_data,
            id_key_digest,
            author_key_digest,
            report_id,
            report_id_ma,
            reported_tcb,
            cpuid,
            chip_id,
            committed_tcb,
            current_firmware,
            committed_firmware,
            launch_tcb,
            mit_vectors,
            signature,
        })
    }

    /// The octets of this report: the inverse of [`Report::parse`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(REPORT_SIZE);
        out.extend(self.version.to_le_bytes());
        out.extend(self.guest_svn.to_le_bytes());
        out.extend(self.policy.to_le_bytes());
        out.extend(self.family_id);
        out.extend(self.image_id);
        out.extend(self.vmpl.to_le_bytes());
        out.extend(self.sig_algo.to_le_bytes());
        out.extend(self.current_tcb);
        out.extend(self.platform_info.to_le_bytes());
        out.extend(self.key_info.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.report_data);
        out.extend(self.measurement);
        out.extend(self.host_data);
        out.extend(self.id_key_digest);
        out.extend(self.author_key_digest);
        out.extend(self.report_id);
        out.extend(self.report_id_ma);
        out.extend(self.reported_tcb);
        out.extend(self.cpuid.unwrap_or_default());
        out.extend([0; 21]);
        out.extend(self.chip_id);
        out.extend(self.committed_tcb);
        for Firmware { major, minor, build } in [self.current_firmware, self.committed_firmware] {
            out.extend([build, minor, major, 0]);
        }
        out.extend(self.launch_tcb);
        self.mit_vectors.iter().for_each(|vector| out.extend(vector.to_le_bytes()));
        out.extend([0; 152]);
        out.extend(self.signature);
        out
    }

    /// AUTHOR_KEY_EN: whether AUTHOR_KEY_DIGEST means anything.
    #[must_use]
    pub const fn author_key_enabled(&self) -> bool {
        self.key_info & 1 != 0
    }

    /// MASK_CHIP_KEY.
    #[must_use]
    pub const fn chip_key_masked(&self) -> bool {
        self.key_info & 2 != 0
    }

    /// SIGNING_KEY; `None` for a value without a meaning.
    #[must_use]
    pub const fn signing_key(&self) -> Option<SigningKey> {
        match self.key_info >> 2 & 7 {
            0 => Some(SigningKey::Vcek),
            1 => Some(SigningKey::Vlek),
            7 => Some(SigningKey::None),
            _ => None,
        }
    }

    /// The signature as `r ‖ s`, 48 octets each, big-endian.
    ///
    /// # Errors
    /// `signature_invalid` when octets that must be zero are not.
    pub fn signature_be(&self) -> Result<[u8; 96], Denied> {
        let padding = [72..144, 0..72].map(|limb| self.signature.get(limb).and_then(|limb| limb.split_at_checked(48)));
        let (Some(([s, s_high], [r, r_high])), rest) = (
            match padding {
                [Some((s, s_high)), Some((r, r_high))] => Some(([s, s_high], [r, r_high])),
                _ => None,
            },
            self.signature.get(144..).unwrap_or_default(),
        ) else {
            return Finding::new(Reason::SignatureInvalid, "report.signature", "512 octets", "fewer").refuse();
        };
        if [s_high, r_high, rest].into_iter().flatten().any(|octet| *octet != 0) {
            return Finding::new(Reason::SignatureInvalid, "report.signature", "zero in the octets above R and S", "other octets").refuse();
        }
        let mut out = [0; 96];
        out.iter_mut().zip(r.iter().rev().chain(s.iter().rev())).for_each(|(out, octet)| *out = *octet);
        Ok(out)
    }

    /// A signature field holding `r ‖ s` (48 octets each, big-endian).
    #[must_use]
    pub fn signature_field(signature: &[u8; 96]) -> [u8; REPORT_SIZE - SIGNED_SIZE] {
        let mut field = [0; REPORT_SIZE - SIGNED_SIZE];
        let (r, s) = signature.split_at(48);
        field.iter_mut().zip(r.iter().rev()).for_each(|(out, octet)| *out = *octet);
        field.iter_mut().skip(72).zip(s.iter().rev()).for_each(|(out, octet)| *out = *octet);
        field
    }

    /// The report data.
    #[must_use]
    pub const fn bound_data(&self) -> ReportData {
        ReportData(self.report_data)
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Denied> {
        let end = self.at.saturating_add(N);
        let taken = self.bytes.get(self.at..end).and_then(|taken| <[u8; N]>::try_from(taken).ok());
        self.at = end;
        taken.ok_or_else(|| Finding::new(Reason::EvidenceSize, "report", format!("{REPORT_SIZE} octets"), self.bytes.len().to_string()).into())
    }

    fn zeros<const N: usize>(&mut self) -> Result<(), Denied> {
        let at = self.at;
        let taken = self.take::<N>()?;
        if taken == [0; N] { Ok(()) } else { reserved(format!("report, offset {at:#x}"), data_encoding::HEXLOWER.encode(&taken)) }
    }

    fn firmware(&mut self) -> Result<Firmware, Denied> {
        let [build, minor, major] = self.take()?;
        self.zeros::<1>()?;
        Ok(Firmware { major, minor, build })
    }
}

fn reserved<T>(field: impl Into<std::borrow::Cow<'static, str>>, found: impl ToString) -> Result<T, Denied> {
    Finding::new(Reason::ReservedBitsSet, field, "zero in what the specification reserves", found.to_string()).refuse()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn octets()(octets in proptest::collection::vec(any::<u8>(), REPORT_SIZE)) -> Vec<u8> { octets }
    }

    /// A report that parses, from arbitrary octets: reserved places zeroed, a version there is.
    fn readable(mut octets: Vec<u8>, version: u8) -> Vec<u8> {
        octets[..4].copy_from_slice(&[version, 0, 0, 0]);
        octets[0x48] &= 0x1f;
        for reserved in [0x49..0x50, 0x18b..0x1a0, 0x1eb..0x1ec, 0x1ef..0x1f0, 0x208..0x2a0] {
            octets[reserved].fill(0);
        }
        if version < 3 {
            octets[0x188..0x18b].fill(0);
        }
        if version < 4 {
            octets[0x1f8..0x208].fill(0);
        }
        octets
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_back(octets in octets(), version in 2_u8..=5) {
            let octets = readable(octets, version);
            let report = Report::parse(&octets).unwrap();
            prop_assert_eq!(report.encode(), octets);
        }

        #[test]
        fn no_octets_panic(octets in proptest::collection::vec(any::<u8>(), 0..2 * REPORT_SIZE), version in 0_u8..8) {
            let _ = Report::parse(&octets);
            if octets.len() >= REPORT_SIZE {
                let report = Report::parse(&readable(octets[..REPORT_SIZE].to_vec(), version.clamp(2, 5))).unwrap();
                let _ = report.signature_be();
            }
        }

        #[test]
        fn the_sev_crate_reads_the_same_fields(octets in octets(), version in prop::sample::select(vec![2_u8, 3, 5])) {
            let mut octets = readable(octets, version);
            // Their reader wants defined policy bits, a chip id in version 2, and a processor it knows in later ones.
            octets[0x0b] &= 0x03;
            octets[0x0a] |= 0x02;
            octets[0x0c..0x10].fill(0);
            octets[0x40] &= 0xbf;
            octets[0x41..0x48].fill(0);
            octets[0x1a0] = 1;
            if version >= 3 {
                octets[0x188..0x18b].copy_from_slice(&[0x19, 0x11, 1]);
            }
            let ours = Report::parse(&octets).unwrap();
            use sev::parser::ByteParser as _;
            let theirs = sev::firmware::guest::AttestationReport::from_bytes(&octets).unwrap();
            prop_assert_eq!(ours.version, theirs.version);
            prop_assert_eq!(ours.guest_svn, theirs.guest_svn);
            prop_assert_eq!(ours.vmpl, theirs.vmpl);
            prop_assert_eq!(ours.sig_algo, theirs.sig_algo);
            prop_assert_eq!(ours.policy >> 19 & 1 == 1, theirs.policy.debug_allowed());
            prop_assert_eq!(ours.policy >> 18 & 1 == 1, theirs.policy.migrate_ma_allowed());
            prop_assert_eq!(ours.platform_info >> 5 & 1 == 1, theirs.plat_info.alias_check_complete());
            prop_assert_eq!(ours.key_info >> 2 & 7, theirs.key_info.signing_key());
            prop_assert_eq!(ours.chip_key_masked(), theirs.key_info.mask_chip_key());
            prop_assert_eq!(&ours.report_data[..], &theirs.report_data[..]);
            prop_assert_eq!(&ours.measurement[..], &theirs.measurement[..]);
            prop_assert_eq!(&ours.host_data[..], &theirs.host_data[..]);
            prop_assert_eq!(&ours.id_key_digest[..], &theirs.id_key_digest[..]);
            prop_assert_eq!(&ours.author_key_digest[..], &theirs.author_key_digest[..]);
            prop_assert_eq!(&ours.chip_id[..], &theirs.chip_id[..]);
            prop_assert_eq!(ours.cpuid.map(|cpuid| cpuid[0]), theirs.cpuid_fam_id);
            prop_assert_eq!(ours.cpuid.map(|cpuid| cpuid[1]), theirs.cpuid_mod_id);
            prop_assert_eq!((version == 5).then_some(ours.mit_vectors[0]), theirs.launch_mit_vector);
            if version >= 3 {
                // Genoa's layout: bootloader, tee, four reserved, snp, microcode. Theirs ignores the reserved octets.
                for (raw, tcb) in [(ours.reported_tcb, theirs.reported_tcb), (ours.launch_tcb, theirs.launch_tcb)] {
                    prop_assert_eq!((raw[0], raw[1], raw[6], raw[7]), (tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode));
                }
            }
        }
    }

    #[test]
    fn wrong_lengths_versions_and_reserved_octets_are_refused() {
        let good = readable(vec![0x5a; REPORT_SIZE], 5);
        let reason = |octets: &[u8]| Report::parse(octets).unwrap_err().reason();
        assert_eq!(reason(&good[..REPORT_SIZE - 1]), Reason::EvidenceSize);
        assert_eq!(reason(&[good.as_slice(), &[0]].concat()), Reason::EvidenceSize);
        for version in [0, 1, 6, 99, u32::MAX] {
            let mut other = good.clone();
            other[..4].copy_from_slice(&version.to_le_bytes());
            assert_eq!(reason(&other), Reason::EvidenceUnsupported, "version {version}");
        }
        for offset in [0x4b, 0x4c, 0x18b, 0x19f, 0x1eb, 0x1ef, 0x208, 0x29f] {
            let mut other = good.clone();
            other[offset] = 0x80;
            assert_eq!(reason(&other), Reason::ReservedBitsSet, "offset {offset:#x}");
        }
    }

    #[test]
    fn a_signature_field_holds_r_and_s_little_endian_with_zeros_above() {
        let signature: [u8; 96] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let mut report = Report::parse(&readable(vec![0; REPORT_SIZE], 3)).unwrap();
        report.signature = Report::signature_field(&signature);
        assert_eq!((report.signature[47], report.signature[72 + 47]), (0, 48));
        assert_eq!(report.signature_be().unwrap(), signature);
        for above in [48, 71, 72 + 48, 143, 144, 511] {
            let mut other = report.clone();
            other.signature[above] = 1;
            assert_eq!(other.signature_be().unwrap_err().reason(), Reason::SignatureInvalid, "octet {above}");
        }
    }

    #[test]
    fn a_tcb_is_taken_apart_in_its_products_layout_only() {
        let turin = [1, 2, 3, 4, 0, 0, 0, 5];
        let read = Tcb::parse(turin, Product::Turin).unwrap();
        assert_eq!(read, Tcb { fmc: Some(1), bootloader: 2, tee: 3, snp: 4, microcode: 5 });
        assert_eq!(read.encode(Product::Turin), turin);
        assert_eq!(Tcb::parse(turin, Product::Genoa), None);
        assert_eq!(Tcb::parse([1, 2, 0, 0, 0, 0, 3, 4], Product::Turin), None);
    }
}
