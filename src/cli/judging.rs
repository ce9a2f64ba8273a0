//! A subject and a policy into a verdict, with all that a person or a program wants to know of it.

use anyhow::Context as _;

use super::input::{Form, Subject};
use super::policy::Loaded;
use crate::clock::Clock;
use crate::evidence::binding::{self, Binding, BindingClaims, Kind};
use crate::evidence::cmw::Collection;
use crate::evidence::leaf::Leaf;
use crate::evidence::{Claims, Endorsement, Endorsements, Evidence, Timestamp};
use crate::platform::{self, Platform};
use crate::refusal::{Denied, Finding, Reason};
use crate::verify::auxiliary;
use crate::verify::memo::NoMemo;
use crate::verify::roots::Origin;
use crate::verify::{Appraisal, Appraiser};

/// A verdict with what it is about.
pub(super) struct Judged {
    /// What the operator typed.
    pub(super) name: String,
    /// The verdict.
    pub(super) verdict: Result<Appraisal, Denied>,
    /// The evidence, as far as it could be read out of what it came in.
    pub(super) evidence: Option<Evidence>,
    /// The platform, as far as it is known.
    pub(super) platform: Option<&'static Platform>,
    /// What the evidence says: believed only beside an accepting verdict.
    pub(super) claims: Option<Claims>,
    /// What the verdict does not establish, each with what to do about it.
    pub(super) warnings: Vec<String>,
    /// Files that nothing was made of.
    pub(super) ignored: Vec<String>,
}

/// The moment to judge at: as told, else the machine's.
///
/// # Errors
/// A text that is no time, or a clock that cannot be right.
pub(super) fn moment(at: Option<&str>) -> anyhow::Result<Timestamp> {
    match at {
        Some(text) => Timestamp::parse(text).with_context(|| format!("--at {text} is not an RFC 3339 time such as 2026-10-01T00:00:00Z")),
        None => Ok(Clock::system().now()?),
    }
}

/// Judges one subject.
pub(super) fn judge(subject: Subject, policy: &Loaded, now: Timestamp) -> Judged {
    let Subject { name, form, endorsements, ignored } = subject;
    let mut warnings = Vec::new();
    let at_hand = match opened(form, endorsements) {
        Ok(at_hand) => at_hand,
        Err(denied) => return Judged { name, verdict: Err(denied), evidence: None, platform: None, claims: None, warnings, ignored },
    };
    if matches!(at_hand.tie, Tie::Devices) {
        return devices(name, at_hand, policy, now, ignored);
    }
    let Some(platform) = platform::of_evidence(&at_hand.evidence) else {
        let known: Vec<_> = platform::PLATFORMS.iter().map(|platform| platform.media_type).collect();
        let denied = Finding::new(Reason::EvidenceUnsupported, "tee.type", known.join(", "), at_hand.evidence.media_type.clone()).into();
        return Judged { name, verdict: Err(denied), evidence: Some(at_hand.evidence), platform: None, claims: None, warnings, ignored };
    };
    let verdict =
        at_hand.judge(platform, &policy.appraiser, now, &mut warnings).map_err(|denied| advised(platform.advised(&at_hand.evidence, denied), policy, &name));
    let claims = match &verdict {
        Ok(appraisal) => Some(appraisal.claims().clone()),
        Err(_) => platform.verifier.read(&at_hand.evidence, &at_hand.endorsements).ok(),
    };
    if let Ok(appraisal) = &verdict {
        warn_of(appraisal, policy, &at_hand, platform, &mut warnings);
    }
    Judged { name, verdict, evidence: Some(at_hand.evidence), platform: Some(platform), claims, warnings, ignored }
}

/// Judges devices beside which there is no TEE's evidence: by no policy, which is about TEEs.
fn devices(name: String, AtHand { evidence, endorsements, .. }: AtHand, policy: &Loaded, now: Timestamp, ignored: Vec<String>) -> Judged {
    let verdict = match policy.path {
        Some(_) => Finding::new(Reason::EvidenceUnsupported, "tee", "evidence of a TEE", "devices alone, which never stand in for one").refuse(),
        None => policy.appraiser.examine_devices(&evidence.auxiliary, &endorsements, &NoMemo, now),
    };
    let mut warnings = Vec::new();
    if let Ok(appraisal) = &verdict {
        warnings.push("devices alone: no policy accepts them without a TEE's evidence that lists them, and their nonce was not judged".to_owned());
        if !appraisal.revocation_checked() {
            warnings.push("revocation was not checked: there is no current OCSP response for each certificate among the files".to_owned());
        }
        warnings.extend(uncompared(appraisal));
    }
    let claims = Some(verdict.as_ref().map_or_else(|_| auxiliary::read(&evidence.auxiliary), |appraisal| appraisal.claims().clone()));
    Judged { name, verdict, evidence: Some(evidence), platform: None, claims, warnings, ignored }
}

/// Where the vendor serves the revocation lists for this evidence, as the end of a sentence; empty where it serves none.
pub(super) fn lists(platform: &Platform, evidence: &Evidence) -> String {
    let served = platform.served(evidence).into_iter();
    let lists: Vec<_> = served.filter(|(name, _)| name.contains("crl")).map(|(name, address)| format!("{name}.der is served at {address}")).collect();
    if lists.is_empty() { String::new() } else { format!("; {}", lists.join(", ")) }
}

/// The refusal with the commands that a person would type next.
pub(super) fn advised(denied: Denied, policy: &Loaded, name: &str) -> Denied {
    let Some(path) = &policy.path else { return denied };
    let advised = denied.findings().cloned().map(|finding| {
        if finding.reason != Reason::MeasurementUnknown || !finding.fix.is_empty() {
            return finding;
        }
        finding.fix(format!(
            "new release? portcullis policy add {} --id NAME --from {name}\nnot yours? this host runs other code than you trust: do not add it",
            path.display()
        ))
    });
    Denied::from_findings(advised.collect()).unwrap_or(denied)
}

/// Evidence taken out of what it came in.
pub(super) struct AtHand {
    pub(super) evidence: Evidence,
    pub(super) endorsements: Endorsements,
    tie: Tie,
}

/// What the evidence is tied to, as far as files tell.
enum Tie {
    /// A certificate's key.
    Certificate(Box<(Leaf, Collection)>),
    /// Encoded binding claims.
    Claims(Vec<u8>),
    /// There is no TEE that could be tied to anything.
    Devices,
    /// Nothing.
    None,
}

pub(super) fn opened(form: Form, endorsements: Endorsements) -> Result<AtHand, Denied> {
    // The operator's endorsements go before those that came along.
    let joined = |mut ours: Endorsements, theirs: &Endorsements| {
        ours.extend(theirs.iter().cloned());
        ours
    };
    match form {
        Form::Certificate(der) => {
            let leaf = Leaf::read(&der)?;
            let mut collection = leaf.evidence()?;
            collection.endorsements = joined(endorsements, &collection.endorsements);
            let (evidence, endorsements) = (collection.tee.clone(), collection.endorsements.clone());
            Ok(AtHand { evidence, endorsements, tie: Tie::Certificate(Box::new((leaf, collection))) })
        }
        Form::Collection(bytes) => {
            let collection = Collection::decode(&bytes)?;
            let endorsements = joined(endorsements, &collection.endorsements);
            Ok(AtHand { evidence: collection.tee, endorsements, tie: Tie::Claims(collection.bind) })
        }
        Form::Devices(auxiliary) => {
            let media_type = auxiliary.first().map(|member| member.media_type.clone()).unwrap_or_default();
            Ok(AtHand { evidence: Evidence { auxiliary, ..Evidence::new(media_type, Vec::new()) }, endorsements, tie: Tie::Devices })
        }
        Form::Raw(_, evidence) => Ok(AtHand { evidence, endorsements, tie: Tie::None }),
    }
}

impl AtHand {
    fn judge(&self, platform: &Platform, appraiser: &Appraiser, now: Timestamp, warnings: &mut Vec<String>) -> Result<Appraisal, Denied> {
        if let Tie::Certificate(tie) = &self.tie {
            let (leaf, collection) = &**tie;
            let rule = appraiser.policy.age_rule();
            leaf.current(now, rule.skew)?;
            let binding = Binding::of_certificate(&collection.bind, leaf.facts(), rule, now)?;
            warnings.push("a certificate proves its key only in a handshake: try `portcullis probe` against the host that shows it".to_owned());
            return appraiser.judge(platform.verifier, collection, &binding, &NoMemo, now).map(|result| result.appraisal().clone());
        }
        if let Tie::Claims(claims) = &self.tie {
            bound_to(claims, platform, &self.evidence, warnings)?;
        }
        appraiser.examine(platform.verifier, &self.evidence, &self.endorsements, &NoMemo, now)
    }
}

/// Compares the report data with binding claims where these alone decide it: without the certificate or the session,
/// no more can be said.
fn bound_to(claims: &[u8], platform: &Platform, evidence: &Evidence, warnings: &mut Vec<String>) -> Result<(), Denied> {
    let decoded = BindingClaims::decode(claims)?;
    if !matches!(decoded.kind, Kind::Certificate { .. }) {
        warnings.push("the session this evidence was made for cannot be checked from a file: its binding was not judged".to_owned());
        return Ok(());
    }
    let (challenge, found) = (binding::certificate_challenge(claims), platform.verifier.bound(evidence)?);
    if !found.answers(&challenge) {
        let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
        return Finding::new(Reason::BindingMismatch, "report.report_data", hex(found.asked(&challenge)), hex(found.octets())).refuse();
    }
    warnings.push("the certificate this evidence speaks for was not given: verify the certificate to judge its key, names and age".to_owned());
    Ok(())
}

/// What an accepting verdict leaves open.
fn warn_of(appraisal: &Appraisal, policy: &Loaded, at_hand: &AtHand, platform: &Platform, warnings: &mut Vec<String>) {
    if policy.path.is_none() {
        warnings.push("genuineness only: nothing was pinned, any code on any genuine machine passes; give --policy to judge what runs".to_owned());
    }
    if appraisal.origin() == Origin::Operator && !appraisal.revocation_checked() {
        warnings.push("revocation was not checked: nobody publishes a list for keys of your own; take a lost machine's key out of the policy".to_owned());
    } else if !appraisal.revocation_checked() && !platform.vendor_service.is_empty() {
        let lists = lists(platform, &at_hand.evidence);
        let list = at_hand.endorsements.iter().any(|endorsement| endorsement.media_type == Endorsement::REVOCATION_LIST);
        let why = if list { "the revocation list at hand is not current or not the root's" } else { "no revocation list was given" };
        warnings.push(format!("revocation was not checked: {why}; add the vendor's current list to the files{lists}"));
    }
    warnings.extend(uncompared(appraisal));
    warnings.extend(standing(appraisal, policy));
}

/// That the state of devices was compared with nothing.
fn uncompared(appraisal: &Appraisal) -> Option<String> {
    let devices = appraisal.uncompared();
    (!devices.is_empty()).then(|| {
        format!(
            "the state of {} was compared with nothing: debug mode and any firmware pass; add its vendor's reference measurements to the files",
            devices.join(", ")
        )
    })
}

/// What an acceptance rests on that nobody should rest on for long.
pub(super) fn standing(appraisal: &Appraisal, policy: &Loaded) -> Vec<String> {
    let mut warnings = Vec::new();
    if appraisal.origin() == Origin::Simulator {
        warnings.push("SIMULATED evidence, accepted because the policy names the simulator in insecure_roots: anybody can forge it".to_owned());
    }
    for finding in appraisal.observed() {
        warnings.push(format!("observe mode let pass: {finding}"));
    }
    if !policy.appraiser.policy.insecure.is_empty() {
        warnings.push(format!("weakened by the policy: {}", policy.appraiser.policy.insecure.join(", ")));
    }
    warnings
}
