//! Intel TDX, stage 1: is this quote a genuine trust domain's?
//!
//! The steps are those of [`super::intel`]; of its own it has:
//!
//! - the TDX module: signed by Intel, with the attributes of its identity ([`plausible`])
//! - what no genuine trust domain has: reserved attributes, an impossible XFAM
//! - the event log, believed only as far as its replay gives the registers ([`registers`])
//! - what the cloud adds, where it came along: the quote of its vTPM, its endorsement of the firmware ([`google::join`])
//!
//! Whether the guest is wanted is stage 2's: see [`vocabulary`].

pub(super) mod vocabulary;

use super::intel::{self, Line, tcb};
use super::roots::Anchor;
use super::{AuthenticClaims, Grounds, Member, Standing, Tie, Verifier, google, vtpm};
use crate::crypto::sha384;
use crate::evidence::intel::collateral::TcbInfo;
use crate::evidence::intel::log::{self, Events};
use crate::evidence::intel::{Body, Quote, TdReport};
use crate::evidence::tpm::Hash;
use crate::evidence::{Bound, Claims, Endorsement, EndorsementId, Endorsements, Evidence, launch};
use crate::policy::{Entry, Vocabulary};
use crate::refusal::{Denied, Finding, Reason};

/// The platform's verifier.
#[derive(Debug)]
pub struct Tdx;

static LINE: Line = Line {
    vocabulary: &vocabulary::VOCABULARY,
    tcb_info: "TDX",
    qe_identity: "TD_QE",
    service: "tdx",
    is_body: |body| matches!(body, Body::TrustDomain(_)),
    plausible,
};

/// Intel's root.
#[must_use]
pub fn anchors() -> Vec<Anchor> {
    intel::anchors(LINE.vocabulary.tee)
}

impl Verifier for Tdx {
    fn vocabulary(&self) -> &'static Vocabulary {
        LINE.vocabulary
    }

    fn read(&self, evidence: &Evidence, endorsements: &Endorsements) -> Result<Claims, Denied> {
        let mut claims = LINE.read(evidence, endorsements)?;
        if let Some(log) = events(evidence)? {
            log.claims(&mut claims);
        }
        if let Body::TrustDomain(report) = &LINE.quote(evidence)?.body {
            google::claims(evidence, endorsed_by_google(report), endorsements, &mut claims)?;
        }
        Ok(claims)
    }

    fn bound(&self, evidence: &Evidence) -> Result<Bound, Denied> {
        LINE.bound(evidence)
    }

    fn members(&self) -> &'static [Member] {
        &[Member { label: log::LABEL, media_type: log::MEDIA_TYPE, tie: Tie::Claims }, vtpm::MEMBER]
    }

    fn needs(&self, evidence: &Evidence) -> Result<Vec<EndorsementId>, Denied> {
        let mut needs = LINE.needs(evidence)?;
        if let Body::TrustDomain(report) = &LINE.quote(evidence)?.body {
            needs.extend(google::needs(evidence, endorsed_by_google(report)));
        }
        Ok(needs)
    }

    fn unforged(&self, evidence: &Evidence, grounds: &Grounds<'_>) -> Result<(), Denied> {
        LINE.unforged(evidence, grounds)
    }

    fn standing(&self, evidence: &Evidence, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<Standing, Denied> {
        LINE.standing(evidence, endorsements, grounds)
    }

    fn foreseen(&self, entry: &Entry) -> Vec<EndorsementId> {
        [LINE.foreseen(entry), google::TDX.foreseen(entry)].concat()
    }

    fn vouch(
        &self,
        id: &EndorsementId,
        item: &Endorsement,
        others: &dyn Fn(&EndorsementId) -> Option<Endorsement>,
        grounds: &Grounds<'_>,
    ) -> Result<(), Denied> {
        if id.name == launch::NAME {
            return google::TDX.vouch(id, item, grounds);
        }
        LINE.vouch(id, item, others, grounds)
    }

    fn authenticate(&self, evidence: &Evidence, endorsements: &Endorsements, grounds: &Grounds<'_>) -> Result<AuthenticClaims, Denied> {
        let log = events(evidence)?;
        let mut authentic = LINE.authenticate(evidence, endorsements, grounds)?;
        if let Some(log) = log {
            registers(&LINE.quote(evidence)?, &log)?;
            log.claims(&mut authentic.claims);
        }
        if let Body::TrustDomain(report) = &LINE.quote(evidence)?.body {
            google::join(&mut authentic, evidence, endorsed_by_google(report), endorsements, grounds)?;
        }
        Ok(authentic)
    }
}

/// What Google's endorsement must name, and where.
fn endorsed_by_google(report: &TdReport) -> (&[u8; 48], &'static google::Hardware) {
    (&report.mr_td, &google::TDX)
}

fn events(evidence: &Evidence) -> Result<Option<Events>, Denied> {
    evidence.member(log::LABEL).map(|member| Events::parse(&member.bytes)).transpose()
}

/// RTMR3's number in a log: 1 to 4 are RTMR0 to RTMR3.
const RTMR3: u32 = 4;

/// Proves that the log tells what the registers hold: replayed, it gives each register of the quote that it extends, and
/// those that it does not extend are zero. Events of the guest are all that RTMR3 has, or none is told.
fn registers(quote: &Quote, log: &Events) -> Result<(), Denied> {
    let Body::TrustDomain(report) = &quote.body else { return Ok(()) };
    let mut replayed = log.firmware.replay(Hash::Sha384)?;
    // What the firmware's part extends is a digest that nobody names: whoever wrote the log could hide an event there.
    if !log.guest.is_empty() && replayed.contains_key(&RTMR3) {
        return Finding::new(Reason::EventLogMismatch, "log", "every event of RTMR3 by its name, where one is", "some among the firmware's").refuse();
    }
    for event in &log.guest {
        let register = replayed.entry(RTMR3).or_insert_with(|| vec![0; 48]);
        *register = sha384(&[register, &event.digest()]).to_vec();
    }
    let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
    if let Some(foreign) = replayed.keys().find(|register| !(1..=4).contains(*register)) {
        return Finding::new(Reason::EventLogMismatch, "log", "events of the registers 1 to 4 (RTMR0 to RTMR3)", foreign.to_string()).refuse();
    }
    for ((register, name), held) in (1..).zip(["report.rtmr0", "report.rtmr1", "report.rtmr2", "report.rtmr3"]).zip(&report.rtmr) {
        let told = replayed.get(&register).map_or(&[0; 48][..], Vec::as_slice);
        if told != held {
            return Finding::new(Reason::EventLogMismatch, name, format!("what the log replays to: {}", hex(told)), hex(held)).refuse();
        }
    }
    Ok(())
}

const ATTRIBUTES_DEFINED: u64 = 1 | 0x70 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 30 | 1 << 31 | 1 << 62 | 1 << 63;
const XFAM_FIXED: u64 = 0x3;
const XFAM_DEFINED: u64 = 0x6_dbe7;

/// Refuses what no module of Intel's reports.
fn plausible(quote: &Quote, info: &TcbInfo) -> Result<(), Denied> {
    let Body::TrustDomain(report) = &quote.body else { return Ok(()) };
    module(report, info)?;
    if report.td_attributes & !ATTRIBUTES_DEFINED != 0 {
        let found = format!("{:#x}", report.td_attributes);
        return Finding::new(Reason::ReservedBitsSet, "report.td_attributes", format!("no bits beyond {ATTRIBUTES_DEFINED:#x}"), found).refuse();
    }
    if report.xfam & XFAM_FIXED != XFAM_FIXED || report.xfam & !XFAM_DEFINED != 0 {
        let expected = format!("{XFAM_FIXED:#x} set, no bits beyond {XFAM_DEFINED:#x}");
        return Finding::new(Reason::ReservedBitsSet, "report.xfam", expected, format!("{:#x}", report.xfam)).refuse();
    }
    Ok(())
}

/// Proves the module to be Intel's, by its identity in the TCB info.
fn module(report: &TdReport, info: &TcbInfo) -> Result<(), Denied> {
    let [_, version, ..] = report.tee_tcb_svn;
    let identity = tcb::identity_of(info, version).filter(|_| version > 0);
    let known = identity.map(|identity| (identity.mrsigner, identity.attributes, identity.attributes_mask));
    let base = info.tdx_module.as_ref().filter(|_| version == 0).map(|module| (module.mrsigner, module.attributes, module.attributes_mask));
    let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
    let wrong = |field: &'static str, expected: String, found: String| Finding::new(Reason::PlatformNotAllowed, field, expected, found).refuse();
    let Some((signer, attributes, mask)) = known.or(base) else {
        return wrong("report.tee_tcb_svn", "a TDX module that the TCB info knows".to_owned(), format!("TDX_{version:02X}"));
    };
    if report.mr_signer_seam != signer.0 {
        return wrong("report.mrsignerseam", hex(&signer.0), hex(&report.mr_signer_seam));
    }
    // Bits outside the mask have no meaning yet: a later one may be a debug bit.
    let masked: Vec<u8> = attributes.0.iter().zip(mask.0).map(|(octet, mask)| octet & mask).collect();
    if report.seam_attributes.as_slice() != masked {
        return wrong("report.seam_attributes", hex(&masked), hex(&report.seam_attributes));
    }
    Ok(())
}
