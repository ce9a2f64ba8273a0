//! Files into things to judge or show: recognised by name or content, under bounds. Believes and judges nothing.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::output::Rendered;
use crate::evidence::eventlog::Log;
use crate::evidence::saved::SavedFile;
use crate::evidence::{Auxiliary, Endorsement, Endorsements, Evidence, launch, tpm};
use crate::platform::{AUXILIARY, PLATFORMS, Platform};
use crate::verify::auxiliary;

/// No file is read beyond this many octets: the most that an evidence frame may carry.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// A folder with more entries than this is not one piece of evidence.
const MAX_ENTRIES: usize = 64;

/// A PEM file with more blocks than this is not read on.
const MAX_BLOCKS: usize = 16;

/// One piece of evidence with what came along.
pub(super) struct Subject {
    /// What the operator typed for it.
    pub(super) name: String,
    /// The evidence.
    pub(super) form: Form,
    /// What came along, in the order given.
    pub(super) endorsements: Endorsements,
    /// Files of the folder that nothing was made of.
    pub(super) ignored: Vec<String>,
}

/// The forms that evidence comes in.
pub(super) enum Form {
    /// A certificate in DER, which should carry evidence.
    Certificate(Vec<u8>),
    /// An encoded collection.
    Collection(Vec<u8>),
    /// Devices beside which there is no TEE's evidence.
    Devices(Vec<Auxiliary>),
    /// A platform's raw evidence.
    Raw(&'static Platform, Evidence),
}

/// One part of a file.
pub(super) enum Piece {
    /// Something to judge.
    Evidence(Form),
    /// Something that helps in judging.
    Endorsement(Endorsement),
    /// An event log, which proves nothing by itself.
    Log(Log),
    /// What belongs to the evidence it lies beside.
    Member(Auxiliary),
    /// None of these.
    Unknown,
}

/// Reads what was named: every folder is a subject; files are one subject for each piece of evidence among them, with
/// all endorsements among them. `-` is stdin. Every unreadable file is reported at once.
///
/// # Errors
/// Files that cannot be read or recognised, and files without any evidence.
pub(super) fn subjects(paths: &[impl AsRef<Path>]) -> anyhow::Result<Vec<Subject>> {
    let (mut subjects, mut loose, mut problems) = (Vec::new(), Heap::default(), Vec::new());
    for path in paths.iter().map(AsRef::as_ref) {
        let read = if path.is_dir() { folder(path, &mut subjects, &mut loose) } else { loose.file(path, shown(path)) };
        problems.extend(read.err().map(|error| format!("error: {error:#}")));
    }
    problems.extend(loose.ignored.iter().map(|name| format!("error: {name} is nothing this program reads: {KNOWN}")));
    if !problems.is_empty() {
        return Err(Rendered(problems.join("\n")).into());
    }
    if loose.evidence.is_empty() {
        if let Some(endorsement) = loose.endorsements.iter().next().filter(|_| subjects.is_empty()) {
            bail!("only endorsements here ({}), no evidence to judge: name the report or certificate too", endorsement.name);
        }
        // Endorsements on their own belong to the folders beside them.
        subjects.iter_mut().for_each(|subject| subject.endorsements.extend(loose.endorsements.clone()));
    }
    subjects.extend(loose.subjects());
    Ok(subjects)
}

/// The parts of one file, for showing them.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn pieces(path: &Path) -> anyhow::Result<Vec<Piece>> {
    Ok(recognise(path, read(path)?))
}

/// Reads a file or, for `-`, stdin, under the bound.
///
/// # Errors
/// What the system says, or that the file is longer than [`MAX_FILE`].
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path == Path::new("-") {
        return bounded(io::stdin().lock()).context("<stdin>");
    }
    let name = || path.display().to_string();
    bounded(crate::file::open(path).with_context(name)?).with_context(name)
}

/// How messages call a file.
fn shown(path: &Path) -> String {
    if path == Path::new("-") { "<stdin>".to_owned() } else { path.display().to_string() }
}

fn bounded(source: impl io::Read) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        0 => bail!("the file is empty"),
        1..=MAX_FILE => Ok(bytes),
        _ => bail!("the file is longer than {MAX_FILE} octets, the most that is read"),
    }
}

/// A folder is one subject when it holds one piece of evidence, and a heap of endorsements when it holds none.
fn folder(path: &Path, subjects: &mut Vec<Subject>, loose: &mut Heap) -> anyhow::Result<()> {
    let (name, files) = (path.display().to_string(), entries(path)?);
    let mut heap = Heap::default();
    let used = heap.together(path, &files)?;
    for file in files.iter().filter(|file| !used.contains(file)) {
        heap.file(file, file.display().to_string())?;
    }
    heap.attach(&name);
    heap.prefer_raw();
    // One piece is called as it was typed; of several, each by its file.
    if let [(called, _)] = heap.evidence.as_mut_slice() {
        called.clone_from(&name);
    }
    if heap.is_bare() && holds_a_quote_of_a_tpm(&files) {
        let beside = |platform: &&Platform| platform.verifier.members().iter().any(|member| member.media_type == tpm::MEDIA_TYPE);
        let reports: Vec<_> = PLATFORMS.iter().filter(beside).map(|platform| format!("{} ({})", platform.saved.evidence, platform.name)).collect();
        bail!(
            "{name} holds a vTPM's quote and no evidence of a TEE: a vTPM alone does not say which machine it is in; what is missing is the TEE's report, as {}",
            reports.join(" or ")
        );
    }
    if heap.evidence.is_empty() {
        if heap.endorsements.iter().next().is_none() {
            bail!("{name} holds no evidence: {KNOWN}");
        }
        loose.endorsements.extend(heap.endorsements);
        return Ok(());
    }
    subjects.extend(heap.subjects());
    Ok(())
}

/// The files of a folder in their order, and those of a folder `ocsp` in it.
///
/// # Errors
/// What the system says, or too many files.
pub(super) fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let name = || folder.display().to_string();
    let mut files = Vec::new();
    for place in [folder.to_owned(), folder.join("ocsp")].iter().filter(|place| place.is_dir()) {
        for entry in std::fs::read_dir(place).with_context(name)? {
            let entry = entry.with_context(name)?.path();
            if entry.is_file() {
                files.push(entry);
            }
            if files.len() > MAX_ENTRIES {
                bail!("{} has more than {MAX_ENTRIES} files: it is not the folder of one piece of evidence", name());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// What was found in several files.
#[derive(Default)]
struct Heap {
    evidence: Vec<(String, Form)>,
    endorsements: Endorsements,
    members: Vec<Auxiliary>,
    ignored: Vec<String>,
}

impl Heap {
    fn file(&mut self, path: &Path, name: String) -> anyhow::Result<()> {
        for piece in recognise(path, read(path)?) {
            match piece {
                Piece::Endorsement(endorsement) => self.endorsements.push(endorsement),
                Piece::Evidence(form) => self.evidence.push((name.clone(), form)),
                Piece::Member(member) => self.members.push(member),
                Piece::Log(_) | Piece::Unknown => self.ignored.push(path.display().to_string()),
            }
        }
        Ok(())
    }

    /// What only several files together make. Returns the files that were used.
    fn together(&mut self, folder: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
        let mut read_in = Vec::new();
        for path in files {
            let file = path.strip_prefix(folder).ok().and_then(Path::to_str).unwrap_or_default();
            read_in.push(SavedFile { name: file.to_owned(), bytes: read(path)? });
        }
        let mut used = Vec::new();
        for kind in AUXILIARY {
            let beside = (kind.assemble)(&read_in);
            self.members.extend(beside.members);
            self.endorsements.extend(beside.endorsements);
            used.extend(beside.used);
        }
        if let Some((platform, assembled)) = PLATFORMS.iter().find_map(|platform| Some((platform, (platform.saved.assemble)(&read_in)?))) {
            self.evidence.extend(assembled.evidence.map(|evidence| (folder.display().to_string(), Form::Raw(platform, evidence))));
            self.endorsements.extend(assembled.endorsements);
            used.extend(assembled.used);
        }
        Ok(used.into_iter().map(|name| folder.join(name)).collect())
    }

    /// Gives the auxiliary members of a folder to its one piece of raw evidence.
    fn attach(&mut self, name: &str) {
        if let [(_, Form::Raw(_, evidence))] = self.evidence.as_mut_slice() {
            evidence.auxiliary.append(&mut self.members);
        }
        let alone = self.is_bare();
        let devices: Vec<_> = self.members.iter().filter(|member| alone && auxiliary::of(member).is_some()).cloned().collect();
        self.evidence.extend((!devices.is_empty()).then(|| (name.to_owned(), Form::Devices(devices))));
    }

    /// Whether there is no evidence but certificates that carry none.
    fn is_bare(&self) -> bool {
        self.evidence.iter().all(|(_, form)| matches!(form, Form::Certificate(der) if !mentions_evidence(der)))
    }

    /// In a folder, a certificate that carries nothing stands beside the evidence it has nothing to do with.
    fn prefer_raw(&mut self) {
        if self.evidence.iter().any(|(_, form)| !matches!(form, Form::Certificate(_))) {
            self.evidence.retain(|(_, form)| !matches!(form, Form::Certificate(der) if !mentions_evidence(der)));
        }
    }

    fn subjects(self) -> impl Iterator<Item = Subject> {
        let Self { evidence, endorsements, ignored, .. } = self;
        evidence.into_iter().map(move |(name, form)| Subject { name, form, endorsements: endorsements.clone(), ignored: ignored.clone() })
    }
}

/// What a file holds: by its name where that is one of a platform's, else by its content.
fn recognise(path: &Path, bytes: Vec<u8>) -> Vec<Piece> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
    // Platforms share names such as report.bin: content decides where it says something, and a broken report is its
    // name's to refuse.
    let named_so = PLATFORMS.iter().filter(|platform| platform.saved.evidence == file);
    let looks_so = |platform: &&Platform| (platform.saved.is_evidence)(&bytes);
    if let Some(first) = named_so.clone().next() {
        let platform = named_so.clone().find(looks_so).or_else(|| PLATFORMS.iter().find(looks_so)).unwrap_or(first);
        return vec![raw(platform, bytes)];
    }
    if let Some(member) = PLATFORMS.iter().flat_map(|platform| platform.verifier.members()).find(|member| member.label == stem) {
        return vec![Piece::Member(Auxiliary { label: member.label.to_owned(), media_type: member.media_type.to_owned(), bytes })];
    }
    for kind in AUXILIARY {
        let beside = (kind.assemble)(&[SavedFile { name: file.to_owned(), bytes: bytes.clone() }]);
        if !beside.used.is_empty() {
            return beside.members.into_iter().map(Piece::Member).chain(beside.endorsements.into_iter().map(Piece::Endorsement)).collect();
        }
    }
    let named = PLATFORMS.iter().flat_map(|platform| platform.saved.endorsements).copied().find(|name| *name == stem);
    let trimmed = bytes.trim_ascii_start();
    if trimmed.starts_with(b"-----BEGIN") {
        let blocks: Vec<Vec<u8>> = Pem::iter_from_buffer(trimmed).take(MAX_BLOCKS).map_while(Result::ok).map(|block| block.contents).collect();
        let named = named.filter(|_| blocks.len() == 1);
        return if blocks.is_empty() { vec![Piece::Unknown] } else { blocks.into_iter().map(|der| of_der(der, named)).collect() };
    }
    vec![match bytes.first() {
        Some(0x30) => of_der(bytes, named),
        // A CBOR map is no text, and no other form begins like one.
        Some(0xa0..=0xbf) if !PLATFORMS.iter().any(|platform| (platform.saved.is_evidence)(&bytes)) => Piece::Evidence(Form::Collection(bytes)),
        _ => match PLATFORMS.iter().find(|platform| (platform.saved.is_evidence)(&bytes)) {
            Some(platform) => raw(platform, bytes),
            None => match (Log::parse(&bytes), named) {
                (Ok(log), _) => Piece::Log(log),
                // A broken endorsement is the verifier's to refuse.
                (Err(_), Some(name)) => endorsement(name.to_owned(), bytes),
                (Err(_), None) => Piece::Unknown,
            },
        },
    }]
}

fn raw(platform: &'static Platform, bytes: Vec<u8>) -> Piece {
    Piece::Evidence(Form::Raw(platform, Evidence::new(platform.media_type, bytes)))
}

fn of_der(der: Vec<u8>, named: Option<&str>) -> Piece {
    let known = named.or_else(|| PLATFORMS.iter().find_map(|platform| (platform.saved.endorsement)(&der)));
    match known {
        Some(name) => endorsement(name.to_owned(), der),
        None if X509Certificate::from_der(&der).is_ok() => Piece::Evidence(Form::Certificate(der)),
        None if is_revocation_list(&der) => endorsement("crl".to_owned(), der),
        None => Piece::Unknown,
    }
}

fn endorsement(name: String, bytes: Vec<u8>) -> Piece {
    let media_type = match name.as_str() {
        launch::NAME => launch::MEDIA_TYPE,
        _ if is_revocation_list(&bytes) => Endorsement::REVOCATION_LIST,
        _ => Endorsement::CERTIFICATE,
    };
    Piece::Endorsement(Endorsement { name, media_type: media_type.to_owned(), bytes })
}

fn is_revocation_list(der: &[u8]) -> bool {
    CertificateRevocationList::from_der(der).is_ok()
}

/// Whether a certificate has the evidence extension at all.
fn mentions_evidence(der: &[u8]) -> bool {
    crate::evidence::leaf::Leaf::read(der).is_ok_and(|leaf| leaf.evidence().is_ok())
}

/// Whether one of the files is what a TPM signs of its registers, as TPM2_Quote gives it.
fn holds_a_quote_of_a_tpm(files: &[PathBuf]) -> bool {
    files.iter().any(|file| read(file).is_ok_and(|bytes| tpm::Attest::parse(&bytes).is_ok()))
}

const KNOWN: &str = "a raw report, a certificate (DER or PEM) with evidence, an encoded evidence collection, \
or a folder with a report and its certificates and revocation list";
