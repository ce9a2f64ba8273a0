//! One entry for each parser that reads hostile bytes: fed by the fuzz targets and by the bounded mutations of
//! `tests/parsers.rs`. An entry may refuse; it may not panic, and what it accepts must have been the one encoding.

#[path = "parsers_boot.rs"]
mod boot;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use portcullis::attester::simulator::intel::IntelForge;
use portcullis::attester::simulator::{Forge, KeystoneForge};

use portcullis::attester::simulator::cca::CcaForge;
use portcullis::attester::simulator::elliptic::{Curve, EcKey};
use portcullis::attester::simulator::gpu::GpuForge;
use portcullis::attester::simulator::nitro::NitroForge;
use portcullis::attester::simulator::psa::PsaForge;
use portcullis::config::Config;
use portcullis::diagnostic::{Source, render};
use portcullis::evidence::batch::Proof;
use portcullis::evidence::binding::{BindingClaims, Kind};
use portcullis::evidence::cbor::Reader;
use portcullis::evidence::cbor::foreign::Item;
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::cose::{self, Sign1, decode_key, encode_key};
use portcullis::evidence::gpu::{self, Gpu, Report as GpuReport, of_document};
use portcullis::evidence::intel::collateral::{QeIdentity, Signed, TcbInfo};
use portcullis::evidence::intel::log::{Events, GuestEvent};
use portcullis::evidence::intel::{Quote, chain};
use portcullis::evidence::keystone;
use portcullis::evidence::leaf::Leaf;
use portcullis::evidence::nitro::{self, Document};
use portcullis::evidence::ocsp::Response;
use portcullis::evidence::rim::Rim;
use portcullis::evidence::snp::{MEDIA_TYPE, Product, REPORT_SIZE, Report, Vek, table};
use portcullis::evidence::{Auxiliary, Endorsement, Endorsements, Evidence, KeyDigest, ReportData, Timestamp};
use portcullis::evidence::{cca, psa};
use portcullis::platform;
use portcullis::policy::{AppraisalPolicy, Revocation, Roots};
use portcullis::proxy::appraisal::Memo;
use portcullis::proxy::choice::{hello, socks};
use portcullis::session::frame::{self, Frame, Header};
use portcullis::session::{Attest, Code, EvidenceMessage, Hello};
use portcullis::tls::certificate::{Statement, issue};
use portcullis::verify::Appraiser;
use portcullis::verify::memo::NoMemo;

pub(crate) use boot::{collateral_item, event_log, hcl_report, images, launch_endorsement, quote_service, tpm_member};

/// When everything minted here is current: 2026-10-01.
const NOW: Timestamp = Timestamp(1_790_812_800);

/// The short names of endorsements, by the octet that stands for them in the input of `snp_authenticate`.
const ENDORSEMENTS: [&str; 6] = ["vcek", "vlek", "ask", "asvk", "ark", "crl"];

/// A parser under test.
pub(crate) struct Parser {
    /// The name of its fuzz target.
    pub(crate) name: &'static str,
    /// Whether the bytes were accepted.
    pub(crate) feed: fn(&[u8]) -> bool,
    /// Inputs that are accepted, minted by our own code.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
}

/// Every parser.
pub(crate) const PARSERS: &[Parser] = &[
    Parser { name: "binding_claims", feed: binding_claims, seeds: binding_claims_seeds },
    Parser { name: "cca_token", feed: cca_token, seeds: cca_token_seeds },
    Parser { name: "cbor", feed: cbor, seeds: cbor_seeds },
    Parser { name: "collateral_item", feed: collateral_item, seeds: boot::collateral_item_seeds },
    Parser { name: "collection", feed: collection, seeds: collection_seeds },
    Parser { name: "config", feed: config, seeds: config_seeds },
    Parser { name: "event_log", feed: event_log, seeds: boot::event_log_seeds },
    Parser { name: "hcl_report", feed: hcl_report, seeds: boot::hcl_report_seeds },
    Parser { name: "images", feed: images, seeds: boot::images_seeds },
    Parser { name: "intel_authenticate", feed: intel_authenticate, seeds: intel_authenticate_seeds },
    Parser { name: "intel_collateral", feed: intel_collateral, seeds: intel_collateral_seeds },
    Parser { name: "intel_log", feed: intel_log, seeds: intel_log_seeds },
    Parser { name: "intel_quote", feed: intel_quote, seeds: intel_quote_seeds },
    Parser { name: "gpu", feed: gpu, seeds: gpu_seeds },
    Parser { name: "gpu_document", feed: gpu_document, seeds: gpu_document_seeds },
    Parser { name: "gpu_references", feed: gpu_references, seeds: gpu_references_seeds },
    Parser { name: "keystone", feed: keystone, seeds: keystone_seeds },
    Parser { name: "client_hello", feed: client_hello, seeds: client_hello_seeds },
    Parser { name: "cose", feed: cose, seeds: cose_seeds },
    Parser { name: "launch_endorsement", feed: launch_endorsement, seeds: boot::launch_endorsement_seeds },
    Parser { name: "leaf", feed: leaf, seeds: leaf_seeds },
    Parser { name: "nitro_document", feed: nitro_document, seeds: nitro_document_seeds },
    Parser { name: "psa_token", feed: psa_token, seeds: psa_token_seeds },
    Parser { name: "quote_service", feed: quote_service, seeds: boot::quote_service_seeds },
    Parser { name: "policy", feed: policy, seeds: policy_seeds },
    Parser { name: "session_frames", feed: session_frames, seeds: session_frames_seeds },
    Parser { name: "snp_authenticate", feed: snp_authenticate, seeds: snp_authenticate_seeds },
    Parser { name: "snp_certificate", feed: snp_certificate, seeds: snp_certificate_seeds },
    Parser { name: "snp_report", feed: snp_report, seeds: snp_report_seeds },
    Parser { name: "socks", feed: socks, seeds: socks_seeds },
    Parser { name: "snp_table", feed: snp_table, seeds: snp_table_seeds },
    Parser { name: "tpm_member", feed: tpm_member, seeds: boot::tpm_member_seeds },
];

/// The binding claims.
pub(crate) fn binding_claims(data: &[u8]) -> bool {
    let Ok(claims) = BindingClaims::decode(data) else { return false };
    assert_eq!(claims.encode(), data, "accepted another encoding");
    true
}

/// The first message of a TLS client, in pieces of which the first octet tells the size.
pub(crate) fn client_hello(data: &[u8]) -> bool {
    let Some((size, octets)) = data.split_first() else { return false };
    let mut following = hello::Hello::default();
    for piece in octets.chunks(usize::from(*size).max(1)) {
        match following.follow(piece) {
            Ok(Some(name)) => {
                assert!(!name.is_empty() && name == name.to_ascii_lowercase());
                return true;
            }
            Ok(None) => {}
            Err(_) => return false,
        }
    }
    false
}

fn client_hello_seeds() -> Vec<Vec<u8>> {
    // A record with a ClientHello of two suites, a key share, and the name "a.test".
    let extensions: &[&[u8]] = &[
        b"\x00\x00\x00\x0b\x00\x09\x00\x00\x06a.test",
        b"\x00\x2b\x00\x03\x02\x03\x04",
        b"\x00\x0d\x00\x06\x00\x04\x04\x03\x08\x04",
        b"\x00\x0a\x00\x04\x00\x02\x00\x1d",
        b"\x00\x33\x00\x26\x00\x24\x00\x1d\x00\x20",
        &[7; 32],
    ];
    let extensions = extensions.concat();
    let length = |octets: &[u8]| u16::try_from(octets.len()).expect("short").to_be_bytes();
    let body = [&b"\x03\x03"[..], &[5; 32], b"\x00\x00\x04\x13\x01\x13\x02\x01\x00", &length(&extensions), &extensions].concat();
    let message = [&b"\x01\x00"[..], &length(&body), &body].concat();
    let record = [&b"\x16\x03\x01"[..], &length(&message), &message].concat();
    [255, 1, 40].map(|size| [&[size], record.as_slice()].concat()).into()
}

/// The three messages of a SOCKS5 client, told apart by the first octet; each is read as it is over a socket, and says of
/// every beginning of itself that more is needed.
pub(crate) fn socks(data: &[u8]) -> bool {
    let Some((kind, octets)) = data.split_first() else { return false };
    fn read<T>(octets: &[u8], read: fn(&[u8]) -> Result<socks::Step<T>, socks::Malformed>) -> bool {
        let mut there = 0;
        loop {
            match read(&octets[..there]) {
                Ok(socks::Step::Done(_)) => return true,
                Ok(socks::Step::More(more)) => {
                    assert!(more > 0 && there + more <= 513, "asks for {more} octets behind {there}");
                    there += more;
                }
                Err(_) => return false,
            }
            if there > octets.len() {
                return false;
            }
        }
    }
    match kind {
        0 => read(octets, socks::methods),
        1 => read(octets, socks::account),
        _ => read(octets, socks::request),
    }
}

fn socks_seeds() -> Vec<Vec<u8>> {
    let name = b"\x02\x05\x01\x00\x03\x06a.test\x01\xbb";
    let address = [&b"\x02\x05\x01\x00\x04"[..], &[1; 16], b"\x00\x50"].concat();
    vec![b"\x00\x05\x02\x00\x02".to_vec(), b"\x01\x01\x02me\x03key".to_vec(), name.to_vec(), b"\x02\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50".to_vec(), address]
}

/// Any sequence of CBOR items, told apart by trying.
pub(crate) fn cbor(data: &[u8]) -> bool {
    let mut reader = Reader::new(data);
    while reader.offset() < data.len() {
        let before = reader.offset();
        let read = [
            reader.clone().uint().is_ok() && reader.uint().is_ok(),
            reader.clone().bytes().is_ok() && reader.bytes().is_ok(),
            reader.clone().text().is_ok() && reader.text().is_ok(),
            reader.clone().array().is_ok() && reader.array().is_ok(),
            reader.clone().map().is_ok() && reader.map().is_ok(),
        ];
        if read.iter().all(|read| !read) {
            return false;
        }
        assert!(reader.offset() > before && reader.offset() <= data.len());
    }
    reader.end().is_ok()
}

/// The collection that carries evidence.
pub(crate) fn collection(data: &[u8]) -> bool {
    let Ok(collection) = Collection::decode(data) else { return false };
    assert_eq!(collection.encode(), data, "accepted another encoding");
    true
}

/// The configuration file. The files it names are looked for in a folder that is not there.
pub(crate) fn config(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match Config::parse("portcullis.toml", text, Path::new("/nowhere")) {
        Ok(_) => true,
        Err(error) => {
            assert!(!error.to_string().is_empty(), "refused without a word");
            false
        }
    }
}

/// A GPU's member, its report and certificates, and the verdict on it. What is accepted must be what the device signed.
pub(crate) fn gpu(data: &[u8]) -> bool {
    let Ok(gpu) = Gpu::decode(data) else { return false };
    assert_eq!(gpu.encode(), data, "accepted another encoding");
    let Ok((report, behind)) = GpuReport::parse(&gpu.report) else { return false };
    assert!(report.signed + report.signature.len() + behind.len() == gpu.report.len(), "other octets are signed");
    let _ = (report.claims(), report.decoder_off());
    if device_passes(data, MADE.iter().cloned().collect()) {
        let signed = Gpu::decode(&gpu_seeds()[0]).expect("a member").report;
        assert_eq!(gpu.report[..report.signed], signed[..report.signed], "accepted a report that was not signed");
    }
    true
}

fn gpu_seeds() -> Vec<Vec<u8>> {
    static SEED: LazyLock<Vec<u8>> = LazyLock::new(|| GpuForge::new(1, 1, NOW).members(&[7; 32]).remove(0).bytes);
    vec![SEED.clone()]
}

/// What the simulator's vendor says of its devices.
static MADE: LazyLock<Endorsements> = LazyLock::new(|| GpuForge::new(1, 1, NOW).endorsements());

/// Whether a device is genuine, in a state that was compared, and vouched for, under the simulator's roots.
fn device_passes(member: &[u8], endorsements: Endorsements) -> bool {
    static JUDGE: LazyLock<(Appraiser, Memo)> = LazyLock::new(|| {
        let genuine = AppraisalPolicy::genuine(&platform::vocabularies());
        let policy = AppraisalPolicy { roots: Roots::VendorAndSimulator, revocation: Revocation::Required, ..genuine };
        (Appraiser { anchors: platform::anchors(&policy), policy }, Memo::new())
    });
    let (appraiser, memo) = &*JUDGE;
    let member = Auxiliary { label: "gpu/0".to_owned(), media_type: gpu::MEDIA_TYPE.to_owned(), bytes: member.to_vec() };
    let verdict = appraiser.examine_devices(&[member], &endorsements, memo, NOW);
    verdict.is_ok_and(|appraisal| {
        assert!(appraisal.uncompared().is_empty() && appraisal.revocation_checked(), "accepted with less than was at hand");
        true
    })
}

/// The document of NVIDIA's tools; what a local service answers.
pub(crate) fn gpu_document(data: &[u8]) -> bool {
    let Ok(devices) = of_document(data) else { return false };
    assert!((1..=16).contains(&devices.len()));
    for device in devices {
        assert!(GpuReport::parse(&device.report).is_ok_and(|(_, behind)| behind.is_empty()), "what lies behind a report was kept");
    }
    true
}

fn gpu_document_seeds() -> Vec<Vec<u8>> {
    let gpu = Gpu::decode(&gpu_seeds()[0]).expect("a member");
    let text = |octets: &[u8]| data_encoding::BASE64.encode(octets);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", text(&gpu.chain[0]));
    let document = format!("{{\"evidences\":[{{\"evidence\":\"{}\",\"certificate\":\"{}\"}}]}}", text(&gpu.report), text(pem.as_bytes()));
    vec![document.into_bytes()]
}

/// Reference measurements of GPUs (XML), and OCSP responses, and the verdict on a good device with them in place of its vendor's.
/// What is accepted must say what the vendor signed.
pub(crate) fn gpu_references(data: &[u8]) -> bool {
    let made = |name: &str| MADE.find(name).expect("minted");
    let passes_with = |name: &str| {
        let others = MADE.iter().filter(|one| one.name != name).cloned();
        let changed = Endorsement { name: name.to_owned(), media_type: String::new(), bytes: data.to_vec() };
        device_passes(&gpu_seeds()[0], others.chain([changed]).collect())
    };
    let (references, response) = (Rim::parse(data), Response::parse(data));
    if let Ok(references) = &references
        && passes_with("gpu-rim-driver")
    {
        let signed = Rim::parse(made("gpu-rim-driver")).expect("minted");
        assert_eq!((&references.version, &references.golden), (&signed.version, &signed.golden), "accepted references that were not signed");
    }
    if let Ok(response) = &response
        && passes_with("gpu-ocsp-ica")
    {
        assert_eq!(response.signed, Response::parse(made("gpu-ocsp-ica")).expect("minted").signed, "accepted a response that was not signed");
    }
    references.is_ok() || response.is_ok()
}

fn gpu_references_seeds() -> Vec<Vec<u8>> {
    assert!(device_passes(&gpu_seeds()[0], MADE.iter().cloned().collect()), "a good device");
    // One of each kind.
    ["gpu-rim-driver", "gpu-ocsp-ica"].map(|name| MADE.find(name).expect("minted").to_vec()).to_vec()
}

/// A Keystone report and its signatures.
pub(crate) fn keystone(data: &[u8]) -> bool {
    let Ok(report) = keystone::Report::parse(data) else { return false };
    assert_eq!(report.encode(), data, "accepted another encoding");
    let _ = (report.bound(), report.claims(), portcullis::verify::keystone::signed(data));
    true
}

fn keystone_seeds() -> Vec<Vec<u8>> {
    [0, 11, 64, 1024].map(|length| KeystoneForge::new(1).report(&vec![7; length]).encode()).to_vec()
}

/// A peer's leaf certificate and the evidence in it.
pub(crate) fn leaf(data: &[u8]) -> bool {
    let Ok(leaf) = Leaf::read(data) else { return false };
    let _ = leaf.current(NOW, 120);
    leaf.evidence().is_ok()
}

/// A policy file. What is told about a bad one must render.
pub(crate) fn policy(data: &[u8]) -> bool {
    let (diagnostics, accepted) = match AppraisalPolicy::load(data, &platform::vocabularies()) {
        Ok((_, warnings)) => (warnings, true),
        Err(problems) => (problems, false),
    };
    assert!(accepted || !diagnostics.is_empty(), "refused without a word");
    let text = String::from_utf8_lossy(data);
    drop(render(&Source { name: "policy.json", text: &text }, &diagnostics));
    accepted
}

/// A COSE_Sign1, and CBOR that others write.
pub(crate) fn cose(data: &[u8]) -> bool {
    let Ok(item) = Item::decode(data) else { return false };
    assert_eq!(item.encode(), data, "accepted what it does not write");
    let Ok(sign1) = Sign1::decode("input", data) else { return false };
    let _ = (sign1.scheme(), sign1.to_be_signed());
    let _ = (decode_key("input", sign1.payload), Sign1::decode("input", sign1.payload));
    true
}

/// A token of an Arm CCA realm: read, judged, written.
pub(crate) fn cca_token(data: &[u8]) -> bool {
    let Ok(token) = cca::Token::parse(data) else { return false };
    let again = |signed: &Sign1<'_>, payload: &[u8]| cca::envelope(signed.protected, payload, signed.signature);
    let (platform, realm) = (again(&token.platform_signed, &token.platform.encode()), again(&token.realm_signed, &token.realm.encode()));
    let written = cca::encode(token.shape, &platform, &realm);
    let read = cca::Token::parse(&written).expect("what was written");
    assert_eq!((&read.platform, &read.realm), (&token.platform, &token.realm), "what was written is read otherwise");
    let _ = token.realm.public_key();
    examined(&Evidence::new(cca::MEDIA_TYPE, data.to_vec()), &Endorsements::default())
}

/// A PSA token: read, judged, written.
pub(crate) fn psa_token(data: &[u8]) -> bool {
    let Ok((sign1, token)) = psa::Token::parse(data) else { return false };
    let written = psa::envelope(sign1.protected, &token.encode(), sign1.signature);
    assert_eq!(psa::Token::parse(&written).expect("what was written").1, token, "what was written is read otherwise");
    examined(&Evidence::new(psa::MEDIA_TYPE, data.to_vec()), &Endorsements::default())
}

/// An attestation document of AWS Nitro: read, judged, written.
pub(crate) fn nitro_document(data: &[u8]) -> bool {
    let Ok((_, document)) = Document::parse(data) else { return false };
    let payload = document.encode();
    let again = nitro::envelope(b"\xa1\x01\x38\x22", &payload, &[0; 96]);
    assert_eq!(Document::parse(&again).expect("what was written").1, document, "what was written is read otherwise");
    examined(&Evidence::new(document.kind.media_type(), data.to_vec()), &Endorsements::default())
}

/// Every verifier's view of evidence, and the verdict under the simulator's roots; whether it was readable.
fn examined(evidence: &Evidence, endorsements: &Endorsements) -> bool {
    let Some(platform) = platform::of_evidence(evidence) else { return false };
    let read = platform.verifier.read(evidence, endorsements);
    let _ = (platform.verifier.bound(evidence), platform.verifier.needs(evidence));
    let policy = AppraisalPolicy { roots: Roots::VendorAndSimulator, ..AppraisalPolicy::genuine(&platform::vocabularies()) };
    let appraiser = Appraiser { anchors: platform::anchors(&policy), policy };
    let verdict = appraiser.examine(platform.verifier, evidence, endorsements, &NoMemo, NOW);
    if verdict.is_ok() {
        let data = [7; 64];
        let bound = platform.verifier.bound(evidence).expect("what was accepted");
        assert_eq!(bound.octets(), &data[..bound.octets().len()], "accepted what was not signed");
    }
    read.is_ok()
}

/// Frames behind one another, each of a kind that may stand alone.
pub(crate) fn session_frames(data: &[u8]) -> bool {
    let mut rest = data;
    while let Some((header, behind)) = rest.split_first_chunk::<{ Header::LENGTH }>() {
        let Some(expected) = frame::Kind::of_octet(header[0]) else { return false };
        let Ok(Header { kind, length }) = Header::read(*header, expected, frame::MAX_EVIDENCE_FRAME) else { return false };
        let Some((payload, behind)) = behind.split_at_checked(length) else { return false };
        let written = match kind {
            frame::Kind::Evidence => EvidenceMessage::decode(payload).map(|message| message.encode()),
            frame::Kind::HelloClient => Hello::decode_client(payload).map(|hello| hello.encode()),
            frame::Kind::HelloServer => Hello::decode_server(payload).map(|hello| hello.encode()),
            frame::Kind::Result => Code::decode(payload).map(Code::encode),
        };
        let Ok(written) = written else { return false };
        assert_eq!(written, payload, "accepted another encoding");
        rest = behind;
    }
    rest.is_empty()
}

/// Stage 1 and 2 of SEV-SNP over a hostile report, certificates and revocation list, against the simulator's roots: the
/// report, then endorsements, each behind an octet for its name and two for its length. What is accepted must carry the
/// report data that was signed.
pub(crate) fn snp_authenticate(data: &[u8]) -> bool {
    let (report, mut rest) = data.split_at(data.len().min(REPORT_SIZE));
    let mut endorsements = Endorsements::default();
    while let [name, high, low, behind @ ..] = rest {
        let name = ENDORSEMENTS[usize::from(*name) % ENDORSEMENTS.len()].to_owned();
        let (bytes, behind) = behind.split_at(behind.len().min(usize::from(*high) << 8 | usize::from(*low)));
        endorsements.push(Endorsement { name, media_type: "application/pkix-cert".to_owned(), bytes: bytes.to_vec() });
        rest = behind;
    }
    let evidence = Evidence::new(MEDIA_TYPE, report.to_vec());
    let Some(platform) = platform::of_evidence(&evidence) else { return false };
    let _ = (platform.verifier.read(&evidence, &endorsements), platform.verifier.needs(&evidence));
    let policy = AppraisalPolicy { roots: Roots::VendorAndSimulator, ..AppraisalPolicy::genuine(&platform::vocabularies()) };
    let appraiser = Appraiser { anchors: platform::anchors(&policy), policy };
    let verdict = appraiser.examine(platform.verifier, &evidence, &endorsements, &NoMemo, NOW);
    if let Ok(appraisal) = &verdict {
        assert_eq!(appraisal.claims().bytes("report_data"), Some([7; 64].as_slice()), "accepted a report that was not signed");
    }
    verdict.is_ok()
}

/// The certificate of a report's signing key.
pub(crate) fn snp_certificate(data: &[u8]) -> bool {
    Vek::parse(data).is_ok()
}

/// An attestation report, its claims and its signature field.
pub(crate) fn snp_report(data: &[u8]) -> bool {
    let Ok(report) = Report::parse(data) else { return false };
    assert_eq!(report.encode(), data, "accepted another encoding");
    let _ = (report.signing_key(), report.signature_be());
    let evidence = Evidence::new(MEDIA_TYPE, data.to_vec());
    for platform in platform::PLATFORMS {
        let _ = (platform.verifier.read(&evidence, &Endorsements::default()), platform.verifier.bound(&evidence), platform.verifier.needs(&evidence));
    }
    true
}

/// The whole of stage 1 for Intel's quotes: evidence, chains, revocation lists and signed JSON, as a peer staples them.
pub(crate) fn intel_authenticate(data: &[u8]) -> bool {
    let Ok(presented) = Collection::decode(data) else { return false };
    let Some(platform) = platform::of_evidence(&presented.tee) else { return false };
    let vocabularies = platform::vocabularies();
    let policy = AppraisalPolicy { roots: Roots::VendorAndSimulator, ..AppraisalPolicy::genuine(&vocabularies) };
    let appraiser = Appraiser { anchors: platform::anchors(&policy), policy };
    let _ = platform.verifier.read(&presented.tee, &presented.endorsements);
    let _ = platform.verifier.needs(&presented.tee);
    appraiser.examine(platform.verifier, &presented.tee, &presented.endorsements, &NoMemo, NOW).is_ok()
}

/// What Intel signs about machines, and the chains of who signed.
pub(crate) fn intel_collateral(data: &[u8]) -> bool {
    let Ok(signed) = Signed::decode("tcb_info", data) else { return false };
    assert_eq!(signed.encode(), data, "accepted another encoding");
    let _ = chain("tcb_info", signed.chain);
    TcbInfo::read(signed.body).is_ok() || QeIdentity::read(signed.body).is_ok()
}

/// The event log beside a trust domain's quote.
pub(crate) fn intel_log(data: &[u8]) -> bool {
    let Ok(events) = Events::parse(data) else { return false };
    assert_eq!(Events::parse(&events.encode()), Ok(events), "what was read is written as something else");
    true
}

/// Intel's quotes.
pub(crate) fn intel_quote(data: &[u8]) -> bool {
    let Ok(quote) = Quote::parse(data) else { return false };
    assert_eq!(quote.encode(), data, "accepted another encoding");
    true
}

fn intel_authenticate_seeds() -> Vec<Vec<u8>> {
    let bind = binding_claims_seeds().swap_remove(0);
    let collection = |forge: IntelForge| {
        let quote = forge.quote(&ReportData([7; 64]));
        Collection { tee: quote.evidence, bind: bind.clone(), endorsements: quote.endorsements }.encode()
    };
    vec![collection(IntelForge::tdx15(1, NOW)), collection(IntelForge::sgx(1, NOW))]
}

fn intel_collateral_seeds() -> Vec<Vec<u8>> {
    let endorsements = IntelForge::tdx15(1, NOW).endorsements();
    ["tcb_info", "qe_identity"].map(|name| endorsements.find(name).expect("minted").to_vec()).to_vec()
}

fn intel_log_seeds() -> Vec<Vec<u8>> {
    let events = IntelForge::tdx10(1, NOW).log.expect("a log");
    let guest = vec![GuestEvent { kind: 0x0800_0001, name: "app-id".to_owned(), payload: vec![1, 2, 3] }];
    vec![events.encode(), Events { guest, ..events }.encode()]
}

fn intel_quote_seeds() -> Vec<Vec<u8>> {
    let mut padded = IntelForge::tdx10(1, NOW);
    padded.trailing = vec![0; 40];
    [IntelForge::sgx(1, NOW), padded, IntelForge::tdx15(1, NOW)].map(|forge| forge.sign(&ReportData([7; 64]))).to_vec()
}

fn binding_claims_seeds() -> Vec<Vec<u8>> {
    let claims = |kind| BindingClaims { kind, spki: KeyDigest([7; 48]), instance: vec![9; 16], aux: BTreeMap::new(), epoch: None, hpke: None };
    let names = vec!["a.example".to_owned(), "spiffe://example/b".to_owned()];
    let of_certificate = claims(Kind::Certificate { issued: Timestamp(1_790_812_800), expires: Timestamp(1_790_816_400), names });
    let full = BindingClaims {
        aux: BTreeMap::from([("gpu/0".to_owned(), [1; 48]), ("log".to_owned(), [2; 48])]),
        epoch: Some(("application/x".to_owned(), vec![3; 32])),
        hpke: Some((0x20, vec![4; 32])),
        ..claims(Kind::Web)
    };
    [of_certificate, claims(Kind::Session { hello: [5; 48] }), claims(Kind::Web), full].iter().map(BindingClaims::encode).collect()
}

fn cbor_seeds() -> Vec<Vec<u8>> {
    [binding_claims_seeds(), collection_seeds()].concat()
}

fn cose_seeds() -> Vec<Vec<u8>> {
    let key = EcKey::derive(Curve::P384, &[b"seed"]).public();
    let key = encode_key(&key).expect("a key");
    let sign1 = |tagging| cose::encode(tagging, &cose::protected(-35), &key, &[7; 96]);
    vec![sign1(cose::Tagging::Tagged), sign1(cose::Tagging::Untagged)]
}

fn cca_token_seeds() -> Vec<Vec<u8>> {
    let mut wrapped = CcaForge::new(1);
    wrapped.shape = cca::Shape::Wrapper;
    vec![CcaForge::new(1).token(&ReportData([7; 64])), wrapped.token(&ReportData([7; 64]))]
}

fn psa_token_seeds() -> Vec<Vec<u8>> {
    let of = |profile| {
        let mut forge = PsaForge::new(1);
        forge.token.profile = profile;
        forge.token(&[7; 64])
    };
    psa::PROFILES.iter().map(of).collect()
}

fn nitro_document_seeds() -> Vec<Vec<u8>> {
    let quote = |kind| NitroForge::new(kind, 1, NOW).quote(&[7; 64]).evidence.bytes;
    vec![quote(nitro::Kind::Enclave), quote(nitro::Kind::Tpm)]
}

fn collection_seeds() -> Vec<Vec<u8>> {
    let quote = forge(Product::Genoa).quote(&ReportData([7; 64]));
    let bind = binding_claims_seeds().swap_remove(0);
    let least = Collection { tee: quote.evidence, bind, endorsements: Endorsements::default() };
    let log = Auxiliary { label: "log".to_owned(), media_type: "application/vnd.portcullis.eventlog+cbor".to_owned(), bytes: vec![6; 30] };
    let tee = Evidence { auxiliary: vec![log], ..least.tee.clone() };
    let full = Collection { tee, endorsements: quote.endorsements, ..least.clone() };
    vec![least.encode(), full.encode()]
}

fn config_seeds() -> Vec<Vec<u8>> {
    let server = r#"version = 1
[identity]
provider = "simulator"
life = "1h"
names = ["app.example"]
batch_window = "20ms"
[identity.simulator]
seed = 7
product = "genoa"
[[listener]]
name = "public"
bind = "127.0.0.1:8443"
certificate = "attested"
clients = "any"
upstream = "app"
[[upstream]]
name = "app"
targets = ["tcp://127.0.0.1:8080", "unix:/run/app/socket"]
connect_timeout = "5s"
[observe]
bind = "127.0.0.1:9464"
"#;
    vec![server.as_bytes().to_vec()]
}

fn leaf_seeds() -> Vec<Vec<u8>> {
    let names = ["a.example".to_owned(), "spiffe://example/b".to_owned()];
    let of_seed = |seed: Vec<u8>| {
        let mut evidence = Collection::decode(&seed).expect("a seed");
        evidence.tee.auxiliary.clear();
        let key = rcgen::KeyPair::generate().expect("a key");
        let statement = Statement { names: &names, not_before: NOW, not_after: NOW.plus(3600), evidence: &evidence };
        issue(&key, &statement).expect("a certificate").to_vec()
    };
    collection_seeds().into_iter().map(of_seed).collect()
}

fn policy_seeds() -> Vec<Vec<u8>> {
    let measurement = "1b".repeat(48);
    let least = format!(r#"{{"version": 1, "name": "p", "accept": [{{"id": "a", "tee": "sev-snp", "measurement": "{measurement}"}}]}}"#);
    let full = format!(
        r#"{{"version": 1, "name": "full", "expires": "2027-01-01T00:00:00Z", "accept": [
  {{"id": "a", "tee": "sev-snp", "measurement": {{"any_of": ["{measurement}"]}}, "products": ["genoa", "milan"], "min_tcb": {{"genoa": {{"snp": 23}}}},
   "insecure_allow_milan": "a laboratory", "insecure_allow_debug": true, "guest_policy": {{"smt": false}}, "min_firmware": "1.55"}}]}}"#
    );
    vec![least.into_bytes(), full.into_bytes()]
}

fn session_frames_seeds() -> Vec<Vec<u8>> {
    let attest = Attest { server: true, client: true };
    let hello = |authority| Hello { nonce: [8; 32], attest, accepts: vec![MEDIA_TYPE.to_owned()], max_evidence: 1 << 18, authority };
    let proof = Proof { index: 2, size: 3, path: vec![[9; 48]] };
    let evidence = EvidenceMessage { collection: collection_seeds().swap_remove(0), claims: binding_claims_seeds().swap_remove(1), proof };
    let hello_client = Frame::new(frame::Kind::HelloClient, hello(Some("a.example".to_owned())).encode());
    let hello_server = Frame::new(frame::Kind::HelloServer, hello(None).encode());
    let evidence = Frame::new(frame::Kind::Evidence, evidence.encode());
    let result = |code: Code| Frame::new(frame::Kind::Result, code.encode());
    let exchange = [&hello_client, &hello_server, &evidence, &result(Code::Ok)].map(Frame::octets).concat();
    vec![exchange, result(Code::Busy).octets().to_vec(), hello_client.octets().to_vec()]
}

fn snp_authenticate_seeds() -> Vec<Vec<u8>> {
    let input = |forge: Forge| {
        let quote = forge.quote(&ReportData([7; 64]));
        let mut input = quote.evidence.bytes;
        for Endorsement { name, bytes, .. } in quote.endorsements.iter() {
            let name = ENDORSEMENTS.iter().position(|known| known == name).expect("a known name");
            input.push(name.to_be_bytes()[7]);
            input.extend(&bytes.len().to_be_bytes()[6..]);
            input.extend(bytes);
        }
        input
    };
    vec![input(forge(Product::Genoa)), input(forge(Product::Turin)), input(forge(Product::Genoa).vlek("CN=cloud.test"))]
}

fn snp_certificate_seeds() -> Vec<Vec<u8>> {
    let forges = Product::ALL.map(forge).into_iter().chain([forge(Product::Genoa).vlek("CN=cloud.test")]);
    forges.map(|forge| forge.vek_certificate()).collect()
}

fn snp_report_seeds() -> Vec<Vec<u8>> {
    [2, 3, 4, 5].map(|version| forge(Product::Genoa).version(version).report_over(&ReportData([7; 64]))).to_vec()
}

fn forge(product: Product) -> Forge {
    Forge::new(product, 1, NOW)
}

/// The certificate table of a host.
pub(crate) fn snp_table(data: &[u8]) -> bool {
    let Ok(entries) = table::parse(data) else { return false };
    let behind = data.len().saturating_sub(24 * (entries.len() + 1));
    assert!(entries.iter().all(|entry| entry.bytes.len() <= behind), "an entry reaches into the table");
    true
}

fn snp_table_seeds() -> Vec<Vec<u8>> {
    let vcek = 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd_u128;
    let one = [vcek.to_be_bytes().as_slice(), &48_u32.to_le_bytes(), &3_u32.to_le_bytes(), &[0; 24], b"der"].concat();
    vec![Vec::new(), vec![0; 4096], one]
}
