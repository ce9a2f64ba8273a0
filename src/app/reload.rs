//! The configuration read again while everything runs: it is taken as a whole or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::builder::{Builder, Built};
use super::{App, appraiser, collateral, confess, descriptors, judge, public, signer};
use crate::admin::health::Condition;
use crate::config::{self, Config};
use crate::policy::{AppraisalPolicy, DenyList};
use crate::proxy::Replaced;
use crate::proxy::appraisal::Appraisals;
use crate::proxy::http::token::Signer;

/// What is in force, and what was made of it.
pub(super) struct InForce {
    pub(super) config: Config,
    pub(super) built: Vec<Built>,
    pub(super) publics: public::Publics,
    pub(super) signer: Option<Arc<Signer>>,
    /// The latest edition of the deny list that was in force.
    pub(super) denied: Option<Arc<DenyList>>,
}

/// What came of a configuration that was taken.
struct Taken {
    listeners: Replaced,
    policies: Vec<String>,
    /// Keys that only a restart takes.
    restart: Vec<&'static str>,
}

impl App {
    /// Takes a configuration that was read while everything runs: listeners, upstreams, policies, the deny list and the
    /// grace. What only a restart takes stays as it is, and is told. One that has errors, or that cannot be put in force as
    /// a whole, changes nothing.
    ///
    /// Live connections are judged by what is in force then: see [`crate::proxy::Proxy::replace`].
    pub async fn reload(&self, read: Result<Config, config::ConfigError>) {
        let taken = match read {
            Ok(config) => self.take_over(config).await,
            Err(error) => Err(error.into()),
        };
        match taken {
            Ok(Taken { listeners, policies, restart }) => {
                let of = |names: &[String]| names.join(",");
                let (added, changed, removed) = (of(&listeners.added), of(&listeners.changed), of(&listeners.removed));
                tracing::info!(target: "reload", policies = of(&policies), added, changed, removed, "the configuration is in force");
                let told = if restart.is_empty() {
                    "the last one went well".to_owned()
                } else {
                    let keys = restart.join(", ");
                    tracing::warn!(target: "reload", keys, "these keys have changed and need a restart; as long as the process runs they stay as they were");
                    format!("the last one went well; what changed of {keys} needs a restart")
                };
                self.parts.metrics.reloaded("ok");
                self.parts.health.set("reload", Condition::MetBut(told));
            }
            Err(error) => {
                tracing::error!(target: "reload", error = format!("{error:#}"), "the configuration that was in force stays");
                self.parts.metrics.reloaded("failed");
                self.parts.health.set("reload", Condition::MetBut("the last one failed: the configuration that was in force stays".to_owned()));
            }
        }
    }

    async fn take_over(&self, read: Config) -> anyhow::Result<Taken> {
        let mut force = self.force.lock().await;
        let (next, restart) = kept(&force.config, read);
        let number = edition(force.denied.as_ref(), next.deny.as_ref())?;
        let judges = self.judges_of(&next);
        let publics = force.publics.renewed(&next, self.identity.as_ref(), &self.parts).await?;
        let signer = match &force.signer {
            Some(signer) => Some(Arc::clone(signer)),
            None => signer(&next, &self.keys, &self.parts.clock)?,
        };
        let (identity, clock) = (self.identity.as_ref(), &self.parts.clock);
        let builder = Builder { config: &next, identity, judges: &judges, publics: &publics, signer: signer.as_ref(), clock, before: &force.built };
        let built = builder.listeners()?;
        let plans = built.iter().map(|built| built.listener.clone()).collect();
        let listeners = self.proxy.replace(plans, next.drain_grace).await?;
        // From here on nothing fails.
        let policies = self.put_in_force(&next, judges, number);
        publics.keep(Some(&force.publics), &self.parts);
        for upstream in force.config.upstreams.keys().filter(|name| !next.upstreams.contains_key(*name)) {
            self.parts.metrics.unchecked(upstream);
        }
        if next.insecure != force.config.insecure || !policies.is_empty() {
            confess(&next, &self.parts.metrics, &self.parts.health);
        }
        if let Some(lacking) = descriptors::lacking(&next, descriptors::permitted()) {
            tracing::warn!(target: "descriptors", "{lacking}");
        }
        if let Some(collateral) = &self.collateral {
            let policies: Vec<_> = next.policies.values().map(|policy| &*policy.policy).collect();
            collateral.want(&collateral::foreseen(&policies));
            collateral.hurry();
        }
        let now = self.parts.clock.now().ok().map(|now| now.0);
        self.parts.metrics.configured(&next.digest, now, &restart);
        let denied = next.deny.as_ref().map(|deny| Arc::clone(&deny.list));
        *force = InForce { config: next, built, publics, signer, denied };
        drop(force);
        Ok(Taken { listeners, policies, restart })
    }

    /// A judge for each policy: the one there is, which judges by what was in force so far, or a new one.
    fn judges_of(&self, next: &Config) -> BTreeMap<String, Arc<Appraisals>> {
        let known = self.judges.load();
        let judge = |(name, policy): (&String, &config::Policy)| {
            let judge = known.get(name).cloned().unwrap_or_else(|| judge(policy, &self.memo, self.collateral.as_ref(), &self.parts.metrics));
            (name.clone(), judge)
        };
        next.policies.iter().map(judge).collect()
    }

    /// Has the judges judge by the policies of a configuration; gives the names of those that changed.
    fn put_in_force(&self, next: &Config, mut judges: BTreeMap<String, Arc<Appraisals>>, another: bool) -> Vec<String> {
        let known = self.judges.load_full();
        let mut replaced = Vec::new();
        for (name, policy) in &next.policies {
            match judges.get(name) {
                Some(judge) if known.contains_key(name) => {
                    let was = judge.in_force();
                    if !same(&was.policy, &policy.policy) {
                        judge.replace(Arc::new(appraiser(&policy.policy)));
                        replaced.push(name.clone());
                    }
                }
                _ => replaced.push(name.clone()),
            }
        }
        // A policy that the file no longer has judges as long as there are connections under it: by the latest deny list too.
        let denied = next.deny.as_ref().map(|deny| Arc::clone(&deny.list));
        for (name, judge) in known.iter().filter(|(name, _)| !next.policies.contains_key(*name)) {
            // Held here and in `known` alone: nobody is judged by it.
            if Arc::strong_count(judge) <= 1 {
                continue;
            }
            if another {
                let policy = AppraisalPolicy { deny_list: denied.clone(), ..judge.in_force().policy.clone() };
                judge.replace(Arc::new(appraiser(&policy)));
            }
            judges.insert(name.clone(), Arc::clone(judge));
        }
        self.judges.store(Arc::new(judges));
        replaced
    }
}

/// Whether two policies judge alike.
fn same(one: &AppraisalPolicy, other: &AppraisalPolicy) -> bool {
    one.digest == other.digest && one.mode == other.mode && one.deny_list == other.deny_list
}

/// What was read, but for what cannot be taken while the process runs, which stays as it is in force; with the keys of what
/// changed there.
fn kept(in_force: &Config, read: Config) -> (Config, Vec<&'static str>) {
    // Taken apart, so that of a new table it is decided whether it can be taken.
    let Config { identity, listeners, upstreams, policies, deny, acme, collateral, observe, log, drain_grace, insecure, warnings, digest } = read;
    let keys = [
        ("identity", in_force.identity == identity),
        ("acme", in_force.acme == acme),
        ("collateral", in_force.collateral == collateral),
        ("observe", in_force.observe == observe),
        ("log", in_force.log == log),
    ];
    let stays = |option: &&String| keys.iter().any(|(key, _)| option.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')));
    let insecure = in_force.insecure.iter().filter(stays).chain(insecure.iter().filter(|option| !stays(option))).cloned().collect();
    let Config { identity, acme, collateral, observe, log, .. } = in_force.clone();
    let kept = Config { identity, listeners, upstreams, policies, deny, acme, collateral, observe, log, drain_grace, insecure, warnings, digest };
    (kept, keys.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect())
}

/// Whether the deny list is another edition than the one in force. Editions only go on.
///
/// # Errors
/// It is an earlier one, or another of the same number.
fn edition(in_force: Option<&Arc<DenyList>>, next: Option<&config::Deny>) -> anyhow::Result<bool> {
    let number = |list: Option<&Arc<DenyList>>| list.map_or(0, |list| list.number);
    let next = next.map(|deny| &deny.list);
    let (edition, held) = (number(next), number(in_force));
    anyhow::ensure!(edition >= held, "the deny list is edition {edition}, and edition {held} is in force");
    let same = edition != held || next == in_force;
    anyhow::ensure!(same, "the deny list is edition {edition} with other contents than the edition {edition} that is in force: count each edition up");
    Ok(edition != held)
}
