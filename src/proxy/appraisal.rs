//! The appraisal of peers on this machine: one policy, the platforms of this build, and two memories: verdicts about
//! certificates, and signatures that verified.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::admin::metrics::Metrics;
use crate::evidence::Timestamp;
use crate::evidence::binding::{AgeRule, Binding};
use crate::evidence::cmw::Collection;
use crate::platform;
use crate::policy::AppraisalPolicy;
use crate::refusal::{Denied, Finding, Reason};
use crate::tls::{self, Judge};
use crate::verify::{Appraiser, AttestationResult, SignatureMemo};

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

/// A verdict about one certificate under this policy, while it holds.
#[derive(Clone)]
struct Verdict {
    outcome: Result<Arc<AttestationResult>, Denied>,
    from: Timestamp,
    until: Timestamp,
}

/// Judges peers by one policy. Dropped with its memory when the policy is replaced.
pub struct Appraisals {
    appraiser: Arc<Appraiser>,
    accepts: Vec<String>,
    verdicts: Cache<[u8; 48], Verdict>,
    memo: Arc<Memo>,
    metrics: Arc<Metrics>,
}

impl Appraisals {
    /// Judges by `appraiser`, on the endorsements that peers staple.
    #[must_use]
    pub fn new(appraiser: Arc<Appraiser>, memo: Arc<Memo>, metrics: Arc<Metrics>) -> Self {
        let accepts = media_types(&appraiser.policy);
        Self { appraiser, accepts, verdicts: Cache::new(VERDICTS), memo, metrics }
    }

    fn judge(&self, presented: &Collection, binding: &Binding, now: Timestamp) -> Result<AttestationResult, Denied> {
        let Some(platform) = platform::of_evidence(&presented.tee) else {
            let expected = self.accepts.join(" or ");
            return Finding::new(Reason::EvidenceUnsupported, "tee.media_type", expected, presented.tee.media_type.clone()).refuse();
        };
        // A panic in a parser or a check refuses this peer and harms no other.
        let judged = catch_unwind(AssertUnwindSafe(|| self.appraiser.judge(platform.verifier, presented, binding, &*self.memo, now)));
        let judged = judged.unwrap_or_else(|_| {
            Finding::new(Reason::EvidenceMalformed, "appraisal", "a verdict", "a panic, which is a fault of this program: please report it").refuse()
        });
        judged.map_err(|denied| platform.advised(&presented.tee, denied))
    }

    fn judge_certificate(&self, leaf: &[u8], now: Timestamp) -> Result<AttestationResult, Denied> {
        let (leaf, evidence) = tls::certificate::read(leaf)?;
        let rule = self.age_rule();
        leaf.current(now, rule.skew)?;
        let binding = Binding::of_certificate(&evidence.bind, leaf.facts(), rule, now)?;
        self.judge(&evidence, &binding, now)
    }
}

impl Judge for Appraisals {
    fn policy(&self) -> &str {
        &self.appraiser.policy.name
    }

    fn policy_digest(&self) -> [u8; 32] {
        self.appraiser.policy.digest
    }

    fn accepts(&self) -> &[String] {
        &self.accepts
    }

    fn age_rule(&self) -> AgeRule {
        self.appraiser.policy.age_rule()
    }

    fn certificate(&self, leaf: &[u8], now: Timestamp) -> Result<Arc<AttestationResult>, Denied> {
        let key = crate::crypto::sha384(&[leaf]);
        if let Some(verdict) = self.verdicts.get(&key).filter(|verdict| verdict.from <= now && now <= verdict.until) {
            self.metrics.cache_looked_up("hit");
            return verdict.outcome;
        }
        self.metrics.cache_looked_up("miss");
        let outcome = self.judge_certificate(leaf, now).map(Arc::new);
        let until = match &outcome {
            Ok(result) => result.appraisal().until().min(now.plus(ACCEPTED)),
            Err(_) => now.plus(REFUSED),
        };
        // "Could not be decided" is no verdict: the next try may find what was missing.
        if !outcome.as_ref().is_err_and(|denied| denied.reason().undecided()) {
            self.verdicts.insert(key, Verdict { outcome: outcome.clone(), from: now, until });
        }
        outcome
    }

    fn session(&self, presented: &Collection, binding: &Binding, now: Timestamp) -> Result<AttestationResult, Denied> {
        self.judge(presented, binding, now)
    }
}

impl std::fmt::Debug for Appraisals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appraisals").field("policy", &self.appraiser.policy.name).finish_non_exhaustive()
    }
}

/// The media types of the platforms that the policy names, each once, in its order.
fn media_types(policy: &AppraisalPolicy) -> Vec<String> {
    let mut types: Vec<String> = Vec::new();
    for platform in policy.accept.iter().filter_map(|entry| platform::by_name(entry.tee)) {
        if !types.iter().any(|known| known == platform.media_type) {
            types.push(platform.media_type.to_owned());
        }
    }
    types
}
