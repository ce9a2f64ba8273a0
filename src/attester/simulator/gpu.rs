//! Simulated NVIDIA GPUs beside a simulated machine: reports, chains, reference measurements and OCSP responses in their
//! genuine formats, under published roots.

use data_encoding::{BASE64, HEXLOWER};
use yasna::tags::TAG_GENERALIZEDTIME;
use yasna::{DERWriter, Tag, construct_der};

use super::der::{self, Criticality};
use super::elliptic::{Curve, EcKey};
use super::pki::{self, Certificate, Name};
use crate::attester::devices::{Attested, Attesting, DeviceAttester};
use crate::crypto::sha384;
use crate::evidence::gpu::{Gpu, LABELS, MEDIA_TYPE, OCSP, OCSP_TYPE, RIM, RIM_TYPE};
use crate::evidence::{Auxiliary, Endorsement, Endorsements, Timestamp};

/// The measurements of a device: as many as an H100 reports.
const BLOCKS: u8 = 64;

/// Which of them the driver's reference values are of; the firmware's are of the others.
const OF_DRIVER: std::ops::Range<usize> = 16..36;

/// 2020-10-17, from when the real certificates hold.
const FIRST_DAY: Timestamp = Timestamp(1_602_892_800);
/// 9999-12-31T23:59:59Z, to when they do.
const LAST_DAY: Timestamp = Timestamp(253_402_300_799);

const DAY: u64 = 86_400;

/// The devices of one machine, and the vendor that made them.
#[derive(Clone, Debug)]
pub struct GpuForge {
    seed: u64,
    count: usize,
    now: Timestamp,
    vendor: &'static str,
    driver: String,
    vbios: String,
    /// What every device measures: block 1 first.
    measured: Vec<[u8; 48]>,
    revoked: Option<&'static str>,
}

impl GpuForge {
    /// `count` devices in the state that their vendor describes; OCSP responses are of `now`.
    #[must_use]
    pub fn new(seed: u64, count: usize, now: Timestamp) -> Self {
        let count = count.min(LABELS.len());
        Self { seed, count, now, vendor: "vendor", driver: "570.1.1".to_owned(), vbios: "96.00.9F.00.01".to_owned(), measured: good(), revoked: None }
    }

    /// The same under roots that nobody trusts.
    #[must_use]
    pub const fn impostor(mut self) -> Self {
        self.vendor = "impostor";
        self
    }

    /// The same with another value of a block, counted from 1: debug mode, or a device out of its confidential mode.
    #[must_use]
    pub fn measured(mut self, block: usize, value: [u8; 48]) -> Self {
        if let Some(place) = block.checked_sub(1).and_then(|at| self.measured.get_mut(at)) {
            *place = value;
        }
        self
    }

    /// The same with only its first measurements.
    #[must_use]
    pub fn cut_to(mut self, blocks: usize) -> Self {
        self.measured.truncate(blocks);
        self
    }

    /// The same with an OCSP response that calls the certificate of this name revoked: `ica`, `identity`, …
    #[must_use]
    pub const fn revoked(mut self, certificate: &'static str) -> Self {
        self.revoked = Some(certificate);
        self
    }

    /// Each device's answer to this nonce.
    #[must_use]
    pub fn members(&self, nonce: &[u8; 32]) -> Vec<Auxiliary> {
        let of_device = |(device, label): (usize, &&str)| {
            let bytes = Gpu { report: self.report(device, nonce), chain: self.chain(device) }.encode();
            Auxiliary { label: (*label).to_owned(), media_type: MEDIA_TYPE.to_owned(), bytes }
        };
        LABELS.iter().enumerate().take(self.count).map(of_device).collect()
    }

    /// The reference measurements, and an OCSP response for each certificate that has an issuer with a responder.
    #[must_use]
    pub fn endorsements(&self) -> Endorsements {
        let mut endorsements = Endorsements::default();
        let mut push = |prefix: &str, name: &str, media_type: &str, bytes| {
            endorsements.push(Endorsement { name: format!("{prefix}-{name}"), media_type: media_type.to_owned(), bytes });
        };
        for (name, version, of_driver) in [("driver", &self.driver, true), ("vbios", &self.vbios, false)] {
            push(RIM, name, RIM_TYPE, self.rim(name, version, &good(), of_driver));
        }
        for level in [&IDENTITY, &ICA, &RIM_L2, &RIM_L3, &RIM_DRIVER, &RIM_VBIOS] {
            push(OCSP, level.name, OCSP_TYPE, self.ocsp(level, 0));
        }
        for device in 0..self.count {
            push(OCSP, &format!("device-{device}"), OCSP_TYPE, self.ocsp(&BROM, device));
        }
        endorsements
    }

    /// Request, response and signature.
    #[must_use]
    pub fn report(&self, device: usize, nonce: &[u8; 32]) -> Vec<u8> {
        let block = |(value, index): (&[u8; 48], u8)| [[index, 1, 51, 0, 1, 48, 0].as_slice(), value].concat();
        let record: Vec<u8> = self.measured.iter().zip(1..=BLOCKS).flat_map(block).collect();
        let field = |kind: u16, value: &[u8]| [&kind.to_le_bytes(), &length(value).to_le_bytes(), value].concat();
        let vbios: Vec<u8> = self.vbios.split('.').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
        let vbios = [vbios.get(..4).unwrap_or_default().iter().rev().copied().collect(), vbios.get(4..).unwrap_or_default().to_vec(), vec![0; 3]].concat();
        let opaque = [
            field(3, &[self.driver.as_bytes(), &[0]].concat()),
            field(6, &vbios),
            field(11, &[0x55]),
            field(15, b"886\0"),
            field(17, b"1010\0"),
            field(18, b"0200\0"),
            field(20, &self.fwid()),
        ]
        .concat();
        let blocks = u8::try_from(self.measured.len()).unwrap_or(BLOCKS);
        let size = u32::try_from(record.len()).unwrap_or(u32::MAX).to_le_bytes();
        let parts: [&[u8]; 8] = [
            &[0x11, 0xe0, 0x01, 0xff],
            nonce,
            &[0, 0x11, 0x60, 0, 0, blocks],
            &size[..3],
            &record,
            &sha384(&[b"the device's own nonce", nonce])[..32],
            &length(&opaque).to_le_bytes(),
            &opaque,
        ];
        let report = parts.concat();
        let signature = self.key(&DEVICE, device).sign(&report);
        [report, signature].concat()
    }

    /// The device's certificates, its own first.
    #[must_use]
    pub fn chain(&self, device: usize) -> Vec<Vec<u8>> {
        [&DEVICE, &BROM, &ICA, &IDENTITY, &DEVICE_ROOT].map(|level| self.certificate(level, device)).to_vec()
    }

    /// Reference measurements in canonical form, signed.
    fn rim(&self, name: &str, version: &str, values: &[[u8; 48]], of_driver: bool) -> Vec<u8> {
        const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
        const HASH: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
        const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
        const MORE: &str = "http://www.w3.org/2001/04/xmldsig-more";
        const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
        let resource = |(at, value): (usize, &[u8; 48])| {
            let (active, value) = if OF_DRIVER.contains(&at) == of_driver { ("True", *value) } else { ("False", [0; 48]) };
            let value = HEXLOWER.encode(&value);
            format!(
                "<Resource active=\"{active}\" alternatives=\"1\" index=\"{at}\" name=\"Measurement_{at}\" size=\"48\" type=\"Measurement\" h:Hash0=\"{value}\"></Resource>\n"
            )
        };
        let resources: String = values.iter().enumerate().map(resource).collect();
        let head = format!(
            "<SoftwareIdentity xmlns=\"{SWID}\" xmlns:h=\"{HASH}\" name=\"SIMULATED\" tagVersion=\"0\">\n\
             <Meta colloquialVersion=\"{version}\" edition=\"{name}\" product=\"SIMULATED\" revision=\"r1\"></Meta>\n<Payload>\n{resources}</Payload>\n"
        );
        let digest = BASE64.encode(&sha384(&[head.as_bytes(), b"</SoftwareIdentity>"]));
        let info = format!(
            "<ds:CanonicalizationMethod Algorithm=\"{C14N}\"></ds:CanonicalizationMethod>\
             <ds:SignatureMethod Algorithm=\"{MORE}#ecdsa-sha384\"></ds:SignatureMethod><ds:Reference URI=\"\"><ds:Transforms>\
             <ds:Transform Algorithm=\"{DSIG}enveloped-signature\"></ds:Transform><ds:Transform Algorithm=\"{C14N}\"></ds:Transform></ds:Transforms>\
             <ds:DigestMethod Algorithm=\"{MORE}#sha384\"></ds:DigestMethod><ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
        );
        let signer = if of_driver { &RIM_DRIVER } else { &RIM_VBIOS };
        // What is signed has the namespaces in scope; what is written has them above.
        let signed = format!("<ds:SignedInfo xmlns=\"{SWID}\" xmlns:ds=\"{DSIG}\" xmlns:h=\"{HASH}\">{info}");
        let signature = BASE64.encode(&self.key(signer, 0).sign(signed.as_bytes()));
        let certificate = |level| format!("<ds:X509Certificate>{}\n</ds:X509Certificate>", BASE64.encode(&self.certificate(level, 0)));
        let certificates: String = [signer, &RIM_L3, &RIM_L2, &RIM_ROOT].map(certificate).concat();
        format!(
            "{head}<ds:Signature xmlns:ds=\"{DSIG}\"><ds:SignedInfo>{info}<ds:SignatureValue>{signature}</ds:SignatureValue>\
             <ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature></SoftwareIdentity>"
        )
        .into_bytes()
    }

    /// What a responder of its issuer says of a certificate: good, for a day.
    fn ocsp(&self, level: &Level, device: usize) -> Vec<u8> {
        let (issuer, responder) = (level.issuer(), EcKey::derive(Curve::P384, &[b"gpu responder", self.vendor.as_bytes(), level.issuer.as_bytes()]));
        let issuer_key = self.key(issuer, device);
        let moment = |writer: DERWriter<'_>, at: Timestamp| {
            let text: String = at.to_string().chars().filter(char::is_ascii_alphanumeric).filter(|letter| *letter != 'T').collect();
            writer.write_tagged_implicit(TAG_GENERALIZEDTIME, |writer| writer.write_bytes(text.as_bytes()));
        };
        let (from, until) = (self.now.minus(3600), self.now.plus(DAY));
        let body = construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_tagged(Tag::context(2), |writer| writer.write_bytes(&der::key_identifier(responder.point())));
                moment(writer.next(), from);
                writer.next().write_sequence(|writer| {
                    writer.next().write_sequence(|writer| {
                        writer.next().write_sequence(|writer| {
                            writer.next().write_sequence(|writer| der::oid(writer.next(), &[2, 16, 840, 1, 101, 3, 4, 2, 2]));
                            writer.next().write_bytes(&sha384(&[&pki::encoded(&issuer.subject(self, device))]));
                            writer.next().write_bytes(&sha384(&[issuer_key.point()]));
                            der::integer(writer.next(), &self.serial(level, device));
                        });
                        if self.revoked == Some(level.name) {
                            writer.next().write_tagged_implicit(Tag::context(1), |writer| writer.write_sequence(|writer| moment(writer.next(), from)));
                        } else {
                            writer.next().write_tagged_implicit(Tag::context(0), |writer: DERWriter<'_>| writer.write_null());
                        }
                        moment(writer.next(), from);
                        writer.next().write_tagged(Tag::context(0), |writer| moment(writer, until));
                    });
                });
            });
        });
        let name = vec![(3, format!("SIMULATED OCSP Responder {}", issuer.name))];
        let certificate = Certificate {
            serial: self.serial(level, device),
            issuer: &issuer.subject(self, device),
            subject: &name,
            not_before: FIRST_DAY,
            not_after: LAST_DAY,
            spki: responder.spki(),
            extensions: vec![pki::end_entity(), pki::key_usage(Criticality::Critical, 0x80), signs_ocsp(), pki::subject_key(&responder)],
        };
        let basic = construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_der(&body);
                writer.next().write_sequence(|writer| der::oid(writer.next(), responder.algorithm()));
                der::bits(writer.next(), &responder.sign_der(&body));
                writer.next().write_tagged(Tag::context(0), |writer| {
                    writer.write_sequence(|writer| writer.next().write_der(&certificate.signed(&issuer_key)));
                });
            });
        });
        construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_enum(0);
                writer.next().write_tagged(Tag::context(0), |writer| {
                    writer.write_sequence(|writer| {
                        der::oid(writer.next(), &[1, 3, 6, 1, 5, 5, 7, 48, 1, 1]);
                        writer.next().write_bytes(&basic);
                    });
                });
            });
        })
    }

    fn certificate(&self, level: &Level, device: usize) -> Vec<u8> {
        let (key, issuer) = (self.key(level, device), level.issuer());
        let issuer_key = self.key(issuer, device);
        let mut extensions = vec![pki::subject_key(&key), pki::authority_key(&issuer_key)];
        match level.does {
            Does::Issue => extensions.extend([pki::authority(None), pki::key_usage(Criticality::Critical, 0x06)]),
            Does::Sign => extensions.push(pki::key_usage(Criticality::Critical, 0x80)),
        }
        if level.name == DEVICE.name {
            extensions.push(self.composite_device(&issuer_key));
        }
        let certificate = Certificate {
            serial: self.serial(level, device),
            issuer: &issuer.subject(self, device),
            subject: &level.subject(self, device),
            not_before: FIRST_DAY,
            not_after: LAST_DAY,
            spki: key.spki(),
            extensions,
        };
        certificate.signed(&issuer_key)
    }

    /// TCG DICE's `CompositeDeviceID`: the device's key and the firmware that this certificate is for.
    fn composite_device(&self, key: &EcKey) -> (&'static [u64], Criticality, Vec<u8>) {
        let value = construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_u8(1);
                writer.next().write_der(&key.spki());
                writer.next().write_sequence(|writer| {
                    der::oid(writer.next(), &[2, 16, 840, 1, 101, 3, 4, 2, 2]);
                    writer.next().write_bytes(&self.fwid());
                });
            });
        });
        (&[2, 23, 133, 5, 4, 1], Criticality::Ordinary, value)
    }

    fn fwid(&self) -> [u8; 48] {
        sha384(&[b"portcullis simulator: firmware of a GPU", self.vbios.as_bytes()])
    }

    fn key(&self, level: &Level, device: usize) -> EcKey {
        EcKey::derive(Curve::P384, &[b"gpu", self.vendor.as_bytes(), level.name.as_bytes(), &self.which(level, device)])
    }

    fn serial(&self, level: &Level, device: usize) -> Vec<u8> {
        let digest = sha384(&[b"gpu serial", level.name.as_bytes(), &self.which(level, device)]);
        // Positive and of its full length, as serial numbers are.
        std::iter::once(0x41).chain(digest.into_iter().take(8)).collect()
    }

    /// What tells a device's own keys from another's; nothing for those of the vendor.
    fn which(&self, level: &Level, device: usize) -> Vec<u8> {
        let own = [DEVICE.name, BROM.name].contains(&level.name);
        if own { [self.seed.to_be_bytes(), (device as u64).to_be_bytes()].concat() } else { Vec::new() }
    }
}

/// What every block measures in the state that the vendor describes.
fn good() -> Vec<[u8; 48]> {
    (1..=BLOCKS).map(|block| sha384(&[b"portcullis simulator: a GPU measures nothing real", &[block]])).collect()
}

fn length(octets: &[u8]) -> u16 {
    u16::try_from(octets.len()).unwrap_or(u16::MAX)
}

/// extKeyUsage: OCSPSigning.
fn signs_ocsp() -> (&'static [u64], Criticality, Vec<u8>) {
    let value = construct_der(|writer| writer.write_sequence(|writer| der::oid(writer.next(), &[1, 3, 6, 1, 5, 5, 7, 3, 9])));
    (&[2, 5, 29, 37], Criticality::Critical, value)
}

/// A certificate of the vendor's tree.
struct Level {
    name: &'static str,
    issuer: &'static str,
    common_name: &'static str,
    does: Does,
}

#[derive(Clone, Copy)]
enum Does {
    Issue,
    Sign,
}

impl Level {
    fn issuer(&self) -> &'static Self {
        ISSUERS.iter().copied().find(|level| level.name == self.issuer).unwrap_or(&DEVICE_ROOT)
    }

    fn subject(&self, forge: &GpuForge, device: usize) -> Name {
        let serial = HEXLOWER.encode(&forge.serial(self, device));
        let own = (!forge.which(self, device).is_empty()).then_some((5, serial));
        own.into_iter().chain([(6, "US".to_owned()), (10, "SIMULATED Corporation".to_owned()), (3, self.common_name.to_owned())]).collect()
    }
}

const ISSUERS: [&Level; 7] = [&DEVICE_ROOT, &IDENTITY, &ICA, &BROM, &RIM_ROOT, &RIM_L2, &RIM_L3];

const DEVICE_ROOT: Level = Level { name: "device", issuer: "device", common_name: "SIMULATED Device Identity CA", does: Does::Issue };
const IDENTITY: Level = Level { name: "identity", issuer: "device", common_name: "SIMULATED GH100 Identity", does: Does::Issue };
const ICA: Level = Level { name: "ica", issuer: "identity", common_name: "SIMULATED GH100 Provisioner ICA 1", does: Does::Issue };
const BROM: Level = Level { name: "brom", issuer: "ica", common_name: "SIMULATED GH100 A01 GSP BROM", does: Does::Issue };
const DEVICE: Level = Level { name: "fmc", issuer: "brom", common_name: "SIMULATED GH100 A01 GSP FMC LF", does: Does::Sign };
const RIM_ROOT: Level = Level { name: "rim", issuer: "rim", common_name: "SIMULATED Reference Value Root", does: Does::Issue };
const RIM_L2: Level = Level { name: "rim-l2", issuer: "rim", common_name: "SIMULATED Reference Values L2", does: Does::Issue };
const RIM_L3: Level = Level { name: "rim-l3", issuer: "rim-l2", common_name: "SIMULATED Reference Values L3", does: Does::Issue };
const RIM_DRIVER: Level = Level { name: "rim-driver", issuer: "rim-l3", common_name: "SIMULATED Reference Values of drivers", does: Does::Sign };
const RIM_VBIOS: Level = Level { name: "rim-vbios", issuer: "rim-l3", common_name: "SIMULATED Reference Values of firmware", does: Does::Sign };

/// The published roots, by the name that anchors have: DER SubjectPublicKeyInfo.
#[must_use]
pub fn roots() -> Vec<(String, Vec<u8>)> {
    let vendor = GpuForge::new(0, 0, FIRST_DAY);
    [&DEVICE_ROOT, &RIM_ROOT].map(|level| (level.name.to_owned(), vendor.key(level, 0).spki())).to_vec()
}

/// The devices as an attester, each answer taking at least this long.
#[derive(Debug)]
pub struct SimulatedGpus {
    forge: GpuForge,
    endorsements: Endorsements,
    delay: std::time::Duration,
}

impl SimulatedGpus {
    /// Devices of this forge. Their endorsements are minted once.
    #[must_use]
    pub fn new(forge: GpuForge, delay: std::time::Duration) -> Self {
        Self { endorsements: forge.endorsements(), forge, delay }
    }
}

impl DeviceAttester for SimulatedGpus {
    fn provider(&self) -> &'static str {
        "simulator"
    }

    fn media_type(&self) -> &'static str {
        MEDIA_TYPE
    }

    fn attest(&self, nonce: [u8; 32]) -> Attesting<'_> {
        Box::pin(async move {
            tokio::time::sleep(self.delay).await;
            Ok(Attested { members: self.forge.members(&nonce), endorsements: self.endorsements.clone() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{References, Revocation};
    use crate::verify::auxiliary::Device;
    use crate::verify::memo::NoMemo;
    use crate::verify::{Anchor, Grounds, Origin, TrustAnchors, gpu};

    const NOW: Timestamp = Timestamp(1_796_083_200);

    fn judged(forge: &GpuForge, revocation: Revocation) -> Result<Device, crate::refusal::Denied> {
        let anchor = |(name, spki)| Anchor { platform: gpu::NAME, name, spki, origin: Origin::Simulator };
        let anchors: TrustAnchors = roots().into_iter().map(anchor).collect();
        let grounds = Grounds { anchors: &anchors, revocation, references: References::Required, memo: &NoMemo, now: NOW };
        let member = forge.members(&[7; 32]).pop().expect("a device");
        gpu::authenticate(&member.bytes, &forge.endorsements(), Some(&[7; 32]), &grounds)
    }

    #[test]
    fn the_genuine_verifier_takes_it_with_revocation_checked() {
        use crate::refusal::Reason;
        let good = || GpuForge::new(1, 3, NOW);
        let device = judged(&good(), Revocation::Required).unwrap_or_else(|denied| panic!("{denied}"));
        assert!(device.revocation_checked && device.origin == Origin::Simulator);
        assert_eq!((device.claims.text("driver_version"), device.claims.text("vbios_version")), (Some("570.1.1"), Some("96.00.9F.00.01")));
        for (forge, reason) in [
            (good().impostor(), Reason::ChainUntrusted),
            (good().measured(64, [0xdb; 48]), Reason::MeasurementUnknown),
            (good().measured(20, [0xdb; 48]), Reason::MeasurementUnknown),
            (good().cut_to(63), Reason::MeasurementUnknown),
            (good().revoked("ica"), Reason::ChainRevoked),
            (good().revoked("rim-driver"), Reason::ChainRevoked),
            (GpuForge::new(1, 3, NOW.minus(3 * DAY)), Reason::CollateralUnavailable),
        ] {
            assert_eq!(judged(&forge, Revocation::Required).map(drop).map_err(|denied| denied.reason()), Err(reason), "{forge:?}");
        }
    }
}
