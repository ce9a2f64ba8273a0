//! The negative catalogue of Keystone, and Keystone's own code as the judge of the arithmetic: reports that its boot ROM
//! and security monitor made, and a second implementation of Ed25519 over SHA3-512, in Python.

#![cfg(feature = "simulator")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use data_encoding::HEXLOWER;
use portcullis::attester::simulator::{KeystoneForge, KeystoneKey};
use portcullis::evidence::keystone::{MEDIA_TYPE, REPORT_SIZE, Report, spki};
use portcullis::evidence::{Endorsements, Evidence, Timestamp};
use portcullis::platform::{self, PLATFORMS};
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::{Denied, Reason};
use portcullis::verify::memo::NoMemo;
use portcullis::verify::{Appraiser, Origin, keystone};

const NOW: Timestamp = Timestamp(1_796_083_200);
const SIMULATED: &str = r#""insecure_roots": ["simulator"]"#;
const TEST_DEVICE: &str = "0faad4ff01178583baa588966f7c1ff32564dd17d7dc2b46cb50a84a69270b4c";

/// A policy for the ordinary machine, with further keys of the file and of its entry.
fn policy(file: &str, entry: &str) -> Appraiser {
    let forge = KeystoneForge::new(7);
    let (enclave, monitor) = (HEXLOWER.encode(&forge.enclave_hash), HEXLOWER.encode(&forge.sm_hash));
    let text = format!(
        r#"{{ "version": 1, "name": "catalogue", {file}, "accept": [ {{ "id": "fixture", "tee": "keystone", "enclave_hash": "{enclave}",
              "sm_hash": "{monitor}", "insecure_accept_experimental": "a test"{entry} }} ] }}"#
    );
    let (policy, _) = AppraisalPolicy::load(text.as_bytes(), &platform::vocabularies()).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    Appraiser { anchors: platform::anchors(&policy), policy }
}

fn trusting(key: &[u8; 32]) -> String {
    format!(r#""keys": [{{ "tee": "keystone", "name": "rack 7", "key": "{}" }}]"#, HEXLOWER.encode(&spki(key)))
}

fn judge(bytes: &[u8], appraiser: &Appraiser) -> Result<Origin, Denied> {
    let evidence = Evidence::new(MEDIA_TYPE, bytes);
    let verifier = platform::of_evidence(&evidence).expect("the platform").verifier;
    appraiser.examine(verifier, &evidence, &Endorsements::default(), &NoMemo, NOW).map(|appraisal| appraisal.origin())
}

/// The ordinary machine's report with one thing changed before it is signed.
fn forged(change: fn(&mut KeystoneForge)) -> Vec<u8> {
    let mut forge = KeystoneForge::new(7);
    change(&mut forge);
    forge.report(&[9; 64]).encode()
}

/// The ordinary machine's report with one thing changed after it was signed.
fn tampered(change: fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = forged(|_| {});
    change(&mut bytes);
    bytes
}

#[test]
fn each_case_is_refused_with_its_code_and_the_fixture_is_accepted() {
    use Reason::*;
    let appraiser = policy(SIMULATED, "");
    assert_eq!(judge(&forged(|_| {}), &appraiser), Ok(Origin::Simulator));
    let cases: Vec<(&str, Reason, Vec<u8>)> = vec![
        ("keystone-testkey", ChainUntrusted, tampered(|b| b[1320..].copy_from_slice(&HEXLOWER.decode(TEST_DEVICE.as_bytes()).unwrap()))),
        ("keystone-len", EvidenceSize, tampered(|b| b[64..72].copy_from_slice(&4096_u64.to_le_bytes()))),
        ("empty", EvidenceSize, Vec::new()),
        ("truncated", EvidenceSize, tampered(|b| b.truncate(REPORT_SIZE - 1))),
        ("trailing", EvidenceSize, tampered(|b| b.push(0))),
        ("behind the data", EvidenceMalformed, tampered(|b| b[72 + 64] = 1)),
        ("at the end of the data area", EvidenceMalformed, tampered(|b| b[1095] = 1)),
        ("shorter data", EvidenceMalformed, tampered(|b| b[64] = 63)),
        ("longer data", SignatureInvalid, tampered(|b| b[64] = 65)),
        ("another device", ChainUntrusted, forged(|f| f.device = KeystoneKey::derive(&[b"another"]))),
        ("a device of small order", ChainUntrusted, tampered(|b| b[1320..].fill(0))),
        ("enclave signed by the device", SignatureInvalid, {
            let mut forge = KeystoneForge::new(7);
            let good = forge.report(&[9; 64]);
            forge.monitor = KeystoneKey::device();
            Report { enclave_signature: forge.report(&[9; 64]).enclave_signature, ..good }.encode()
        }),
        ("monitor of another machine", SignatureInvalid, {
            let other = KeystoneForge::new(8).report(&[9; 64]);
            let good = KeystoneForge::new(7).report(&[9; 64]);
            Report { sm_public_key: other.sm_public_key, enclave_signature: other.enclave_signature, ..good }.encode()
        }),
        ("enclave not listed", MeasurementUnknown, forged(|f| f.enclave_hash = [1; 64])),
        ("monitor not listed", MeasurementUnknown, forged(|f| f.sm_hash = [1; 64])),
        ("s not below the order", SignatureInvalid, tampered(|b| malleate(&mut b[1096..1160]))),
        ("s of the monitor's not below the order", SignatureInvalid, tampered(|b| malleate(&mut b[1256..1320]))),
    ];
    for (name, expected, bytes) in cases {
        assert_eq!(judge(&bytes, &appraiser).map_err(|denied| denied.reason()), Err(expected), "{name}");
    }
}

#[test]
fn a_flipped_bit_of_any_signed_octet_is_refused() {
    let (good, appraiser) = (forged(|_| {}), policy(SIMULATED, ""));
    for at in 0..REPORT_SIZE {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let expected = match at {
            64 | 72..136 => Reason::SignatureInvalid,
            65 => Reason::SignatureInvalid,
            66..72 => Reason::EvidenceSize,
            136..1096 => Reason::EvidenceMalformed,
            1320.. => Reason::ChainUntrusted,
            _ => Reason::SignatureInvalid,
        };
        assert_eq!(judge(&bytes, &appraiser).map_err(|denied| denied.reason()), Err(expected), "octet {at}");
    }
}

#[test]
fn roots_are_the_operators_and_the_test_key_is_never_one() {
    let bytes = forged(|_| {});
    let key = KeystoneKey::device().public();
    assert_eq!(judge(&bytes, &policy(&trusting(&key), "")), Ok(Origin::Operator));
    let reason = |appraiser: &Appraiser, bytes: &[u8]| judge(bytes, appraiser).map_err(|denied| denied.reason());
    assert_eq!(reason(&policy(r#""note": """#, ""), &bytes), Err(Reason::ChainUntrusted), "the simulator unnamed");
    assert_eq!(reason(&policy(&trusting(&KeystoneKey::derive(&[b"x"]).public()), ""), &bytes), Err(Reason::ChainUntrusted));
    let elsewhere = format!(r#", "device_public_key": "{}""#, "11".repeat(32));
    assert_eq!(reason(&policy(SIMULATED, &elsewhere), &bytes), Err(Reason::PlatformNotAllowed));
    let here = format!(r#", "device_public_key": "{}""#, HEXLOWER.encode(&key));
    assert_eq!(reason(&policy(SIMULATED, &here), &bytes), Ok(Origin::Simulator));
    let Some(captured) = captured("reference-code-valid") else { return };
    let test: [u8; 32] = HEXLOWER.decode(TEST_DEVICE.as_bytes()).unwrap().try_into().unwrap();
    assert_eq!(captured[1320..], test);
    let denied = judge(&captured, &policy(&trusting(&test), "")).unwrap_err();
    assert_eq!(denied.reason(), Reason::ChainUntrusted);
    assert!(denied.to_string().contains("test key"), "{denied}");
}

#[test]
fn an_entry_needs_both_hashes_and_the_acknowledgement() {
    let load = |entry: &str| {
        let text = format!(r#"{{ "version": 1, "name": "p", "accept": [ {{ "id": "a", "tee": "keystone"{entry} }} ] }}"#);
        AppraisalPolicy::load(text.as_bytes(), &platform::vocabularies())
            .map(drop)
            .map_err(|problems| problems.iter().map(|p| p.message.clone()).collect::<String>())
    };
    let hashes = format!(r#", "enclave_hash": "{0}", "sm_hash": "{0}""#, "11".repeat(64));
    assert_eq!(load(&format!(r#"{hashes}, "insecure_accept_experimental": "we know""#)), Ok(()));
    for (entry, said) in [
        (hashes.clone(), "off unless"),
        (format!(r#"{hashes}, "insecure_accept_experimental": true"#), "a text that says why"),
        (format!(r#"{hashes}, "insecure_accept_experimental": " ""#), "a text that says why"),
        (r#", "insecure_accept_experimental": "we know""#.to_owned(), "no enclave_hash"),
        (format!(r#", "insecure_accept_experimental": "x", "insecure_any_enclave": true, "sm_hash": "{}""#, "00".repeat(64)), "all zero"),
    ] {
        assert!(load(&entry).unwrap_err().contains(said), "{entry}");
    }
}

/// What Keystone's own boot ROM and security monitor signed. The verdict of stage 1 on these is another matter: their
/// device's key is the published one.
#[test]
fn the_signatures_of_keystones_own_code_verify() {
    for (case, holds) in [("reference-code-valid", true), ("tampered-data", false), ("sm-signature-of-other-sm", false), ("issue361-zero-sm-key", false)] {
        let Some(bytes) = captured(case) else { return };
        assert_eq!(keystone::signed(&bytes).is_ok(), holds, "{case}");
        if !holds {
            continue;
        }
        let signed = (0..72).chain(72..83).chain(1096..REPORT_SIZE);
        for at in signed {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(keystone::signed(&flipped).is_err(), "{case}: octet {at}");
        }
    }
    let Some(bytes) = captured("huge-data-len") else { return };
    assert_eq!(Report::parse(&bytes).unwrap_err().reason(), Reason::EvidenceSize);
}

/// The formulas of RFC 8032 over SHA3-512, in Python with nothing but its standard library: good signatures, flipped
/// ones, and those that the strict reading alone refuses.
#[test]
fn a_second_implementation_agrees() {
    let mut reports: Vec<Vec<u8>> = (0..8_u8).map(|seed| KeystoneForge::new(seed.into()).report(&vec![seed; usize::from(seed) * 100]).encode()).collect();
    for at in [0, 72, 1096, 1127, 1128, 1159, 1160, 1224, 1256, 1287, 1288, 1319, 1320, 1351] {
        let mut flipped = reports[1].clone();
        flipped[at] ^= 0x40;
        reports.push(flipped);
    }
    reports.push(tampered(|b| malleate(&mut b[1096..1160])));
    reports.extend(["reference-code-valid", "tampered-data", "sm-signature-of-other-sm", "issue361-zero-sm-key"].iter().filter_map(|case| captured(case)));
    let Ok(mut python) = Command::new("python3").args(["-c", SECOND]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
        println!("SKIPPED: no python3: Ed25519 over SHA3-512 has no second opinion");
        return;
    };
    let mut input = python.stdin.take().expect("a pipe");
    for report in &reports {
        writeln!(input, "{}", HEXLOWER.encode(report)).expect("python reads");
    }
    drop(input);
    let output = python.wait_with_output().expect("python ends");
    assert!(output.status.success());
    let theirs: Vec<bool> = String::from_utf8_lossy(&output.stdout).lines().map(|line| line == "True").collect();
    let ours: Vec<bool> = reports.iter().map(|report| keystone::signed(report).is_ok()).collect();
    assert_eq!(theirs, ours);
    assert!(ours.iter().filter(|good| **good).count() >= 8 && ours.iter().filter(|good| !**good).count() >= 14);
}

const SECOND: &str = r#"
import sys, hashlib
p = 2**255 - 19
q = 2**252 + 27742317777372353535851937790883648493
d = -121665 * pow(121666, p - 2, p) % p
def add(P, Q):
    (a, b), (c, e) = P, Q
    k = d * a * c * b * e
    return ((a * e + b * c) * pow(1 + k, p - 2, p) % p, (b * e + a * c) * pow(1 - k, p - 2, p) % p)
def mul(s, P):
    Q = (0, 1)
    while s:
        if s & 1: Q = add(Q, P)
        P = add(P, P); s >>= 1
    return Q
def point(raw):
    y = int.from_bytes(raw, "little"); sign = y >> 255; y &= (1 << 255) - 1
    if y >= p: return None
    xx = (y * y - 1) * pow(d * y * y + 1, p - 2, p) % p
    x = pow(xx, (p + 3) // 8, p)
    if (x * x - xx) % p: x = x * pow(2, (p - 1) // 4, p) % p
    if (x * x - xx) % p or (x == 0 and sign): return None
    P = (p - x if x & 1 != sign else x, y)
    return None if mul(8, P) == (0, 1) else P
B = point((4 * pow(5, p - 2, p) % p).to_bytes(32, "little"))
def good(key, message, signature):
    A, R, s = point(key), point(signature[:32]), int.from_bytes(signature[32:], "little")
    if A is None or R is None or s >= q: return False
    h = int.from_bytes(hashlib.sha3_512(signature[:32] + key + message).digest(), "little") % q
    return mul(s, B) == add(R, mul(h, A))
for line in sys.stdin:
    r = bytes.fromhex(line); n = int.from_bytes(r[64:72], "little")
    print(len(r) == 1352 and n <= 1024 and not any(r[72 + n:1096]) and good(r[1320:], r[1160:1256], r[1256:1320]) and good(r[1224:1256], r[:72 + n], r[1096:1160]))
"#;

/// The same signature with the group's order added to `S`: a good equation in another encoding.
fn malleate(signature: &mut [u8]) {
    const ORDER: [u8; 32] =
        [0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
    let mut carry = 0;
    for (octet, of_order) in signature[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*octet) + u16::from(of_order) + carry;
        (*octet, carry) = ((sum & 0xff) as u8, sum >> 8);
    }
    assert_eq!(carry, 0);
}

/// A report of the captured cases; `None` where they are not at hand, which is said.
fn captured(case: &str) -> Option<Vec<u8>> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors");
    let folder = std::env::var_os("PORTCULLIS_VECTORS").map_or_else(default, PathBuf::from);
    let path = folder.join(format!("keystone/{case}/report.bin"));
    let read = std::fs::read(&path).ok();
    if read.is_none() {
        println!("SKIPPED: no {}", path.display());
    }
    read
}

#[test]
fn the_row_is_experimental() {
    let row = PLATFORMS.iter().find(|platform| platform.name == "keystone").expect("the row");
    assert!((row.anchors)().is_empty() && row.vendor_service.is_empty());
}
