//! 6.2, certificate evidence: leaves whose evidence is genuine and something else is wrong, and the reverse.
//!
//! Every row is tried by a hostile server against a client sidecar of the `certificate` tier and by a hostile client
//! against a server sidecar of that tier which lets attested clients in.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis::attester::Attester;
use portcullis::crypto::sha384;
use portcullis::evidence::binding::{BindingClaims, Kind, certificate_challenge};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::{Auxiliary, Challenge, Evidence, KeyDigest, ReportData, Timestamp};
use portcullis::tls::Tier;

use crate::attack::{Failures, Listening, Target, on_client, on_server};
use crate::peer::{Holder, Leaf, Tls, Wire, new_key, spki};
use crate::wire::INSTANCE;
use crate::world::{BAIT, Client, NOW, SECRET, machine};

const ID_PE_CMW: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 1, 35];
const TCG: &[u64] = &[2, 23, 133, 5, 4, 9];

/// A leaf in the making. The default is what an honest attester makes.
struct Making {
    claims: fn(&mut BindingClaims),
    report_data: fn(&mut ReportData, &[u8]),
    collection: fn(&mut Collection),
    /// The extension's value; by default a DER OCTET STRING around the collection.
    value: fn(Vec<u8>) -> Vec<u8>,
    /// The certificate, with the extension in it.
    leaf: fn(&mut Leaf),
}

const HONEST: Making = Making { claims: |_| {}, report_data: |_, _| {}, collection: |_| {}, value: octet_string, leaf: |_| {} };

impl Making {
    fn make(&self, machine: &Arc<dyn Attester>) -> Holder {
        let key = new_key();
        let (issued, expires) = (NOW, NOW.plus(3600));
        let mut claims = BindingClaims {
            kind: Kind::Certificate { issued, expires, names: vec!["app.example".to_owned()] },
            spki: KeyDigest::of_spki(&spki(&key)),
            instance: INSTANCE.to_vec(),
            aux: BTreeMap::new(),
            epoch: None,
            hpke: None,
        };
        (self.claims)(&mut claims);
        let bind = claims.encode();
        let mut report_data = certificate_challenge(&bind).long;
        (self.report_data)(&mut report_data, &bind);
        let quote = machine.attest(&Challenge { long: report_data, short: [0; 48] }).expect("a simulated quote");
        let mut collection = Collection { tee: quote.evidence, bind, endorsements: quote.endorsements };
        (self.collection)(&mut collection);
        let mut leaf = Leaf { extensions: vec![(ID_PE_CMW.to_vec(), (self.value)(collection.encode()))], ..Leaf::default() };
        (self.leaf)(&mut leaf);
        Holder::with(key, &leaf)
    }
}

/// A leaf that the rows start from.
pub fn honest_leaf(machine: &Arc<dyn Attester>) -> Holder {
    HONEST.make(machine)
}

/// `04 82 <length> <content>`, for contents of 256 to 65,535 octets.
fn octet_string(content: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    [[0x04, 0x82].as_slice(), &length, &content].concat()
}

fn gpu() -> Auxiliary {
    Auxiliary { label: "gpu/0".to_owned(), media_type: "application/vnd.veraison.nvidia-gpu-evidence+json".to_owned(), bytes: b"{}".to_vec() }
}

fn kind(claims: &mut BindingClaims, change: impl Fn(&mut Timestamp, &mut Timestamp, &mut Vec<String>)) {
    if let Kind::Certificate { issued, expires, names } = &mut claims.kind {
        change(issued, expires, names);
    }
}

/// Replaces the first occurrence.
fn replaced(mut octets: Vec<u8>, old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = octets.windows(old.len()).position(|window| window == old).expect("what is to be replaced");
    octets.splice(at..at + old.len(), new.iter().copied());
    octets
}

/// One known extension of another format in place of ours.
fn instead(leaf: &mut Leaf, oid: &[u64], value: &[u8]) {
    leaf.extensions = vec![(oid.to_vec(), value.to_vec())];
}

type Row = (&'static str, &'static str, Making);

fn rows() -> Vec<Row> {
    let claims = |change| Making { claims: change, ..HONEST };
    let leaf = |change| Making { leaf: change, ..HONEST };
    let value = |change| Making { value: change, ..HONEST };
    let collection = |change| Making { collection: change, ..HONEST };
    let report_data = |change| Making { report_data: change, ..HONEST };
    vec![
        ("session-evidence-in-cert", "evidence_malformed", claims(|claims| claims.kind = Kind::Session { hello: [0x22; 48] })),
        ("web-evidence-in-cert", "evidence_malformed", claims(|claims| claims.kind = Kind::Web)),
        ("cert-names-add", "name_mismatch", leaf(|leaf| leaf.names.push("bank.example".to_owned()))),
        ("cert-names-other", "name_mismatch", leaf(|leaf| leaf.names = vec!["bank.example".to_owned()])),
        ("cert-names-none", "name_mismatch", leaf(|leaf| leaf.names.clear())),
        ("cert-names-uri", "name_mismatch", leaf(|leaf| leaf.names.push("spiffe://bank.example/app".to_owned()))),
        ("cert-names-fewer", "name_mismatch", claims(|claims| kind(claims, |_, _, names| names.push("bank.example".to_owned())))),
        ("cert-notafter-extended", "evidence_stale", leaf(|leaf| leaf.not_after = NOW.0 + 3601)),
        ("cert-notbefore-early", "evidence_stale", leaf(|leaf| leaf.not_before = NOW.0 - 601)),
        (
            "cert-expired-evidence",
            "evidence_stale",
            Making { claims: |claims| kind(claims, |issued, expires, _| (*issued, *expires) = (NOW.minus(300), NOW.minus(1))), ..HONEST },
        ),
        ("iat-future", "evidence_stale", claims(|claims| kind(claims, |issued, expires, _| (*issued, *expires) = (NOW.plus(600), NOW.plus(4000))))),
        (
            "iat beyond max_evidence_age",
            "evidence_stale",
            Making { claims: |claims| kind(claims, |issued, _, _| *issued = NOW.minus(3601)), leaf: |leaf| leaf.not_before = NOW.0 - 3700, ..HONEST },
        ),
        ("exp beyond a day", "evidence_stale", claims(|claims| kind(claims, |_, expires, _| *expires = NOW.plus(24 * 3600 + 1)))),
        ("a certificate that has ended", "certificate_invalid", leaf(|leaf| (leaf.not_before, leaf.not_after) = (NOW.0 - 600, NOW.0 - 121))),
        ("a certificate of the future", "certificate_invalid", leaf(|leaf| leaf.not_before = NOW.0 + 121)),
        ("two-extensions", "evidence_ambiguous", leaf(|leaf| leaf.extensions.push((TCG.to_vec(), b"\xd9\xea\x60\x82\x44\xaa\xaa\xaa\xaa\x41\xa0".to_vec())))),
        ("two-extensions, ours last", "evidence_ambiguous", leaf(|leaf| leaf.extensions.insert(0, (TCG.to_vec(), vec![0xa0])))),
        ("two-id-pe-cmw", "certificate_invalid", leaf(|leaf| leaf.extensions.push(leaf.extensions[0].clone()))),
        (
            "any extension twice",
            "certificate_invalid",
            leaf(|leaf| leaf.extensions.extend([(vec![1, 3, 9999, 1], vec![5, 0]), (vec![1, 3, 9999, 1], vec![5, 0])])),
        ),
        (
            "evidence-not-in-extension",
            "evidence_unsupported",
            leaf(|leaf| {
                // The same octets in a name and in an extension that nobody knows.
                let (_, value) = leaf.extensions.remove(0);
                leaf.common_name = data_encoding::BASE64.encode(&value[..600]);
                leaf.extensions.push((vec![1, 3, 9999, 35], value));
            }),
        ),
        (
            "evidence-not-in-extension, OID as bait",
            "evidence_unsupported",
            leaf(|leaf| {
                let (_, value) = leaf.extensions.remove(0);
                let bait = [b"\x06\x08\x2b\x06\x01\x05\x05\x07\x01\x23\x04".as_slice(), &value].concat();
                leaf.extensions.push((vec![1, 3, 9999, 36], bait));
            }),
        ),
        ("ext-no-octetstring", "evidence_malformed", value(|collection| collection)),
        ("ext-octetstring-trailing", "evidence_malformed", value(|collection| [octet_string(collection), vec![0]].concat())),
        ("ext-octetstring-indefinite", "evidence_malformed", value(|collection| [vec![0x24, 0x80], octet_string(collection), vec![0, 0]].concat())),
        (
            "ext-octetstring-long-form",
            "evidence_malformed",
            value(|collection| {
                let length = u32::try_from(collection.len()).expect("short").to_be_bytes();
                [[0x04, 0x84].as_slice(), &length, &collection].concat()
            }),
        ),
        ("ext-empty", "evidence_malformed", value(|_| Vec::new())),
        ("ext-octetstring-empty", "evidence_malformed", value(|_| vec![0x04, 0])),
        ("cmw-json", "evidence_unsupported", value(|_| [vec![0x0c, 14], br#"["a","AAAA",4]"#.to_vec()].concat())),
        ("cmw-record in place of a collection", "evidence_malformed", value(|_| b"\x04\x08\x83\x19\x01\x07\x42\0\0\x04".to_vec())),
        (
            "cmw-ind-zero",
            "evidence_malformed",
            value(|collection| {
                // The first member is the TEE's evidence: its indicator stands before the next label.
                octet_string(replaced(collection, b"\x04\x64bind", b"\x00\x64bind"))
            }),
        ),
        ("cmw-unlisted-aux", "auxiliary_unbound", collection(|collection| collection.tee.auxiliary.push(gpu()))),
        (
            "cmw-aux-hash-mismatch",
            "auxiliary_unbound",
            Making {
                claims: |claims| claims.aux.extend([("gpu/0".to_owned(), sha384(&[b"{ }"]))]),
                collection: |collection| collection.tee.auxiliary.push(gpu()),
                ..HONEST
            },
        ),
        (
            "cmw-two-tee",
            "evidence_ambiguous",
            collection(|collection| {
                let Evidence { media_type, bytes, .. } = collection.tee.clone();
                collection.tee.auxiliary.push(Auxiliary { label: "tee2".to_owned(), media_type, bytes });
            }),
        ),
        (
            "gpu-only",
            "evidence_unsupported",
            Making {
                collection: |collection| collection.tee.auxiliary.push(gpu()),
                value: |collection| octet_string(replaced(collection, b"\x63tee", b"\x63log")),
                ..HONEST
            },
        ),
        ("null-verifier", "evidence_unsupported", leaf(|leaf| leaf.extensions.clear())),
        ("sgx-pck-oid-in-leaf", "evidence_unsupported", leaf(|leaf| instead(leaf, &[1, 2, 840, 113_741, 1, 13, 1], b"\x30\x03\x02\x01\x05"))),
        ("known-but-not-enabled: CCC", "evidence_unsupported", leaf(|leaf| instead(leaf, TCG, b"\xd9\xea\x60\x82\x44\xaa\xaa\xaa\xaa\x41\xa0"))),
        ("known-but-not-enabled: SGX SDK", "evidence_unsupported", leaf(|leaf| instead(leaf, &[1, 2, 840, 113_741, 1, 13, 1], &[3, 0, 2, 0]))),
        ("known-but-not-enabled: Gramine", "evidence_unsupported", leaf(|leaf| instead(leaf, &[1, 2, 840, 113_741, 1337, 6], &[3, 0, 2, 0]))),
        ("known-but-not-enabled: dstack", "evidence_unsupported", leaf(|leaf| instead(leaf, &[1, 3, 6, 1, 4, 1, 62_397, 1, 8], &[4, 1, 0]))),
        ("known-but-not-enabled: our collection under CCC's OID", "evidence_unsupported", leaf(|leaf| leaf.extensions[0].0 = TCG.to_vec())),
        ("spki of another key", "binding_mismatch", claims(|claims| claims.spki = KeyDigest([0x66; 48]))),
        ("rd-tail", "binding_mismatch", report_data(|data, _| data.0[63] ^= 1)),
        ("rd-head-48", "binding_mismatch", report_data(|data, _| data.0[48..].fill(0))),
        ("rd of a hash without the label", "binding_mismatch", report_data(|data, claims| data.0 = portcullis::crypto::sha512(&[claims]))),
        (
            "claims changed after the quote",
            "binding_mismatch",
            collection(|collection| collection.bind = replaced(std::mem::take(&mut collection.bind), &INSTANCE, &[0x34; 16])),
        ),
        ("a flipped bit in the report", "signature_invalid", collection(|collection| collection.tee.bytes[0x90] ^= 1)),
        ("no endorsements", "collateral_unavailable", collection(|collection| collection.endorsements = Default::default())),
        (
            "evidence beyond the bound",
            "evidence_size",
            collection(|collection| collection.tee.auxiliary.push(Auxiliary { bytes: vec![0; 12 * 1024], ..gpu() })),
        ),
        ("a leaf beyond the bound", "certificate_invalid", leaf(|leaf| leaf.extensions.push((vec![1, 3, 9999, 1], vec![0; 33 * 1024])))),
    ]
}

/// Without our protocols, as any TLS program.
fn plain_tls(holder: &Holder) -> Tls {
    Tls { alpn: Vec::new(), ..Tls::of(holder) }
}

/// What the rows start from is accepted, by both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_leaf_is_admitted_from_either_end() {
    let machine = machine(3);
    let tls = plain_tls(&HONEST.make(&machine));
    let target = Target::certificate();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = Client::start(&target.house, target.plan, listener.local_addr().expect("an address"));
    let serving = async {
        let (tcp, _) = listener.accept().await.expect("the sidecar connects");
        let mut wire = tls.accept(tcp).await.expect("a handshake");
        let said = wire.read_some(SECRET.len()).await;
        wire.send(BAIT).await;
        wire.finish().await;
        said
    };
    let (read, said) = tokio::join!(client.application(), serving);
    assert_eq!((read.as_slice(), said.as_slice()), (BAIT, SECRET));
    client.end().await;
    let target = Listening::attested(Tier::Certificate).await;
    let server = crate::world::Server::start(&target.house, target.plan).await;
    let mut wire = tls.connect(server.dial().await).await.expect("a handshake");
    wire.send(SECRET).await;
    assert_eq!(wire.read_some(SECRET.len()).await, SECRET);
    wire.finish().await;
    assert_eq!(server.outcome().await.field("event"), "forwarded");
    assert_eq!(server.end().await, (1, SECRET.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_that_is_wrong_is_refused_by_a_client() {
    let (machine, mut failures) = (machine(3), Failures::default());
    for (name, code, making) in rows() {
        let attacked = on_client(Target::certificate(), &plain_tls(&making.make(&machine)), async |_: &mut Wire| {}).await;
        failures.check(&attacked, name, code);
    }
    failures.none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaf_that_is_wrong_is_refused_by_a_server() {
    let (machine, mut failures) = (machine(3), Failures::default());
    for (name, code, making) in rows() {
        let target = Listening::attested(Tier::Certificate).await;
        let attacked = on_server(target, &plain_tls(&making.make(&machine)), async |_: &mut Wire| {}).await;
        failures.check(&attacked, name, code);
    }
    failures.none();
}

/// Evidence copied out of a genuine certificate speaks for the genuine key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_copied_into_another_leaf_is_refused() {
    let genuine = HONEST.make(&machine(1));
    let (_, read) = x509_parser::parse_x509_certificate(&genuine.leaf).expect("a certificate");
    let copied = read.extensions().iter().find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.35").expect("evidence");
    let thief = Holder::with(new_key(), &Leaf { extensions: vec![(ID_PE_CMW.to_vec(), copied.value.to_vec())], ..Leaf::default() });
    let mut failures = Failures::default();
    let attacked = on_client(Target::certificate(), &plain_tls(&thief), async |_: &mut Wire| {}).await;
    failures.check(&attacked, "stolen evidence of a server", "binding_mismatch");
    let attacked = on_server(Listening::attested(Tier::Certificate).await, &plain_tls(&thief), async |_: &mut Wire| {}).await;
    failures.check(&attacked, "stolen evidence of a client", "binding_mismatch");
    let attacked = on_server(Listening::attested(Tier::Certificate).await, &Tls { alpn: Vec::new(), ..Tls::anonymous() }, async |_: &mut Wire| {}).await;
    failures.check(&attacked, "no certificate at all", "evidence_unsupported");
    failures.none();
}
