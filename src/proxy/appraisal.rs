//! The appraisal of peers on this machine: one policy, the platforms of this build, the collateral at hand, and two
//! memories: verdicts about certificates, and signatures that verified.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use quick_cache::sync::Cache;
use tokio::sync::watch;

use crate::admin::metrics::Metrics;
use crate::collateral::{self, Collateral, Item, Kind};
use crate::evidence::binding::{AgeRule, Binding};
use crate::evidence::cmw::Collection;
use crate::evidence::{Endorsement, EndorsementId, Endorsements, Timestamp};
use crate::platform::{self, Platform};
use crate::policy::AppraisalPolicy;
use crate::refusal::{Denied, Finding, Reason};
use crate::tls::{self, Gathering, Judge, Subject};
use crate::verify::{Appraiser, AttestationResult, SignatureMemo, When};

/// Verdicts about certificates that are remembered, per policy. About 4 KiB each.
const VERDICTS: usize = 4096;

/// Signatures that are remembered: 32 octets each.
const SIGNATURES: usize = 16_384;

/// The longest an accepting verdict is remembered, in seconds.
const ACCEPTED: u64 = 3600;

/// The longest a refusal is remembered, in seconds.
const REFUSED: u64 = 5;

/// A bounded memory of signatures that verified; one for the whole process.
#[derive(Debug)]
pub struct Memo(Cache<[u8; 32], ()>);

impl Memo {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Cache::new(SIGNATURES))
    }
}

impl Default for Memo {
    fn default() -> Self {
        Self::new()
    }
}

impl SignatureMemo for Memo {
    fn knows(&self, check: &[u8; 32]) -> bool {
        self.0.get(check).is_some()
    }

    fn learn(&self, check: [u8; 32]) {
        self.0.insert(check, ());
    }
}

/// A verdict about one certificate under this policy and this collateral, while it holds.
#[derive(Clone)]
struct Verdict {
    generation: u64,
    outcome: Result<Arc<AttestationResult>, Denied>,
    from: Timestamp,
    until: Timestamp,
}

/// Judges peers by one policy, which may be replaced while it works.
pub struct Appraisals {
    judging: ArcSwap<Judging>,
    collateral: Option<Collateral>,
    /// By the certificate's SHA-256, which processors have instructions for: every connection asks.
    verdicts: Cache<[u8; 32], Verdict>,
    memo: Arc<Memo>,
    metrics: Arc<Metrics>,
    changes: watch::Sender<u64>,
}

/// What is replaced together.
struct Judging {
    appraiser: Arc<Appraiser>,
    accepts: Vec<String>,
}

impl Judging {
    fn by(appraiser: Arc<Appraiser>) -> Arc<Self> {
        let accepts = media_types(&appraiser.policy);
        Arc::new(Self { appraiser, accepts })
    }
}

impl Appraisals {
    /// Judges by `appraiser`, on the endorsements that peers staple.
    #[must_use]
    pub fn new(appraiser: Arc<Appraiser>, memo: Arc<Memo>, metrics: Arc<Metrics>) -> Self {
        let judging = ArcSwap::new(Judging::by(appraiser));
        Self { judging, collateral: None, verdicts: Cache::new(VERDICTS), memo, metrics, changes: watch::Sender::new(0) }
    }

    /// The same with collateral of this side's, which goes before what peers staple.
    #[must_use]
    pub fn with(self, collateral: Collateral) -> Self {
        Self { collateral: Some(collateral), ..self }
    }

    /// What is judged by now.
    #[must_use]
    pub fn in_force(&self) -> Arc<Appraiser> {
        Arc::clone(&self.judging.load().appraiser)
    }

    /// Judges by another policy from now on, and has live connections judged again.
    pub fn replace(&self, appraiser: Arc<Appraiser>) {
        self.judging.store(Judging::by(appraiser));
        self.reconsider();
    }

    /// Has live connections judged again, and forgets verdicts about certificates.
    pub fn reconsider(&self) {
        self.changes.send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    fn judge(&self, presented: &Collection, binding: &Binding, when: When) -> Result<AttestationResult, Denied> {
        let judging = self.judging.load_full();
        let Some(platform) = platform::of_evidence(&presented.tee) else {
            let expected = judging.accepts.join(" or ");
            return Finding::new(Reason::EvidenceUnsupported, "tee.media_type", expected, presented.tee.media_type.clone()).refuse();
        };
        // A panic in a parser or a check refuses this peer and harms no other.
        let judged = catch_unwind(AssertUnwindSafe(|| {
            let ours = self.ours(platform, presented, when.now);
            let presented = ours.as_ref().unwrap_or(presented);
            let verdict = judging.appraiser.reconsider(platform.verifier, presented, binding, &*self.memo, when);
            verdict.map_err(|denied| self.told(denied, platform, presented))
        }));
        let judged = judged.unwrap_or_else(|_| {
            Finding::new(Reason::EvidenceMalformed, "appraisal", "a verdict", "a panic, which is a fault of this program: please report it").refuse()
        });
        judged.map_err(|denied| platform.advised(&presented.tee, denied))
    }

    /// What was presented with the collateral of this side's before it; `None` when there is none.
    fn ours(&self, platform: &Platform, presented: &Collection, now: Timestamp) -> Option<Collection> {
        let collateral = self.collateral.as_ref()?;
        let needs = platform.verifier.needs(&presented.tee).ok()?;
        let mut ours: Endorsements = items(platform, needs).iter().filter_map(|item| collateral.find(item, now)).collect();
        ours.iter().next()?;
        ours.extend(presented.endorsements.iter().cloned());
        Some(Collection { endorsements: ours, ..presented.clone() })
    }

    /// A refusal for want of collateral, with what the sources said about it.
    fn told(&self, denied: Denied, platform: &Platform, presented: &Collection) -> Denied {
        let Some(collateral) = self.collateral.as_ref().filter(|_| denied.reason() == Reason::CollateralUnavailable) else { return denied };
        let wanted = items(platform, platform.verifier.needs(&presented.tee).unwrap_or_default());
        let tried: Vec<_> = wanted
            .iter()
            .flat_map(|item| collateral.why(item).into_iter().map(|(source, failure)| format!("{} from {source}: {failure}", item.id.name)))
            .collect();
        if tried.is_empty() {
            return denied;
        }
        let advised = denied.findings().cloned().map(|finding| match finding.reason {
            Reason::CollateralUnavailable => finding.fix(format!("mend the source, or add another to collateral.sources; tried: {}", tried.join("; "))),
            _ => finding,
        });
        Denied::from_findings(advised.collect()).unwrap_or(denied)
    }

    fn judge_certificate(&self, leaf: &[u8], now: Timestamp) -> Result<AttestationResult, Denied> {
        let (leaf, evidence) = tls::certificate::read(leaf)?;
        let rule = self.age_rule();
        leaf.current(now, rule.skew)?;
        let binding = Binding::of_certificate(&evidence.bind, leaf.facts(), rule, now)?;
        self.judge(&evidence, &binding, When { since: now, now })
    }

    /// What a verdict about this needs, was never seen, and some source may have. What the peer stapled will do for the
    /// moment; but it chose which of several lists and statements that hold, so the latest are asked for as well, and
    /// the verdict is made again when they come.
    fn unseen(&self, presented: &Collection, now: Timestamp) -> Option<Vec<Item>> {
        let (collateral, platform) = (self.collateral.as_ref()?, platform::of_evidence(&presented.tee)?);
        // Nobody is asked about a machine that no entry could accept.
        let judging = self.judging.load();
        judging.appraiser.policy.accept.iter().find(|entry| entry.tee == platform.name)?;
        let needs = catch_unwind(AssertUnwindSafe(|| platform.verifier.needs(&presented.tee))).ok()?.ok()?;
        let unseen = collateral.unseen(items(platform, needs));
        let grounds = judging.appraiser.grounds(&*self.memo, now);
        // Nor on the word of somebody who made a machine up.
        let unforged = || platform.verifier.unforged(&presented.tee, &grounds);
        if unseen.is_empty() || !catch_unwind(AssertUnwindSafe(unforged)).is_ok_and(|unforged| unforged.is_ok()) {
            return None;
        }
        let of_name = |name: &str| presented.endorsements.iter().find(|endorsement| endorsement.name == name);
        // A host staples what it has: a certificate of another chip or TCB is none.
        let vouched = |id: &EndorsementId, item: &Endorsement, kind: Kind| {
            let at_hand = |id: &EndorsementId| items(platform, vec![id.clone()]).first().and_then(|item| collateral.find(item, now));
            let others = |id: &EndorsementId| of_name(id.name).cloned().or_else(|| at_hand(id));
            match catch_unwind(AssertUnwindSafe(|| platform.verifier.vouch(id, item, &others, &grounds))) {
                Ok(Ok(())) => true,
                // Its issuer is on its way; the verdict tells whether it fits.
                Ok(Err(denied)) => kind == Kind::Certificate && denied.reason() == Reason::CollateralUnavailable,
                Err(_) => false,
            }
        };
        let stapled = |id: &EndorsementId| {
            let item = of_name(id.name)?;
            let read = collateral::endorsed(item.clone()).ok().filter(|read| read.window.holds(now))?;
            vouched(id, item, read.kind).then_some(read.kind)
        };
        let (mut bare, mut chosen) = (Vec::new(), Vec::new());
        for item in unseen {
            match stapled(&item.id) {
                None => bare.push(item),
                Some(Kind::Statement) => chosen.push(item),
                Some(Kind::Certificate) => {}
            }
        }
        collateral.seek(chosen);
        (!bare.is_empty()).then_some(bare)
    }
}

/// The items of collateral that a platform's verifier names.
#[must_use]
pub fn items(platform: &Platform, ids: Vec<EndorsementId>) -> Vec<Item> {
    let item = |id: EndorsementId| {
        let (service, path) = id.place(platform.vendor_service);
        Item { service: service.to_owned(), id: EndorsementId { name: id.name, path: path.to_owned() } }
    };
    ids.into_iter().map(item).collect()
}

impl Judge for Appraisals {
    fn policy(&self) -> String {
        self.judging.load().appraiser.policy.name.clone()
    }

    fn policy_digest(&self) -> [u8; 32] {
        self.judging.load().appraiser.policy.digest
    }

    fn accepts(&self) -> Vec<String> {
        self.judging.load().accepts.clone()
    }

    fn age_rule(&self) -> AgeRule {
        self.judging.load().appraiser.policy.age_rule()
    }

    fn certificate(&self, leaf: &[u8], now: Timestamp) -> Result<Arc<AttestationResult>, Denied> {
        let key = crate::crypto::sha256(&[leaf]);
        // Before judging: what changes meanwhile makes the verdict one of the past.
        let generation = *self.changes.borrow();
        let current = |verdict: &Verdict| verdict.generation == generation && verdict.from <= now && now <= verdict.until;
        if let Some(verdict) = self.verdicts.get(&key).filter(current) {
            self.metrics.cache_looked_up("hit");
            return verdict.outcome;
        }
        self.metrics.cache_looked_up("miss");
        let outcome = self.judge_certificate(leaf, now).map(Arc::new);
        let until = match &outcome {
            // The next connection presents it anew.
            Ok(result) => result.appraisal().until().min(result.appraisal().fresh_until()).min(now.plus(ACCEPTED)),
            Err(_) => now.plus(REFUSED),
        };
        // "Could not be decided" is no verdict: the next try may find what was missing.
        if !outcome.as_ref().is_err_and(|denied| denied.reason().undecided()) {
            self.verdicts.insert(key, Verdict { generation, outcome: outcome.clone(), from: now, until });
        }
        outcome
    }

    fn session(&self, presented: &Collection, binding: &Binding, now: Timestamp) -> Result<AttestationResult, Denied> {
        self.judge(presented, binding, When { since: now, now })
    }

    fn session_again(&self, presented: &Collection, binding: &Binding, since: Timestamp, now: Timestamp) -> Result<AttestationResult, Denied> {
        self.judge(presented, binding, When { since, now })
    }

    fn gather<'a>(&'a self, subject: Subject<'a>, now: Timestamp) -> Option<Gathering<'a>> {
        let collateral = self.collateral.as_ref()?;
        let unseen = match subject {
            Subject::Certificate(leaf) => self.unseen(&tls::certificate::read(leaf).ok()?.1, now)?,
            Subject::Session(presented) => self.unseen(presented, now)?,
        };
        Some(Box::pin(async move { collateral.get(&unseen, Duration::MAX).await }))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl std::fmt::Debug for Appraisals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appraisals").field("policy", &self.policy()).finish_non_exhaustive()
    }
}

/// The media types of the platforms that the policy names, each once, in its order; then those of devices that an entry
/// requires beside them: without it none is sent. A policy that accepts nobody asks for any: a HELLO lists something, and the
/// refusal is then about the evidence.
fn media_types(policy: &AppraisalPolicy) -> Vec<String> {
    let mut types: Vec<String> = Vec::new();
    let named: Vec<_> = policy.accept.iter().filter_map(|entry| platform::by_name(entry.tee)).collect();
    let any = || platform::PLATFORMS.iter().collect();
    for platform in if named.is_empty() { any() } else { named } {
        if !types.iter().any(|known| known == platform.media_type) {
            types.push(platform.media_type.to_owned());
        }
    }
    let required: Vec<&str> = policy.accept.iter().flat_map(|entry| &entry.require).map(String::as_str).collect();
    let devices = platform::AUXILIARY.iter().filter(|kind| kind.labels.iter().any(|label| required.contains(label)));
    types.extend(devices.map(|kind| kind.media_type.to_owned()));
    types
}
