//! Endorsements from a folder: the operator's before the host's, read again when they change, never silently nothing.
#![cfg(feature = "simulator")]

use std::fs;
use std::path::Path;

use portcullis::attester::simulator::intel::IntelForge;
use portcullis::attester::simulator::{Forge, LaunchForge, LaunchHardware, MEASUREMENT, Role, SimulatedAttester, Simulation};
use portcullis::attester::stapled::Stapled;
use portcullis::attester::{Attester, Quote, Unavailable};
use portcullis::evidence::intel::collateral::Signed;
use portcullis::evidence::snp::Product;
use portcullis::evidence::{Auxiliary, Challenge, ReportData, Timestamp};
use portcullis::platform;
use portcullis::policy::AppraisalPolicy;
use portcullis::refusal::Reason;
use portcullis::verify::Appraiser;
use portcullis::verify::memo::NoMemo;

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

/// A machine of Intel's that has nothing to staple of its own.
struct Bare(Box<dyn Attester>);

impl Attester for Bare {
    fn platform(&self) -> &'static str {
        self.0.platform()
    }

    fn provider(&self) -> &'static str {
        self.0.provider()
    }

    fn attest(&self, challenge: &Challenge) -> Result<Quote, Unavailable> {
        self.0.attest(challenge).map(|quote| Quote { endorsements: portcullis::evidence::Endorsements::default(), ..quote })
    }

    fn listed(&self) -> Result<Vec<Auxiliary>, Unavailable> {
        self.0.listed()
    }
}

fn intel(tee: &str) -> Bare {
    Bare(platform::by_name(tee).expect("the platform").simulated.attester(&Simulation::new(1, NOW)).expect("a machine"))
}

/// The folder as Intel's service fills it.
fn collateral(folder: &Path, forge: &IntelForge) {
    let endorsements = forge.endorsements();
    let of = |name: &str| endorsements.find(name).expect("minted").to_vec();
    for name in ["tcb_info", "qe_identity"] {
        let bytes = of(name);
        let signed = Signed::decode(name, &bytes).expect("signed");
        fs::write(folder.join(name).with_extension("json"), signed.body).expect("written");
        fs::write(folder.join("tcb_signing_chain.pem"), signed.chain).expect("written");
    }
    fs::write(folder.join("pck_crl.der"), of("pck_crl")).expect("written");
    fs::write(folder.join("root_ca_crl.der"), of("root_crl")).expect("written");
    fs::write(folder.join("pck_crl_issuer_chain.pem"), "whatever the service said").expect("written");
}

/// The verdict of a verifier that can reach nobody and has nothing at hand.
fn verdict(attester: &dyn Attester) -> Result<(), Reason> {
    let quote = attester.attest(&Challenge::of(b"x")).expect("a quote");
    let tee = attester.platform();
    let text = format!(
        r#"{{ "version": 1, "name": "air", "insecure_roots": ["simulator"], "accept": [ {{ "id": "m", "tee": "{tee}", "insecure_any_measurement": true }} ] }}"#
    );
    let (policy, _) = AppraisalPolicy::load(text.as_bytes(), &platform::vocabularies()).unwrap_or_else(|problems| panic!("{problems:?}"));
    let appraiser = Appraiser { anchors: platform::anchors(&policy), policy };
    let verifier = platform::by_name(tee).expect("the platform").verifier;
    appraiser.examine(verifier, &quote.evidence, &quote.endorsements, &NoMemo, NOW).map(drop).map_err(|denied| denied.reason())
}

#[test]
fn a_verifier_without_a_network_accepts_an_intel_machine_whose_folder_has_what_it_needs() {
    for (tee, forge) in [("intel-tdx", IntelForge::tdx15(1, NOW)), ("intel-sgx", IntelForge::sgx(1, NOW))] {
        assert_eq!(verdict(&intel(tee)), Err(Reason::CollateralUnavailable), "{tee}: nothing is at hand");
        let folder = tempfile::tempdir().expect("a temporary folder");
        collateral(folder.path(), &forge);
        let stapled = Stapled::new(intel(tee), folder.path().to_owned()).expect("a usable folder");
        assert_eq!(verdict(&stapled), Ok(()), "{tee}");
        for missing in ["tcb_info.json", "qe_identity.json", "pck_crl.der", "root_ca_crl.der"] {
            let file = folder.path().join(missing);
            let bytes = fs::read(&file).expect("a file");
            fs::remove_file(&file).expect("removed");
            assert_eq!(verdict(&stapled), Err(Reason::CollateralUnavailable), "{tee} without {missing}");
            fs::write(&file, bytes).expect("written");
        }
        // As `collateral` and `probe --save` write them.
        for name in ["tcb_info", "qe_identity"] {
            fs::remove_file(folder.path().join(name).with_extension("json")).expect("removed");
            fs::write(folder.path().join(name).with_extension("cbor"), forge.endorsements().find(name).expect("minted")).expect("written");
        }
        assert_eq!(verdict(&stapled), Ok(()), "{tee}, saved");
    }
}

#[test]
fn a_changed_chain_is_read_and_a_document_that_is_none_stops_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (forge, file) = (IntelForge::tdx15(1, NOW), folder.path().join("tcb_info.json"));
    collateral(folder.path(), &forge);
    let stapled = Stapled::new(intel("intel-tdx"), folder.path().to_owned()).expect("a usable folder");
    assert_eq!(verdict(&stapled), Ok(()));
    fs::write(folder.path().join("tcb_signing_chain.pem"), "no chain").expect("written");
    assert_eq!(verdict(&stapled), Err(Reason::ChainUntrusted), "the documents are stapled with the chain that is there now");
    let refused = || Stapled::new(intel("intel-tdx"), folder.path().to_owned()).err().expect("unusable");
    fs::remove_file(folder.path().join("tcb_signing_chain.pem")).expect("removed");
    assert!(refused().why.contains("tcb_signing_chain.pem"), "{}", refused());
    for (bytes, expected) in [(&b"{}"[..], "neither TCB info"), (b"<html>", "neither TCB info")] {
        fs::write(folder.path().join("tcb_signing_chain.pem"), "chain").expect("written");
        fs::write(&file, bytes).expect("written");
        assert!(refused().why.contains(expected) && refused().what.contains("tcb_info.json"), "{}", refused());
    }
    fs::write(&file, b"").and_then(|()| fs::rename(&file, folder.path().join("tcb_info.cbor"))).expect("renamed");
    assert!(refused().what.contains("tcb_info.cbor"));
}

#[test]
fn a_launch_endorsement_is_stapled_as_google_publishes_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let endorsement = LaunchForge::new(LaunchHardware::SevSnp, MEASUREMENT, NOW).endorsement();
    fs::write(folder.path().join("launch_endorsement.binarypb"), &endorsement.bytes).expect("written");
    let shown = shown(&stapled(folder.path()).expect("a usable folder"));
    assert!(shown.contains(&(endorsement.name, endorsement.media_type, endorsement.bytes)));
    fs::write(folder.path().join("launch_endorsement.binarypb"), "<html>").expect("written");
    assert!(stapled(folder.path()).err().expect("unusable").why.contains("launch endorsement"));
}
