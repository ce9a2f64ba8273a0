//! What judging costs, beside the signatures it cannot do without. Prints times and, at the end, the ratios.
//!
//! `cargo bench --bench appraisal`. Compare figures of one run only.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::admin::metrics::Metrics;
use portcullis::attester::simulator::{self, Forge};
use portcullis::attester::{Attester as _, Quote};
use portcullis::crypto::{Scheme, verifies};
use portcullis::evidence::batch;
use portcullis::evidence::binding::{Binding, BindingClaims, Channel, Kind, Role};
use portcullis::evidence::cmw::Collection;
use portcullis::evidence::snp::{Product, Report, SIGNED_SIZE, Vek};
use portcullis::evidence::{KeyDigest, Timestamp};
use portcullis::platform;
use portcullis::policy::AppraisalPolicy;
use portcullis::proxy::appraisal::{Appraisals, Memo};
use portcullis::tls::Judge as _;
use portcullis::tls::certificate::{Statement, issue};
use portcullis::verify::memo::NoMemo;
use portcullis::verify::{Appraiser, SignatureMemo};

const NOW: Timestamp = Timestamp(1_790_812_800);

fn appraiser() -> Appraiser {
    let measurement = data_encoding::HEXLOWER.encode(&simulator::MEASUREMENT);
    let text = format!(
        r#"{{ "version": 1, "name": "bench", "insecure_roots": ["simulator"], "accept": [ {{ "id": "guest", "tee": "sev-snp", "measurement": "{measurement}" }} ] }}"#
    );
    let policy = AppraisalPolicy::load(text.as_bytes(), &platform::vocabularies()).expect("a good policy").0;
    Appraiser { anchors: platform::anchors(&policy), policy }
}

/// Evidence for one session, as a verifier gets it.
fn session(forge: &Forge) -> (Collection, Binding) {
    let key = KeyDigest([1; 48]);
    let claims = BindingClaims { kind: Kind::Session { hello: [8; 48] }, spki: key, instance: vec![3; 16], aux: [].into(), epoch: None, hpke: None }.encode();
    let channel = Channel {
        role: Role::Server,
        exporter: &[9; 32],
        nonce_peer: &[4; 32],
        nonce_self: &[5; 32],
        key_self: &key,
        key_peer: None,
        alpn: b"portcullis1/raw",
    };
    let (root, proofs) = batch::build(&[channel.leaf(&claims)]).expect("one leaf");
    let Quote { evidence, endorsements } = forge.quote(&batch::challenge(1, &root).long);
    let binding = Binding::of_session(&claims, &channel, &[8; 48], &proofs[0]).expect("a good binding");
    (Collection { tee: evidence, bind: claims, endorsements }, binding)
}

/// A leaf certificate that carries evidence.
fn leaf(forge: Forge) -> Vec<u8> {
    let names = vec!["bench.invalid".to_owned()];
    let key = rcgen::KeyPair::generate().expect("a key");
    let spki = KeyDigest::of_spki(&rcgen::PublicKeyData::subject_public_key_info(&key));
    let kind = Kind::Certificate { issued: NOW, expires: NOW.plus(3600), names: names.clone() };
    let claims = BindingClaims { kind, spki, instance: vec![3; 16], aux: [].into(), epoch: None, hpke: None }.encode();
    let Quote { evidence, endorsements } = forge.attester().attest(&portcullis::evidence::binding::certificate_challenge(&claims)).expect("a quote");
    let collection = Collection { tee: evidence, bind: claims, endorsements };
    let statement = Statement { names: &names, not_before: NOW.minus(300), not_after: NOW.plus(3600), evidence: &collection };
    issue(&key, &statement).expect("a certificate").to_vec()
}

fn appraisal(c: &mut Criterion) {
    let forge = Forge::new(Product::Genoa, 1, NOW);
    let platform = platform::by_name("sev-snp").expect("the platform");
    let (presented, binding) = session(&forge);
    let appraiser = appraiser();
    let judge = |memo: &dyn SignatureMemo| appraiser.judge(platform.verifier, black_box(&presented), black_box(&binding), memo, NOW).expect("accepted");

    let report = Report::parse(&presented.tee.bytes).expect("a report");
    let vek = Vek::parse(presented.endorsements.find("vcek").expect("stapled")).expect("a certificate");
    let signature = report.signature_be().expect("a signature");
    let p384 = || assert!(verifies(Scheme::EcdsaP384Sha384, &vek.key, black_box(&presented.tee.bytes[..SIGNED_SIZE]), &signature));
    let chain = RsaSignatures::of(&presented);
    let rsa = || assert!(chain.verify_all());

    let memo = Memo::new();
    judge(&memo);
    let judging = Arc::new(self::appraiser());
    let certificate = leaf(forge.clone());
    let cold = || {
        let appraisals = Appraisals::new(Arc::clone(&judging), Arc::new(Memo::new()), Arc::new(Metrics::new()));
        appraisals.certificate(black_box(&certificate), NOW).expect("accepted");
    };
    let warm = Appraisals::new(Arc::clone(&judging), Arc::new(Memo::new()), Arc::new(Metrics::new()));
    let cached = || drop(warm.certificate(black_box(&certificate), NOW).expect("accepted"));

    let mut group = c.benchmark_group("appraisal");
    group.sample_size(60).measurement_time(Duration::from_secs(3));
    group.bench_function("primitive: one P-384 verify", |b| b.iter(p384));
    group.bench_function("primitive: RSA-4096 verifies of one chain and list", |b| b.iter(rsa));
    group.bench_function("session, cold", |b| b.iter(|| judge(&NoMemo)));
    group.bench_function("session, VCEK known", |b| b.iter(|| judge(&memo)));
    group.bench_function("certificate, cold", |b| b.iter(cold));
    group.bench_function("certificate, cached", |b| b.iter(cached));
    group.finish();

    let (one, chain) = (median(p384), median(rsa));
    println!("session, cold       = {:.2} x (P-384 verify + RSA verifies)", median(|| drop(judge(&NoMemo))) / (one + chain));
    println!("session, VCEK known = {:.2} x one P-384 verify", median(|| drop(judge(&memo))) / one);
    println!("certificate, cold   = {:.2} x (P-384 verify + RSA verifies)", median(cold) / (one + chain));
    println!("certificate, cached = {:.4} x one P-384 verify", median(cached) / one);
}

/// The signatures of a chain and its revocation list, taken apart beforehand.
struct RsaSignatures(Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>);

impl RsaSignatures {
    fn of(presented: &Collection) -> Self {
        use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};
        let find = |name| presented.endorsements.find(name).expect("stapled");
        let (_, ask) = X509Certificate::from_der(find("ask")).expect("a certificate");
        let (_, vcek) = X509Certificate::from_der(find("vcek")).expect("a certificate");
        let (_, crl) = CertificateRevocationList::from_der(find("crl")).expect("a list");
        let ark = simulator::roots().into_iter().find(|(product, _)| *product == Product::Genoa).expect("a root").1;
        let (_, ark) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&ark).expect("a key");
        let ark = ark.subject_public_key.data.to_vec();
        let ask_key = ask.public_key().subject_public_key.data.to_vec();
        Self(vec![
            (ark.clone(), ask.tbs_certificate.as_ref().to_vec(), ask.signature_value.data.to_vec()),
            (ask_key, vcek.tbs_certificate.as_ref().to_vec(), vcek.signature_value.data.to_vec()),
            (ark, crl.tbs_cert_list.as_ref().to_vec(), crl.signature_value.data.to_vec()),
        ])
    }

    fn verify_all(&self) -> bool {
        self.0.iter().all(|(key, message, signature)| verifies(Scheme::RsaPssSha384, key, black_box(message), signature))
    }
}

/// The median of 301 runs, in seconds.
fn median(work: impl Fn()) -> f64 {
    let mut times: Vec<f64> = (0..301)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[150]
}

criterion_group!(benches, appraisal);
criterion_main!(benches);
