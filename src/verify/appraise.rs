//! Stage 2, all platforms: is this genuine evidence about this key, and is it what the policy wants?
//!
//! Reports every mismatch of the entry that comes nearest, not only the first.

use std::collections::BTreeSet;

use super::{Appraisal, AuthenticClaims, Tie, Verifier, When, auxiliary};
use crate::evidence::binding::Binding;
use crate::evidence::cmw::Collection;
use crate::evidence::{Auxiliary, Bound, Claims, Evidence, KeyDigest, Timestamp};
use crate::policy::{Accept, Always, AppraisalPolicy, Constraint, Entry, Field, FirmwarePart, Flag, Mode, Product, RisingFloor, Rule, Tolerated, Unset};
use crate::refusal::{Denied, Finding, Reason};

/// Refuses evidence that is not tied to the key, before anything dear is computed: the claims that were bound are those
/// presented, nothing unlisted rides along, and the evidence carries what this connection implies.
pub(super) fn bound(verifier: &dyn Verifier, presented: &Collection, binding: &Binding) -> Result<(), Denied> {
    if !binding.is_of(&presented.bind) {
        return Finding::new(Reason::EvidenceMalformed, "cmw.bind", "the binding claims that were judged", "others").refuse();
    }
    let listed = &binding.claims().aux;
    for member in &presented.tee.auxiliary {
        tied(verifier, &presented.tee, member, binding)?;
    }
    if let Some(label) = listed.keys().find(|label| presented.tee.member(label).is_none()) {
        return Finding::new(Reason::AuxiliaryUnbound, "bind.aux", "no members that are absent", label.clone()).refuse();
    }
    answers(&verifier.bound(&presented.tee)?, binding)
}

/// Refuses an auxiliary member that the platform does not know, or that nothing ties to the key.
fn tied(verifier: &dyn Verifier, tee: &Evidence, member: &Auxiliary, binding: &Binding) -> Result<(), Denied> {
    let unbound = |expected: String, found: String| Finding::new(Reason::AuxiliaryUnbound, "cmw", expected, found).refuse();
    let Some(known) = verifier.members().iter().find(|known| known.label == member.label) else {
        if let Some((kind, _)) = auxiliary::of(member) {
            return listed(member, binding).and_then(|()| typed(member, kind.media_type));
        }
        if member.media_type == tee.media_type {
            return Finding::new(Reason::EvidenceAmbiguous, "cmw", "one TEE's evidence", format!("also {} of the same type", member.label)).refuse();
        }
        let labels: Vec<_> = verifier.members().iter().map(|known| known.label).collect();
        let expected = if labels.is_empty() { "no evidence beside the TEE's".to_owned() } else { format!("only {} beside the TEE's", labels.join(", ")) };
        return unbound(expected, member.label.clone());
    };
    if known.media_type != member.media_type {
        let field = format!("cmw.{}", member.label);
        return Finding::new(Reason::EvidenceUnsupported, field, known.media_type, member.media_type.clone()).refuse();
    }
    let digest = || crate::crypto::sha384(&[&member.bytes]);
    match (known.tie, binding.claims().aux.get(&member.label)) {
        (Tie::Signature(bound), None) => answers(&bound(&member.bytes)?, binding),
        (Tie::Claims, Some(listed)) if crate::crypto::same(listed, &digest()) => Ok(()),
        (Tie::Signature(_), Some(_)) => unbound(format!("{} not in bind.aux: it signs the claims itself", member.label), "listed".to_owned()),
        (Tie::Claims, None) => unbound(format!("the SHA-384 of {} in bind.aux", member.label), "not listed".to_owned()),
        (Tie::Claims, Some(listed)) => unbound(data_encoding::HEXLOWER.encode(listed), data_encoding::HEXLOWER.encode(&digest())),
    }
}

/// Refuses a TLS key that the operator denied.
pub(super) fn permitted(policy: &AppraisalPolicy, key: &KeyDigest) -> Result<(), Denied> {
    match policy.deny_list.as_deref().and_then(|list| list.denies_key(key)) {
        None => Ok(()),
        Some(why) => Finding::new(Reason::IdentityMismatch, "peer.key", "a key that is not on the deny list", data_encoding::HEXLOWER.encode(&key.0))
            .fix(format!("the operator denied it: {why}"))
            .refuse(),
    }
}

/// Refuses a member that the claims do not list with its digest.
fn listed(member: &Auxiliary, binding: &Binding) -> Result<(), Denied> {
    let digest = crate::crypto::sha384(&[&member.bytes]);
    let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
    let unbound = |expected: String, found: String| Finding::new(Reason::AuxiliaryUnbound, "cmw", expected, found).refuse();
    match binding.claims().aux.get(&member.label) {
        Some(listed) if crate::crypto::same(listed, &digest) => Ok(()),
        Some(listed) => unbound(hex(listed), hex(&digest)),
        None => unbound(format!("the SHA-384 of {} in bind.aux", member.label), "not listed".to_owned()),
    }
}

/// Refuses a member of another type than its label says.
fn typed(member: &Auxiliary, media_type: &'static str) -> Result<(), Denied> {
    if member.media_type == media_type {
        return Ok(());
    }
    Finding::new(Reason::EvidenceUnsupported, format!("cmw.{}", member.label), media_type, member.media_type.clone()).refuse()
}

/// Compares the full length in constant time.
pub(super) fn answers(found: &Bound, binding: &Binding) -> Result<(), Denied> {
    if found.answers(binding.expected()) {
        return Ok(());
    }
    let hex = |octets: &[u8]| if octets.is_empty() { "none".to_owned() } else { data_encoding::HEXLOWER.encode(octets) };
    Finding::new(Reason::BindingMismatch, "report.report_data", hex(found.asked(binding.expected())), hex(found.octets()))
        .fix("something between the two sides terminates TLS, or the evidence is from another connection; connect the sidecars directly")
        .refuse()
}

/// Judges genuine claims by a policy. `since` is when the evidence was presented: rules about its age look at
/// that moment, everything else at `now`.
pub(super) fn appraise(
    authentic: AuthenticClaims,
    evidence: &Evidence,
    policy: &AppraisalPolicy,
    since: Timestamp,
    now: Timestamp,
) -> Result<Appraisal, Denied> {
    if policy.expires.is_some_and(|expires| now > expires) {
        let found = policy.expires.map(|expires| expires.to_string()).unwrap_or_default();
        return Finding::new(Reason::PolicyInvalid, "policy.expires", format!("a policy that holds at {now}"), found).fix("renew the policy file").refuse();
    }
    let claims = &authentic.claims;
    let everywhere = policy.deny_list.as_deref();
    if let Some(list) = everywhere.filter(|list| now > list.expires) {
        let fix = "publish a newer edition: until then it is not known what it would deny";
        return Finding::new(Reason::PolicyInvalid, "deny.expires", format!("a deny list that holds at {now}"), list.expires.to_string()).fix(fix).refuse();
    }
    let denials = policy.deny.iter().chain(everywhere.into_iter().flat_map(|list| &list.claims));
    if let Some(denial) = denials.into_iter().find(|denial| denial.hits(claims)) {
        let found = claims.find(denial.claim).map(ToString::to_string).unwrap_or_default();
        return Finding::new(denial.reason, format!("report.{}", denial.claim), format!("not on the deny list of \"{}\"", policy.name), found)
            .fix(format!("the operator denied it: {}", denial.why))
            .refuse();
    }
    let (entry, observed) = fitting(policy, &authentic, evidence, since, now)?;
    let ends = [Some(authentic.until), policy.expires, everywhere.map(|list| list.expires), entry.not_after, tolerated_until(entry, claims)];
    let until = ends.into_iter().flatten().min().unwrap_or(now);
    Ok(Appraisal {
        platform: authentic.platform,
        policy: policy.name.clone(),
        policy_digest: policy.digest,
        entry: entry.id.clone(),
        until,
        fresh_until: fresh_until(entry, claims),
        origin: authentic.origin,
        revocation_checked: authentic.revocation_checked,
        uncompared: Vec::new(),
        observed,
        claims: authentic.claims,
    })
}

/// The first entry that fits wholly; else, in observe mode, the one that misses reference values alone; else a refusal
/// with the mismatches of the nearest.
fn fitting<'p>(
    policy: &'p AppraisalPolicy,
    authentic: &AuthenticClaims,
    evidence: &Evidence,
    since: Timestamp,
    now: Timestamp,
) -> Result<(&'p Entry, Vec<Finding>), Denied> {
    let of_platform: Vec<&Entry> = policy.accept.iter().filter(|entry| entry.tee == authentic.platform).collect();
    if of_platform.is_empty() {
        let tees: BTreeSet<&str> = policy.accept.iter().map(|entry| entry.tee).collect();
        let (expected, fix) = if tees.is_empty() {
            let fix = "the policy's list `accept` is empty: if this machine is yours, add an entry with `portcullis policy add`";
            ("nothing: the policy accepts nobody".to_owned(), fix)
        } else {
            let fix = "no entry of the policy is about this kind of TEE: if this machine is yours, add one with `portcullis policy add`";
            (tees.into_iter().collect::<Vec<_>>().join(", "), fix)
        };
        return Finding::new(Reason::PlatformNotAllowed, "tee", expected, authentic.platform).fix(fix).refuse();
    }
    let live = of_platform.iter().copied().filter(|entry| entry.not_after.is_none_or(|end| now <= end));
    let mut judged: Vec<(&Entry, Vec<Missed>)> = live.map(|entry| (entry, mismatches(entry, &authentic.claims, evidence, When { since, now }))).collect();
    judged.sort_by_key(|(_, missed)| missed.len());
    let fits = |missed: &Missed| policy.mode == Mode::Observe && missed.always == Always::Reference;
    match judged.iter().position(|(_, missed)| missed.iter().all(fits)) {
        Some(index) => {
            let (entry, missed) = judged.swap_remove(index);
            Ok((entry, missed.into_iter().map(|missed| missed.finding).collect()))
        }
        None => Err(refusal(policy, &judged, authentic)),
    }
}

fn refusal(policy: &AppraisalPolicy, judged: &[(&Entry, Vec<Missed>)], authentic: &AuthenticClaims) -> Denied {
    let Some((nearest, missed)) = judged.first() else {
        let found = format!("every entry for {} is past its not_after", authentic.platform);
        return Finding::new(Reason::PolicyInvalid, "policy.accept", "an entry that has not expired", found).into();
    };
    let several = judged.len() > 1;
    let findings = missed.iter().map(|missed| {
        let mut finding = missed.finding.clone();
        match (&missed.field.rule, several) {
            (Rule::Bytes { claim, .. } | Rule::Digest { claim, .. }, true) => finding.expected = any_entry(policy, judged, claim),
            (_, true) => finding.field = format!("{} (entry {})", finding.field, nearest.id).into(),
            _ => {}
        }
        finding
    });
    let fallback = || Finding::new(Reason::PolicyInvalid, "policy.accept", "an entry that fits", "none").into();
    Denied::from_findings(findings.collect()).unwrap_or_else(fallback)
}

/// "one of N in policy …", over all entries of the platform.
fn any_entry(policy: &AppraisalPolicy, judged: &[(&Entry, Vec<Missed>)], claim: &str) -> String {
    let mut values = Vec::new();
    for (entry, _) in judged {
        for constraint in &entry.constraints {
            if let (Rule::Bytes { claim: of, .. } | Rule::Digest { claim: of, .. }, Accept::Bytes(accepted)) = (&constraint.field.rule, &constraint.accept)
                && *of == claim
            {
                values.extend(accepted.iter().map(|value| format!("{} {}", entry.id, data_encoding::HEXLOWER.encode(value))));
            }
        }
    }
    format!("one of {} in policy \"{}\": {}", values.len(), policy.name, values.join(", "))
}

/// One mismatch with the row it is about.
struct Missed {
    field: &'static Field,
    always: Always,
    finding: Finding,
}

fn mismatches(entry: &Entry, claims: &Claims, evidence: &Evidence, when: When) -> Vec<Missed> {
    let missed = |constraint: &Constraint| {
        let field = constraint.field;
        check(constraint, claims, when).into_iter().map(move |finding| Missed { field, always: field.always, finding })
    };
    let absent = entry.require.iter().filter(|label| evidence.member(label).is_none());
    let absent = absent.map(|label| Missed {
        field: &REQUIRE,
        always: REQUIRE.always,
        finding: Finding::new(REQUIRE.reason, format!("cmw.{label}"), "there, as the entry requires", "none"),
    });
    absent.chain(entry.constraints.iter().flat_map(missed)).collect()
}

/// The key of every entry that says which members must be there.
static REQUIRE: Field = Field {
    key: "require",
    doc: "Which members must be there beside the TEE's evidence.",
    rule: Rule::Words { claim: "members", known: &[], default: &[], guarded: &[], needs: &[], optional: false },
    unset: Unset::Unjudged,
    reason: Reason::AuxiliaryUnbound,
    always: Always::Policy,
};

/// What is wrong with one field; empty when it holds. A claim that is absent is a mismatch unless the rule says else.
fn check(constraint: &Constraint, claims: &Claims, When { since, now }: When) -> Vec<Finding> {
    let field = constraint.field;
    let one = |claim: &str, expected: String, found: Option<String>| {
        vec![Finding::new(field.reason, format!("report.{claim}"), expected, found.unwrap_or_else(|| "none".to_owned()))]
    };
    match (&field.rule, &constraint.accept) {
        (Rule::Bytes { guarded_by: Some(guard), claim, .. }, _) if claims.number(guard) != Some(1) => {
            one(guard, format!("1: {claim} has a meaning"), claims.number(guard).map(|found| found.to_string()))
        }
        (Rule::Bytes { claim, .. } | Rule::Digest { claim, .. }, Accept::Bytes(accepted)) => match claims.bytes(claim) {
            Some(found) if accepted.iter().any(|value| value == found) => Vec::new(),
            found => one(
                claim,
                any_of(accepted.iter().map(|value| data_encoding::HEXLOWER.encode(value))),
                found.map(|octets| data_encoding::HEXLOWER.encode(octets)),
            ),
        },
        (Rule::Components { claim }, Accept::Components(wanted)) => match claims.list(claim) {
            Some(found) => wrong_parts(field.reason, claim, wanted, found),
            None => one(claim, "a list".to_owned(), None),
        },
        (Rule::Flags { claim, flags }, Accept::Bits { set, clear }) => match claims.number(claim).or_else(|| little_endian(claims.bytes(claim))) {
            Some(found) => flags.iter().filter_map(|flag| wrong_bit(claim, flag, found, *set, *clear)).collect(),
            None => one(claim, "a bit field".to_owned(), None),
        },
        (Rule::Includes { claim }, Accept::Includes(wanted)) => {
            let found = claims.texts(claim).unwrap_or_default();
            let missing: Vec<_> = wanted.iter().filter(|word| !found.contains(word)).cloned().collect();
            // Whoever runs later may add an event, and never undo one: `app=…` twice with two values tells of two.
            let name = |word: &str| word.rsplit_once('=').map(|(name, _)| name.to_owned());
            let contradicts =
                |word: &&String| !wanted.contains(word) && wanted.iter().any(|wanted| name(wanted).is_some_and(|wanted| name(word) == Some(wanted)));
            if missing.is_empty() && !found.iter().any(|word| contradicts(&word)) {
                return Vec::new();
            }
            let expected = if missing.is_empty() { format!("{}, and nothing else by these names", wanted.join(", ")) } else { missing.join(", ") };
            one(claim, expected, (!found.is_empty()).then(|| found.join(", ")))
        }
        (Rule::MaxAge { claim, .. }, Accept::MaxAge(most)) => match claims.number(claim).map(Timestamp) {
            Some(made) if made <= since.plus(CLOCK_SKEW) && since <= made.plus(*most) => Vec::new(),
            made => one(claim, format!("at most {most} s before {since}"), made.map(|made| made.to_string())),
        },
        (Rule::Mask { claim }, Accept::Bits { set, .. }) => match little_endian(claims.bytes(claim)) {
            Some(found) if found & set == *set => Vec::new(),
            found => one(claim, format!("the bits {set:#x}"), found.map(|found| format!("{found:#x}"))),
        },
        (Rule::Minimum { claim, .. }, Accept::Minimum(least)) => match claims.number(claim) {
            Some(found) if found >= *least => Vec::new(),
            found => one(claim, format!(">= {least}"), found.map(|found| found.to_string())),
        },
        (Rule::Numbers { claim, .. }, Accept::Numbers(accepted)) => match claims.number(claim) {
            Some(found) if accepted.contains(&found) => Vec::new(),
            found => one(claim, any_of(accepted.iter().map(u64::to_string)), found.map(|found| found.to_string())),
        },
        (Rule::Registers { claim, .. }, Accept::Registers(wanted)) => {
            let registers = claims.map(claim);
            wanted.iter().filter_map(|(name, values)| wrong_register(field.reason, claim, name, values, registers)).collect()
        }
        (Rule::Rising { claim, floors, .. }, Accept::Rising { least, shipped }) => {
            let least = if *shipped { RisingFloor::at(floors, now.0).max(*least) } else { *least };
            match claims.number(claim) {
                Some(found) if found >= least => Vec::new(),
                found => one(claim, format!(">= {least}"), found.map(|found| found.to_string())),
            }
        }
        (Rule::Same { claim, other, .. }, Accept::Same) => match (claims.find(claim), claims.find(other)) {
            (Some(found), Some(wanted)) if found == wanted => Vec::new(),
            (found, wanted) => {
                let expected = format!("equal to report.{other} {}", wanted.map(ToString::to_string).unwrap_or_default());
                one(claim, expected, found.map(ToString::to_string))
            }
        },
        (Rule::Tcb { claims: wanted, product, .. }, Accept::Tcb(floors)) => {
            let name = claims.text(product);
            match floors.iter().find(|(product, _)| Some(product.name) == name) {
                Some((product, floor)) => {
                    wanted.iter().flat_map(|wanted| short(field.reason, wanted.field, claims.map(wanted.claim), product, floor)).collect()
                }
                None => one(product, any_of(floors.iter().map(|(product, _)| product.name.to_owned())), name.map(str::to_owned)),
            }
        }
        (Rule::TcbStatus { claim, good, .. }, Accept::TcbStatus(tolerated)) => match claims.text(claim) {
            Some(found) if found == *good => Vec::new(),
            _ if tolerated.iter().any(|tolerated| now <= tolerated.until && tolerates(tolerated, &field.rule, claims)) => Vec::new(),
            found => vec![Finding::new(field.reason, format!("report.{claim}"), tolerable(good, tolerated), status(found, &field.rule, claims)).fix(behind(
                &field.rule,
                field.key,
                claims,
            ))],
        },
        (Rule::Version { claims: wanted, .. }, Accept::Version(least)) => wanted.iter().flat_map(|claim| older(field.reason, claim, claims, least)).collect(),
        (Rule::Required { claim }, Accept::Present) => match claims.find(claim) {
            Some(_) => Vec::new(),
            None => vec![Finding::new(field.reason, *claim, "there, as the entry requires", "none")],
        },
        (Rule::Words { claim, optional, .. }, Accept::Words(accepted)) => match claims.text(claim) {
            None if *optional => Vec::new(),
            Some(found) if accepted.iter().any(|word| word == found) => Vec::new(),
            found => one(claim, any_of(accepted.iter().cloned()), found.map(str::to_owned)),
        },
        // The loader makes no other pair; should it ever, nothing passes.
        _ => one(field.key, "a value of the field's kind".to_owned(), None),
    }
}

/// Whether the claims have this status, and no advisory beyond those that are tolerated with it.
fn tolerates(tolerated: &Tolerated, rule: &Rule, claims: &Claims) -> bool {
    let Rule::TcbStatus { claim, advisories, .. } = rule else { return false };
    let open = claims.texts(advisories);
    claims.text(claim) == Some(&tolerated.status) && open.is_some_and(|open| open.iter().all(|advisory| tolerated.advisories.contains(advisory)))
}

/// Until when evidence with these claims is young enough for an entry.
fn fresh_until(entry: &Entry, claims: &Claims) -> Timestamp {
    let of = |constraint: &Constraint| match (&constraint.field.rule, &constraint.accept) {
        (Rule::MaxAge { claim, .. }, Accept::MaxAge(most)) => claims.number(claim).map(|made| Timestamp(made).plus(*most)),
        _ => None,
    };
    entry.constraints.iter().filter_map(of).min().unwrap_or(Timestamp(u64::MAX))
}

/// Until when what an entry tolerates of these claims is tolerated; `None` where nothing needs to be.
fn tolerated_until(entry: &Entry, claims: &Claims) -> Option<Timestamp> {
    let of = |constraint: &Constraint| match &constraint.accept {
        Accept::TcbStatus(tolerated) => {
            tolerated.iter().filter(|tolerated| tolerates(tolerated, &constraint.field.rule, claims)).map(|tolerated| tolerated.until).max()
        }
        _ => None,
    };
    entry.constraints.iter().filter_map(of).min()
}

fn tolerable(good: &str, tolerated: &[Tolerated]) -> String {
    let tolerated =
        tolerated.iter().map(|tolerated| format!("{} until {} with none but {}", tolerated.status, tolerated.until, tolerated.advisories.join(", ")));
    any_of(std::iter::once(good.to_owned()).chain(tolerated))
}

fn status(found: Option<&str>, rule: &Rule, claims: &Claims) -> String {
    let open = match rule {
        Rule::TcbStatus { advisories, .. } => claims.texts(advisories).unwrap_or_default(),
        _ => &[],
    };
    let found = found.unwrap_or("none");
    if open.is_empty() { found.to_owned() } else { format!("{found}, open to {}", open.join(", ")) }
}

/// What a person can do about a status.
fn behind(rule: &Rule, key: &str, claims: &Claims) -> String {
    let short = match rule {
        Rule::TcbStatus { short, .. } => claims.texts(short).unwrap_or_default(),
        _ => &[],
    };
    let update = match short {
        [] => "the host's configuration or software must change: read the advisories".to_owned(),
        short => format!("update the host's firmware, microcode and modules; behind the newest level: {}", short.join(", ")),
    };
    format!("{update}. Or tolerate the status with its advisories until a day: {key}")
}

fn wrong_register(reason: Reason, claim: &str, name: &str, values: &[Vec<u8>], registers: Option<&Claims>) -> Option<Finding> {
    let found = registers.and_then(|registers| registers.bytes(name));
    if found.is_some_and(|found| values.iter().any(|value| value == found)) {
        return None;
    }
    let hex = |octets: &[u8]| data_encoding::HEXLOWER.encode(octets);
    let shown = found.map_or_else(|| "none".to_owned(), hex);
    Some(Finding::new(reason, format!("report.{claim}.{name}"), any_of(values.iter().map(|value| hex(value))), shown))
}

/// The parts of the firmware that are none of `wanted`, and the types of `wanted` that are not there. Without a type nothing
/// says which parts stand for one another: each is wanted.
fn wrong_parts(reason: Reason, claim: &str, wanted: &[FirmwarePart], found: &[Claims]) -> Vec<Finding> {
    let hex = |octets: Option<&[u8]>| octets.map_or_else(|| "none".to_owned(), |octets| data_encoding::HEXLOWER.encode(octets));
    let shown = |measurement, signer| format!("measurement {} signer {}", hex(measurement), hex(signer));
    let fits = |part: &Claims, wanted: &FirmwarePart| {
        part.bytes("measurement") == Some(wanted.measurement.as_slice()) && part.bytes("signer") == Some(wanted.signer.as_slice())
    };
    let of_kind = |kind: Option<&str>| wanted.iter().filter(move |wanted| wanted.kind.as_deref() == kind).collect::<Vec<_>>();
    let name = |kind: Option<&str>| format!("report.{claim}.{}", kind.unwrap_or("(no type)"));
    let mut findings = Vec::new();
    for part in found {
        let kind = part.text("type");
        let known = of_kind(kind);
        if !known.iter().any(|known| fits(part, known)) {
            let expected = any_of(known.iter().map(|known| shown(Some(&known.measurement), Some(&known.signer))));
            findings.push(Finding::new(reason, name(kind), expected, shown(part.bytes("measurement"), part.bytes("signer"))));
        }
    }
    let mut missing: Vec<&str> = wanted.iter().filter_map(|wanted| wanted.kind.as_deref()).collect();
    missing.retain(|kind| !found.iter().any(|part| part.text("type") == Some(kind)));
    missing.dedup();
    findings.extend(missing.into_iter().map(|kind| Finding::new(reason, name(Some(kind)), "a part of this type", "none")));
    let untyped = of_kind(None).into_iter().filter(|wanted| !found.iter().any(|part| part.text("type").is_none() && fits(part, wanted)));
    findings.extend(untyped.map(|wanted| Finding::new(reason, name(None), shown(Some(&wanted.measurement), Some(&wanted.signer)), "none")));
    findings
}

fn wrong_bit(claim: &str, flag: &Flag, found: u64, set: u64, clear: u64) -> Option<Finding> {
    let bit = 1_u64.checked_shl(flag.bit)?;
    let (expected, wrong) = match (set & bit != 0, clear & bit != 0) {
        (true, _) => (format!("1 ({})", flag.doc), found & bit == 0),
        (_, true) => ("0".to_owned(), found & bit != 0),
        _ => return None,
    };
    let shown = if found & bit == 0 { "0".to_owned() } else { format!("1 ({})", flag.doc) };
    wrong.then(|| Finding::new(flag.reason, format!("report.{claim}.{}", flag.key), expected, shown))
}

fn short(reason: Reason, field: &'static str, found: Option<&Claims>, product: &Product, floor: &[u8]) -> Vec<Finding> {
    let below = |(component, least): (&crate::policy::Component, &u8)| {
        let found = found.and_then(|found| found.number(component.claim));
        let enough = found.is_some_and(|found| found >= u64::from(*least));
        let shown = found.map_or_else(|| "none".to_owned(), |found| found.to_string());
        (!enough).then(|| {
            let fix = format!("update the host's firmware; or lower min_tcb.{}.{} after reading the vendor's bulletin", product.name, component.key);
            Finding::new(reason, format!("{field}.{}", component.key), format!(">= {least}"), shown).fix(fix)
        })
    };
    product.components.iter().zip(floor).filter_map(below).collect()
}

fn older(reason: Reason, claim: &'static str, claims: &Claims, least: &[u64]) -> Option<Finding> {
    let text = claims.text(claim);
    let found: Option<Vec<u64>> = text.and_then(|text| text.split('.').map(|part| part.parse().ok()).collect());
    let shown: Vec<_> = least.iter().map(u64::to_string).collect();
    let enough = found.is_some_and(|found| found.as_slice() >= least);
    (!enough).then(|| Finding::new(reason, format!("report.{claim}"), format!(">= {}", shown.join(".")), text.unwrap_or("none")))
}

fn little_endian(octets: Option<&[u8]>) -> Option<u64> {
    octets.and_then(|octets| octets.try_into().ok()).map(u64::from_le_bytes)
}

fn any_of(values: impl Iterator<Item = String>) -> String {
    let values: Vec<_> = values.collect();
    match values.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        several => format!("one of {}", several.join(", ")),
    }
}

/// How far an attester's clock may be ahead of ours, in seconds.
const CLOCK_SKEW: u64 = 60;
