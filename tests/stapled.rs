//! Endorsements from a folder: the operator's before the host's, read again when they change, never silently nothing.
#![cfg(feature = "simulator")]

use std::fs;
use std::path::Path;

use portcullis::attester::simulator::{Forge, Role, SimulatedAttester};
use portcullis::attester::stapled::Stapled;
use portcullis::attester::{Attester as _, Unavailable};
use portcullis::evidence::snp::Product;
use portcullis::evidence::{Challenge, ReportData, Timestamp};

const NOW: Timestamp = Timestamp(1_790_812_800);

fn forge(seed: u64) -> Forge {
    Forge::new(Product::Genoa, seed, NOW)
}

fn stapled(folder: &Path) -> Result<Stapled<SimulatedAttester>, Unavailable> {
    let mut bare = forge(1);
    bare.unstapled = vec!["ask", "crl"];
    Stapled::new(bare.attester(), folder.to_owned())
}

fn of(forge: &Forge, name: &str) -> Vec<u8> {
    forge.endorsements().find(name).expect("minted").to_vec()
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", data_encoding::BASE64.encode(der))
}

fn shown(stapled: &Stapled<SimulatedAttester>) -> Vec<(String, String, Vec<u8>)> {
    let quote = stapled.attest(&Challenge { long: ReportData([1; 64]), short: [0; 48] }).expect("a quote");
    quote.endorsements.into_iter().map(|endorsement| (endorsement.name, endorsement.media_type, endorsement.bytes)).collect()
}

fn expected(name: &str, kind: &str, bytes: &[u8]) -> (String, String, Vec<u8>) {
    (name.to_owned(), format!("application/pkix-{kind}"), bytes.to_vec())
}

#[test]
fn the_folder_adds_and_precedes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ours, other) = (forge(1), forge(2));
    let (ask, crl, vcek) = (of(&ours, "ask"), of(&ours, "crl"), of(&other, "vcek"));
    let ark = ours.vendor.certificate(Role::Ark);
    // As the vendor's service gives them: a chain in PEM, the intermediate first.
    fs::write(folder.path().join("ask.pem"), pem("CERTIFICATE", &ask) + &pem("CERTIFICATE", &ark)).expect("written");
    fs::write(folder.path().join("crl.pem"), pem("X509 CRL", &crl)).expect("written");
    fs::write(folder.path().join("vcek.der"), &vcek).expect("written");
    fs::write(folder.path().join("ark.der"), &ark).expect("written");
    fs::write(folder.path().join("notes.txt"), "not an endorsement").expect("written");
    let stapled = stapled(folder.path()).expect("a usable folder");
    assert_eq!((stapled.platform(), stapled.provider()), ("sev-snp", "simulator"));
    let all = [expected("ask", "cert", &ask), expected("crl", "crl", &crl), expected("vcek", "cert", &vcek)];
    assert_eq!(shown(&stapled), all, "one of each name, the folder's vcek for the machine's");
}

#[test]
fn changes_are_seen_and_damage_is_not_stapled() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (first, second) = (of(&forge(1), "crl"), of(&forge(1), "crl"));
    assert_ne!(first, second, "signatures are randomised");
    let (crl, ask) = (folder.path().join("crl.der"), of(&forge(1), "ask"));
    let replace = |bytes: &[u8]| {
        // As careful tools do: a new file in the place of the old.
        fs::write(folder.path().join("new"), bytes).and_then(|()| fs::rename(folder.path().join("new"), &crl)).expect("replaced");
    };
    replace(&first);
    let stapled = stapled(folder.path()).expect("a usable folder");
    let vcek = of(&forge(1), "vcek").len();
    let names = |shown: &[(String, String, Vec<u8>)]| shown.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>();
    assert_eq!(shown(&stapled)[0].2, first);
    replace(&second);
    assert_eq!(shown(&stapled)[0].2, second);
    replace(b"half a fi");
    assert_eq!(shown(&stapled)[0].2, second, "the last that could be read");
    fs::write(folder.path().join("ask.crt"), &ask).expect("written");
    assert_eq!(names(&shown(&stapled)), ["ask", "crl", "vcek"], "a file that came later");
    fs::remove_file(&crl).expect("removed");
    let left = shown(&stapled);
    assert_eq!(names(&left), ["ask", "vcek"], "what was taken away is not stapled");
    assert!(left[1].2.len().abs_diff(vcek) < 8);
}

#[test]
fn a_folder_that_does_nothing_stops_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refused = |path: &Path| stapled(path).err().expect("unusable");
    assert!(refused(&folder.path().join("missing")).why.contains("No such file"));
    assert!(refused(folder.path()).why.contains("no file ends in"));
    let file = folder.path().join("vcek.der");
    let cases = [
        (b"neither".to_vec(), "DER or PEM"),
        ([of(&forge(1), "vcek"), vec![0]].concat(), "DER or PEM"),
        (pem("PRIVATE KEY", &of(&forge(1), "vcek")).into_bytes(), "DER or PEM"),
        (vec![0x30; 64 * 1024 + 1], "longer than 65536"),
    ];
    for (bytes, expected) in cases {
        fs::write(&file, bytes).expect("written");
        let refused = refused(folder.path());
        assert!(refused.why.contains(expected) && refused.what.contains("vcek.der"), "{refused}");
    }
    fs::remove_file(&file).expect("removed");
    (0..20).for_each(|number| fs::write(folder.path().join(format!("{number}.der")), "x").expect("written"));
    assert!(refused(folder.path()).why.contains("more than 16"));
}
