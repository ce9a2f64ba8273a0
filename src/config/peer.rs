//! What a peer must be, whichever side it is on: a policy, an identity, and how fresh its evidence is.

use std::collections::BTreeSet;
use std::ops::Range;

use rustls::pki_types::ServerName;

use super::sides::{Collected, Known, plain_values, reference};
use super::tree::{Section, Wrong};
use super::{files, schema, values};
use crate::policy::AppraisalPolicy;

/// How fresh evidence must be; the order is that of strength.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Freshness {
    /// The evidence in the certificate alone.
    Certificate,
    /// Evidence for this session by the side that must be attested.
    Session,
    /// Evidence for this session by both sides, and an identity.
    SessionMutual,
}

impl Freshness {
    /// Its spelling in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Session => "session",
            Self::SessionMutual => "session-mutual",
        }
    }
}

/// What a peer must be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// The policy's name; it exists.
    pub policy: String,
    /// Who it must be beside.
    pub identity: PeerIdentity,
}

/// Who a peer must be; everything that is set must hold.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PeerIdentity {
    /// Roots its chain must end at; `None` for no PKI.
    pub pki_roots: Option<Vec<rustls::pki_types::TrustAnchor<'static>>>,
    /// Names, one of which it must have.
    pub pki_names: Vec<ServerName<'static>>,
    /// SHA-256 of SubjectPublicKeyInfos, one of which it must have.
    pub spki_pins: Vec<[u8; 32]>,
    /// SPIFFE ids, one of which it must have.
    pub spiffe_ids: Vec<String>,
}

pub(super) const ANY_PLATFORM: &str = "insecure_allow_any_genuine_platform";
pub(super) const REPLAY: &str = "insecure_accept_replay_risk";

pub(super) fn freshness(section: &Section<'_>) -> Option<Freshness> {
    let known = [Freshness::SessionMutual, Freshness::Session, Freshness::Certificate].map(|freshness| (freshness.name(), freshness));
    section.parsed("freshness", |text| values::one_of(text, "freshness", &known)).map(|freshness| freshness.value)
}

pub(super) fn acknowledge(section: &Section<'_>, place: &Section<'_>, freshness: Freshness) {
    if freshness == Freshness::Certificate && !section.flag(REPLAY) {
        let span = place.has("freshness").unwrap_or_else(|| place.span.clone());
        let help = format!("use \"session\"; {REPLAY} = true accepts that evidence can be replayed within the certificate's life");
        section.wrong(&span, "the certificate tier does not stop replay or relay", help);
    }
}

/// `session-mutual` needs to know who the peer is, not only what it runs.
pub(super) fn identified(section: &Section<'_>, span: &Range<usize>, identity: Option<&PeerIdentity>, policy: Option<&AppraisalPolicy>) {
    // What could not be read has its own error.
    let (Some(identity), Some(policy)) = (identity, policy) else { return };
    let pinned = !identity.spki_pins.is_empty() || identity.pki_roots.is_some();
    let vocabularies = crate::platform::vocabularies();
    // By the platform's own words: a key of one name says which machine on one, and what it booted on another.
    let names_machines = |entry: &crate::policy::Entry| {
        let machines = vocabularies.iter().filter(|vocabulary| vocabulary.tee == entry.tee).flat_map(|vocabulary| vocabulary.machine);
        machines.into_iter().any(|machine| entry.constraints.iter().any(|constraint| constraint.field.key == *machine))
    };
    let machines_named = !policy.accept.is_empty() && policy.accept.iter().all(names_machines);
    if !pinned && !machines_named && !section.flag(ANY_PLATFORM) {
        let message = "session-mutual without knowing who the peer is: any genuine machine that runs the code would do";
        // A platform that the policy does not name helps nobody.
        let named = |tee: &str| policy.accept.is_empty() || policy.accept.iter().any(|entry| entry.tee == tee);
        let machines: BTreeSet<&str> =
            vocabularies.iter().filter(|vocabulary| named(vocabulary.tee)).flat_map(|vocabulary| vocabulary.machine).copied().collect();
        let help = format!(
            "write peer = {{ pki_roots = …, pki_names = […] }} or spki_pins, or a machine in every entry of the policy ({}); {ANY_PLATFORM} = true accepts the risk",
            machines.into_iter().collect::<Vec<_>>().join(", ")
        );
        section.wrong(span, message, help);
    }
}

pub(super) fn peer_identity(section: &Section<'_>, known: &Known<'_>) -> Option<PeerIdentity> {
    let Some(peer) = section.table("peer", &schema::PEER) else {
        return section.has("peer").is_none().then(PeerIdentity::default);
    };
    let roots = peer.parsed("pki_roots", |path| files::roots(&known.folder.join(path))).map(|roots| roots.value);
    let names = peer.parsed_list("pki_names", server_name);
    let pins = peer.parsed_list("spki_pins", values::pin);
    let ids = peer.parsed_list("spiffe_ids", values::spiffe_id);
    match (peer.has("pki_roots"), peer.has("pki_names"), peer.has("spiffe_ids")) {
        (Some(span), None, None) => {
            peer.wrong(&span, "`pki_roots` alone accepts any name under them", "write pki_names or spiffe_ids");
        }
        (None, Some(span), _) => {
            peer.wrong(&span, "`pki_names` without `pki_roots`", "a self-made certificate can carry any name: write the roots that vouch for it");
        }
        (None, None, Some(span)) => {
            peer.wrong(&span, "`spiffe_ids` without `pki_roots`", "a self-made certificate can carry any id: write the roots that vouch for it");
        }
        (None, None, None) if peer.has("spki_pins").is_none() => {
            peer.wrong(&peer.span, "`peer` is empty", "write pki_roots and pki_names, spki_pins or spiffe_ids, or leave it out");
        }
        _ => {}
    }
    if roots.is_none() && peer.has("pki_roots").is_some() {
        return None;
    }
    Some(PeerIdentity { pki_roots: roots, pki_names: plain_values(names), spki_pins: plain_values(pins), spiffe_ids: plain_values(ids) })
}

/// The policy's name, and what it says where it could be read.
pub(super) fn policy<'a>(section: &Section<'_>, known: &Known<'a>, collected: &mut Collected) -> Option<(String, Option<&'a AppraisalPolicy>)> {
    let name = reference(section, "policy", "policy", known.policies)?;
    collected.used_policies.push(name.value.clone());
    let policy = known.policies.get(&name.value).and_then(Option::as_ref);
    Some((name.value, policy.map(|policy| &*policy.policy)))
}

pub(super) fn server_name(text: &str) -> Result<ServerName<'static>, Wrong> {
    ServerName::try_from(text.to_owned()).map_err(|_| Wrong::new(format!("\"{text}\" is not a DNS name or address"), "write a name such as \"db.example\""))
}
