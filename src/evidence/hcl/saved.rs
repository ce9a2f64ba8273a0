//! How the pieces of an Azure VM's evidence look in files: our own folders, and those that other tools write.

use super::{HclReport, Kind, MEDIA_TYPE, TD_QUOTE};
use crate::evidence::saved::{Assembled, Saved, SavedFile};
use crate::evidence::tpm::{self, Attest, Extras, Hash, Member, Pcrs, Selection, Signature};
use crate::evidence::{Auxiliary, Evidence, intel, snp};

/// The name of a saved report.
pub const REPORT_FILE: &str = "hcl_report.bin";

/// The pieces of a VM on SEV-SNP.
pub const SNP: Saved = Saved {
    evidence: REPORT_FILE,
    endorsements: snp::saved::ENDORSEMENTS,
    is_evidence: |bytes| HclReport::is_of(bytes, Kind::Snp),
    endorsement: snp::saved::endorsement_name,
    assemble: |files| assemble(files, Kind::Snp),
};

/// The pieces of a VM on TDX.
pub const TDX: Saved = Saved {
    evidence: REPORT_FILE,
    endorsements: intel::saved::TDX.endorsements,
    is_evidence: |bytes| HclReport::is_of(bytes, Kind::Tdx),
    endorsement: intel::saved::TDX.endorsement,
    assemble: |files| assemble(files, Kind::Tdx),
};

/// Files beside a report that say again what is in it.
const CUT_OUT: &[&str] = &["runtime_data.json", "snp_report.bin", "td_report.bin"];

/// A folder with the parts of a quote in files of their own: `tpm_quote.msg` (TPMS_ATTEST), `tpm_quote.sig` (a
/// TPMT_SIGNATURE, or the bare octets of an RSASSA signature with SHA-256) and `tpm_pcrs.json` (the SHA-256 registers, an
/// array of 24 in hex). On TDX the TD quote with its collateral as Intel's own platform has them, in `td_quote.bin` and others.
fn assemble(files: &[SavedFile], kind: Kind) -> Option<Assembled> {
    let file = |name: &str| files.iter().find(|file| file.name == name).map(|file| file.bytes.as_slice());
    let report = file(REPORT_FILE).filter(|report| HclReport::is_of(report, kind))?;
    let (quote, signature, pcrs) = (file("tpm_quote.msg")?, file("tpm_quote.sig")?, file("tpm_pcrs.json")?);
    let bytes = member(quote, signature, pcrs)?;
    let mut evidence = Evidence::new(MEDIA_TYPE, report);
    let hardware = (intel::saved::TDX.assemble)(files).filter(|_| kind == Kind::Tdx).unwrap_or_default();
    let td_quote = hardware.evidence.map(|quote| Auxiliary { label: TD_QUOTE.to_owned(), media_type: quote.media_type, bytes: quote.bytes });
    evidence.auxiliary.extend(td_quote);
    evidence.auxiliary.push(Auxiliary { label: "vtpm".to_owned(), media_type: tpm::MEDIA_TYPE.to_owned(), bytes });
    let used = [REPORT_FILE, "tpm_quote.msg", "tpm_quote.sig", "tpm_pcrs.json"].iter().chain(CUT_OUT).map(|name| (*name).to_owned());
    Some(Assembled { evidence: Some(evidence), endorsements: hardware.endorsements, used: used.chain(hardware.used).collect() })
}

/// A `vtpm` member of the parts. The registers are those that the quote selects, as far as the array has them.
fn member(quote: &[u8], signature: &[u8], pcrs: &[u8]) -> Option<Vec<u8>> {
    let all: Vec<String> = serde_json::from_slice(pcrs).ok()?;
    let all: Vec<Vec<u8>> = all.iter().map(|value| data_encoding::HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok()).collect::<Option<_>>()?;
    let selection = Attest::parse(quote).map_or(Selection { bank: Hash::Sha256, bitmap: [0xff; 3] }, |attest| attest.selection);
    let values = selection.indices().filter_map(|index| Some((index, all.get(usize::from(index))?.clone()))).collect();
    let signature =
        if Signature::parse(signature).is_ok() { signature.to_vec() } else { Signature::Rsassa { hash: Hash::Sha256, octets: signature.to_vec() }.encode() };
    Some(Member::encode(quote, &signature, &Pcrs { bank: Hash::Sha256, values }, &Extras::default()))
}
