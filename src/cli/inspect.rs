//! `portcullis inspect`: what is in a file, decoded. Never a verdict.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::input::{self, Form, Piece};
use super::output::{self, DIM, Detail, Marks, show, show_json};
use super::{Outcome, logged};
use crate::evidence::binding::{BindingClaims, Kind};
use crate::evidence::cmw::Collection;
use crate::evidence::intel::collateral::{Component, Date, EnclaveLevel, QeIdentity, Signed, Status, TcbInfo, TcbLevel};
use crate::evidence::leaf::Leaf;
use crate::evidence::ocsp::Response;
use crate::evidence::rim::Rim;
use crate::evidence::{Claims, Endorsement, Endorsements, Evidence};
use crate::platform;
use crate::refusal::Denied;
use crate::verify::auxiliary;

/// Show what is in evidence, certificates and revocation lists; judge nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to show: a raw report, a certificate (DER or PEM), a revocation list, an event log, Intel's statements, an encoded
    /// evidence collection, or a folder of them; `-` is stdin. At most 1 MiB each.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Show whole values.
    #[arg(long, short)]
    verbose: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut parts = Vec::new();
    for named in &args.files {
        let files = if named.is_dir() { input::entries(named)? } else { vec![named.clone()] };
        for file in &files {
            parts.extend(input::pieces(file)?.into_iter().map(|piece| of_piece(file, piece)));
        }
    }
    if args.json {
        match parts.as_slice() {
            [only] => show_json(&only.document())?,
            all => show_json(&all.iter().map(Part::document).collect())?,
        }
    } else {
        let (detail, marks) = (Detail::of(args.verbose), Marks::here());
        show(&parts.iter().map(|part| part.text(detail, marks)).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(if parts.iter().any(|part| part.unread) { Outcome::Unusable } else { Outcome::Done })
}

/// One thing that was decoded: what it is, and its fields in order.
struct Part {
    name: String,
    is: String,
    fields: Vec<(String, Value)>,
    unread: bool,
}

impl Part {
    fn new(name: &str, is: impl Into<String>) -> Self {
        Self { name: name.to_owned(), is: is.into(), fields: Vec::new(), unread: false }
    }

    fn field(&mut self, name: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// What could not be decoded, and why.
    fn trouble(&mut self, denied: &Denied) -> &mut Self {
        self.unread = true;
        self.field("unreadable", denied.to_string())
    }

    fn document(&self) -> Value {
        let fields: Map<String, Value> = self.fields.iter().cloned().collect();
        json!({ "file": self.name, "is": self.is, "fields": fields })
    }

    fn text(&self, detail: Detail, marks: Marks) -> String {
        let mut out = format!("{}: {}\n", output::printable(&self.name), self.is);
        table(&mut out, &self.fields, 4, detail, marks);
        out
    }
}

fn table(out: &mut String, fields: &[(String, Value)], indent: usize, detail: Detail, marks: Marks) {
    let wide = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    for (name, value) in fields {
        let name = output::printable(name);
        let line = match value {
            Value::Object(inner) if inner.values().any(Value::is_object) => {
                let _ = writeln!(out, "{:indent$}{DIM}{name}{DIM:#}", "");
                let inner: Vec<(String, Value)> = inner.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
                table(out, &inner, indent + 2, detail, marks);
                continue;
            }
            other => flat(other),
        };
        let _ = writeln!(out, "{:indent$}{DIM}{name:<wide$}{DIM:#}  {}", "", output::value(&line, detail, marks));
    }
}

fn flat(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(flat).collect::<Vec<_>>().join(", "),
        Value::Object(inner) => inner.iter().map(|(name, value)| format!("{name}={}", flat(value))).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn of_piece(file: &Path, piece: Piece) -> Part {
    let name = file.display().to_string();
    match piece {
        Piece::Endorsement(endorsement) => of_endorsement(&name, &endorsement),
        Piece::Evidence(Form::Certificate(der)) => of_certificate(&name, &der),
        Piece::Evidence(Form::Collection(bytes)) => {
            let mut part = Part::new(&name, "an evidence collection (CMW)");
            match Collection::decode(&bytes) {
                Ok(collection) => of_collection(&mut part, &collection),
                Err(denied) => part.trouble(&denied),
            };
            part
        }
        // Only several files together make it.
        Piece::Evidence(Form::Devices(_)) => Part::new(&name, "devices"),
        Piece::Evidence(Form::Raw(platform, evidence)) => {
            let mut part = Part::new(&name, format!("a raw {} report", platform.name));
            claims(&mut part, &evidence, &Endorsements::default());
            part
        }
        Piece::Log(log) => Part { fields: logged::fields(&log), ..Part::new(&name, "an event log, which proves nothing by itself") },
        Piece::Member(member) => {
            let mut part = Part::new(&name, format!("an auxiliary member ({})", member.label));
            part.field("media_type", member.media_type.clone());
            part.field("octets", member.bytes.len().to_string());
            if let Some((kind, _)) = auxiliary::of(&member) {
                match (kind.read)(&member.bytes) {
                    Ok(read) => said(&mut part, &read),
                    Err(denied) => part.trouble(&denied),
                };
            }
            part
        }
        Piece::Unknown => {
            let mut part = Part::new(&name, "nothing this program reads");
            part.unread = true;
            part
        }
    }
}

fn said<'p>(part: &'p mut Part, claims: &Claims) -> &'p mut Part {
    for (name, value) in claims.iter() {
        part.field(*name, serde_json::to_value(value).unwrap_or_default());
    }
    part
}

fn claims<'p>(part: &'p mut Part, evidence: &Evidence, endorsements: &Endorsements) -> &'p mut Part {
    part.field("media_type", evidence.media_type.clone());
    let Some(platform) = platform::of_evidence(evidence) else {
        return part.field("octets", hex(&evidence.bytes));
    };
    match platform.verifier.read(evidence, endorsements) {
        Ok(read) => said(part, &read),
        Err(denied) => part.trouble(&denied),
    }
}

fn of_collection<'p>(part: &'p mut Part, collection: &Collection) -> &'p mut Part {
    match BindingClaims::decode(&collection.bind) {
        Ok(bound) => part.field("binding", binding(&bound)),
        Err(denied) => part.trouble(&denied),
    };
    for endorsement in collection.endorsements.iter() {
        let inner = of_endorsement("", endorsement);
        part.field(format!("end/{}", endorsement.name), Value::Object(inner.fields.into_iter().collect()));
    }
    for member in &collection.tee.auxiliary {
        part.field(member.label.clone(), format!("{} ({} octets)", member.media_type, member.bytes.len()));
    }
    claims(part, &collection.tee, &collection.endorsements)
}

fn binding(claims: &BindingClaims) -> Value {
    let mut fields = Map::new();
    let mut field = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    match &claims.kind {
        Kind::Certificate { issued, expires, names } => {
            field("kind", "certificate".into());
            field("issued", issued.to_string().into());
            field("expires", expires.to_string().into());
            field("names", json!(names));
        }
        Kind::Session { hello } => {
            field("kind", "session".into());
            field("hello", hex(hello).into());
        }
        Kind::Web => {
            field("kind", "web".into());
        }
    }
    field("spki_sha384", hex(&claims.spki.0).into());
    field("instance", hex(&claims.instance).into());
    for (label, digest) in &claims.aux {
        field(&format!("aux {label}"), hex(digest).into());
    }
    Value::Object(fields)
}

fn of_certificate(name: &str, der: &[u8]) -> Part {
    let mut part = Part::new(name, "a certificate");
    certificate_fields(&mut part, der);
    match Leaf::read(der).or_else(|_| Leaf::read_public(der)).and_then(|leaf| leaf.evidence()) {
        Ok(collection) => {
            part.is = "a certificate with evidence".to_owned();
            of_collection(&mut part, &collection);
        }
        Err(denied) => {
            part.field("evidence", denied.findings().map(|finding| finding.found.clone()).collect::<Vec<_>>().join("; "));
        }
    }
    part
}

fn of_endorsement(name: &str, endorsement: &Endorsement) -> Part {
    let mut part = Part::new(name, format!("the endorsement {}", endorsement.name));
    if X509Certificate::from_der(&endorsement.bytes).is_ok() {
        certificate_fields(&mut part, &endorsement.bytes);
        return part;
    }
    if let Ok(rim) = Rim::parse(&endorsement.bytes) {
        part.field("product", rim.product).field("version", rim.version).field("measurements", rim.golden.len());
        return part;
    }
    if let Ok(response) = Response::parse(&endorsement.bytes) {
        for single in &response.singles {
            let end = single.next_update.map_or_else(|| "none".to_owned(), |end| end.to_string());
            part.field(hex(single.serial), format!("{:?} since {}, next update {end}", single.status, single.this_update));
        }
        return part;
    }
    match CertificateRevocationList::from_der(&endorsement.bytes) {
        Ok((_, list)) => {
            let revoked: Vec<_> = list.iter_revoked_certificates().take(MOST_REVOKED).map(|revoked| hex(&revoked.serial().to_bytes_be())).collect();
            part.field("issuer", list.issuer().to_string()).field("this_update", moment(list.last_update()));
            part.field("next_update", list.next_update().map_or_else(|| "none".to_owned(), moment));
            part.field("revoked_serials", revoked);
        }
        Err(_) if statement(&mut part, &endorsement.bytes).is_some() => {}
        Err(_) if endorsement.bytes.first() == Some(&b'{') => {
            part.field("json", format!("{} octets, signed by the vendor: `verify` and `tcb` read it beside the evidence", endorsement.bytes.len()));
        }
        Err(_) => {
            part.unread = true;
            part.field("unreadable", format!("{} octets that are neither a DER certificate nor a revocation list", endorsement.bytes.len()));
        }
    }
    part
}

/// Intel's statements about processors and quoting enclaves, bare or with the chain of their signer.
fn statement(part: &mut Part, bytes: &[u8]) -> Option<()> {
    let body = Signed::decode("statement", bytes).map_or(bytes, |signed| signed.body);
    let level =
        |status: Status, date: Date, advisories: &[String]| format!("{} since {} {}", status.name(), date.0, advisories.join(" ")).trim_end().to_owned();
    if let Ok((info, _)) = TcbInfo::read(body) {
        part.field("id", info.id).field("version", info.version).field("fmspc", hex(&info.fmspc.0)).field("pce_id", hex(&info.pce_id.0));
        part.field("evaluation", info.tcb_evaluation_data_number);
        part.field("issued", info.issue_date.0.to_string()).field("next_update", info.next_update.0.to_string());
        for (at, TcbLevel { tcb, tcb_date, tcb_status, advisory_ids }) in info.tcb_levels.iter().take(MOST_LEVELS).enumerate() {
            let svns = |components: &[Component; 16]| hex(&components.each_ref().map(|component| component.svn));
            let tdx = tcb.tdx.as_ref().map(|components| format!(" tdx {}", svns(components))).unwrap_or_default();
            part.field(format!("level {at}"), format!("sgx {} pce {}{tdx}: {}", svns(&tcb.sgx), tcb.pce_svn, level(*tcb_status, *tcb_date, advisory_ids)));
        }
        for identity in info.tdx_module_identities.iter().take(MOST_LEVELS) {
            let newest = identity.tcb_levels.first().map(|level| format!("newest svn {}: {}", level.tcb.isvsvn, level.tcb_status.name()));
            part.field(format!("module {}", identity.id), newest.unwrap_or_default());
        }
    } else {
        let (identity, _) = QeIdentity::read(body).ok()?;
        part.field("id", identity.id).field("version", identity.version).field("evaluation", identity.tcb_evaluation_data_number);
        part.field("issued", identity.issue_date.0.to_string()).field("next_update", identity.next_update.0.to_string());
        part.field("mrsigner", hex(&identity.mrsigner.0)).field("isvprodid", identity.isvprodid);
        for (at, EnclaveLevel { tcb, tcb_date, tcb_status, advisory_ids }) in identity.tcb_levels.iter().take(MOST_LEVELS).enumerate() {
            part.field(format!("level {at}"), format!("svn {}: {}", tcb.isvsvn, level(*tcb_status, *tcb_date, advisory_ids)));
        }
    }
    part.field("signature", "not checked: `verify` and `tcb` do, beside the evidence");
    Some(())
}

fn certificate_fields(part: &mut Part, der: &[u8]) {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return };
    part.field("subject", certificate.subject().to_string());
    part.field("issuer", certificate.issuer().to_string());
    part.field("serial", hex(certificate.raw_serial()));
    part.field("not_before", moment(certificate.validity().not_before)).field("not_after", moment(certificate.validity().not_after));
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        part.field("names", names.value.general_names.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    part.field("spki_sha256", hex(&crate::crypto::sha256(&[certificate.public_key().raw])));
    part.field("sha256", hex(&crate::crypto::sha256(&[der])));
    let extensions: Map<String, Value> = certificate.extensions().iter().map(|extension| (extension.oid.to_id_string(), hex(extension.value).into())).collect();
    if !extensions.is_empty() {
        let listed = extensions.iter().map(|(oid, value)| format!("{oid}={}", flat(value)));
        part.field("extensions", listed.collect::<Vec<_>>());
    }
}

fn moment(time: x509_parser::time::ASN1Time) -> String {
    crate::evidence::Timestamp(u64::try_from(time.timestamp()).unwrap_or(0)).to_string()
}

fn hex(octets: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(octets)
}

/// A statement of more levels is shown in part.
const MOST_LEVELS: usize = 64;

/// A list of more revoked certificates than this is shown in part.
const MOST_REVOKED: usize = 256;
