//! Why something was refused: one closed set of reason codes, and the finding that carries the facts.
//!
//! A leaf: every room may import it, it imports nothing. The codes are stable; logs, metrics, JSON output, exit
//! codes and `portcullis explain` all read the one table in [`Reason::ALL`].

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

/// Whose turn it is to act on a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    /// The peer presented something that no configuration of ours would make acceptable.
    Peer,
    /// The operator of this side: configuration, policy, clock.
    Operator,
    /// The hardware vendor or whoever serves its collateral; a later try may succeed.
    Vendor,
}

macro_rules! reasons {
    ($( $variant:ident, $code:literal, $turn:ident, $retry:literal, $summary:literal, $explanation:literal; )*) => {
        /// A stable refusal code.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Reason { $( #[doc = $summary] $variant, )* }

        impl Reason {
            /// Every code, in alphabetical order.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// The stable spelling: log field, metric label, JSON value.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $( Self::$variant => $code, )* } }

            /// One line: what happened.
            #[must_use]
            pub const fn summary(self) -> &'static str { match self { $( Self::$variant => $summary, )* } }

            /// Some sentences: what it means, what usually causes it, what to do.
            #[must_use]
            pub const fn explanation(self) -> &'static str { match self { $( Self::$variant => $explanation, )* } }

            /// Whose turn it is.
            #[must_use]
            pub const fn turn(self) -> Turn { match self { $( Self::$variant => Turn::$turn, )* } }

            /// Whether no decision could be made and the same peer may be accepted on a later try.
            #[must_use]
            pub const fn undecided(self) -> bool { match self { $( Self::$variant => $retry, )* } }
        }
    };
}

reasons! {
    AccountUnknown, "account_unknown", Peer, false,
        "a client of a SOCKS5 listener gave no account that is known",
        "The listener has a users_file, and the user or password that the application gave is not in it. The file is read at the start and with every reload; lines are USER:PASSWORD, exactly. Passwords cross this machine in the clear, as SOCKS5 has them: they tell applications of one machine apart and protect nothing beyond it.";
    AlpnMismatch, "alpn_mismatch", Peer, false,
        "the connection did not negotiate one of our protocols",
        "Session tiers speak portcullis1/raw, portcullis1/http/1.1 or portcullis1/h2 inside TLS; a peer that negotiates anything else, or nothing, is not a Portcullis of a session tier, and there is no automatic downgrade. Point this side at the attested listener of the other, or, if the far side can only present a certificate, write freshness = \"certificate\" with its acknowledgement key.";
    AttesterBusy, "attester_busy", Vendor, true,
        "the attesting side could not make a quote now",
        "TEE hardware makes few reports a second and its host may throttle it further, so the attesting side answers busy rather than hold its peers; it says the same when its driver fails. Its own log has the cause under own.quote. Too many quotes waiting: try again, raise identity.batch_queue, or find out what else on that machine asks for reports. A driver that fails: see `portcullis evidence` there.";
    AuxiliaryUnbound, "auxiliary_unbound", Peer, false,
        "an evidence member is not bound to the binding claims",
        "Every evidence member beside the TEE report (event log, vTPM quote, GPU report) must be listed in the binding claims by its SHA-384. One was not listed, differs from its digest, or is listed and absent. Somebody mixed evidence of different origin.";
    BatchProofInvalid, "batch_proof_invalid", Peer, false,
        "the Merkle proof of the session leaf has the wrong shape",
        "One quote speaks for a batch of sessions; each gets an RFC 6962 inclusion proof. Its index, size and length must fit exactly. A mismatch is a broken or hostile peer.";
    BindingMismatch, "binding_mismatch", Peer, false,
        "the evidence does not speak for this TLS connection",
        "The report data in the evidence is not the value computed from this connection's exporter, nonces, keys and protocol. The evidence may be genuine, but it was made for another connection or key: that is what a relay in the middle looks like. Check that nothing between the two sidecars terminates TLS.";
    CertificateInvalid, "certificate_invalid", Peer, false,
        "the TLS certificate is not acceptable",
        "The leaf certificate could not be read under our bounds, is outside its validity, is of a kind we do not take, or repeats an extension.";
    ChainRevoked, "chain_revoked", Peer, false,
        "a certificate of the evidence chain is revoked",
        "The vendor's revocation list, or this operator's deny list, names a certificate in the chain that signed the evidence. Do not use that machine until its vendor or its owner says what happened.";
    ChainUntrusted, "chain_untrusted", Peer, false,
        "the evidence is not signed under a trusted vendor root",
        "The chain from the report's signing key to a pinned vendor root does not hold: a signature, a name, a date, an extension or the root itself is wrong, or the signing certificate belongs to another chip or TCB than the report. Simulated evidence ends here too unless the policy names the simulator in insecure_roots.";
    ClockInvalid, "clock_invalid", Operator, false,
        "this machine's clock cannot be right",
        "The clock is before the day this program was built, so no validity period can be judged. Set the clock (or repair time synchronisation) and start again.";
    CollateralUnavailable, "collateral_unavailable", Vendor, true,
        "an endorsement or revocation list that the verdict needs is missing or out of date",
        "The chain, CRL or TCB data needed for a verdict was not stapled by the peer or given beside its evidence, or is past its nextUpdate. Nothing is accepted without it. Staple it on the attesting side (identity.endorsements), or refresh it. Saved evidence of an earlier day, beside the collateral of that day, is judged by `verify --at`.";
    ConfigurationChanged, "configuration_changed", Operator, false,
        "the connection was let in by a configuration that is no longer in force",
        "The configuration was read again, and what let this connection in is another now: what the listener's clients must prove, its certificate or its accounts, what the far end must prove, or where clients may go. What was verified before says nothing about that, so the connection ended. Connect again: the next connection is judged by what is in force. If nobody meant to change it, look at the configuration file.";
    DebugEnabled, "debug_enabled", Peer, false,
        "the TEE runs in debug mode",
        "Debugging lets the host read and change the guest's memory, so its evidence says nothing about confidentiality. Launch the guest without the debug policy bit. insecure_allow_debug exists for laboratories only.";
    DestinationUnknown, "destination_unknown", Operator, false,
        "no destination of this listener is what a client wants to reach",
        "A listener that applications use as a proxy (CONNECT, SOCKS5, capture, passthrough) leads to the destinations of its table and nowhere else: what a client asks for is compared with them and never resolved or dialled. Names stand for names and addresses for addresses, and a destination with a port for that port alone. If the application should get there, add the destination with the upstream that serves it; if not, something on this machine tries to reach what it should not.";
    EventLogMismatch, "event_log_mismatch", Peer, false,
        "the event log does not replay to the signed registers",
        "Events are only believed when replaying them gives the register values in the signed evidence.";
    EvidenceAmbiguous, "evidence_ambiguous", Peer, false,
        "more than one piece of evidence could be meant",
        "Exactly one TEE report, one binding and one evidence extension may be present. Several give an attacker the choice of which one is looked at.";
    EvidenceMalformed, "evidence_malformed", Peer, false,
        "the evidence or a frame around it cannot be read",
        "The bytes are not in the one form the specification allows: wrong structure, non-deterministic CBOR, a duplicate or unknown key, a wrong kind. Usually a version mismatch or a broken peer.";
    EvidenceSize, "evidence_size", Peer, false,
        "the evidence or a frame is larger or smaller than its format allows",
        "Sizes are checked before anything is allocated or read. A report of the wrong length or an over-long frame ends here.";
    EvidenceStale, "evidence_stale", Peer, false,
        "the certificate evidence is not current",
        "The binding claims' issue and expiry times, the certificate's validity and the policy's maximum age do not agree with the present time. Look at the clocks of both sides first, then at certificate rotation on the attesting side.";
    EvidenceUnsupported, "evidence_unsupported", Peer, false,
        "there is no evidence of a kind that is accepted here",
        "The peer presented no evidence, or a format, version or platform that this build or this policy does not take. There is no fallback: enable the format by name if you mean to accept it.";
    ExchangeOutOfOrder, "exchange_out_of_order", Peer, false,
        "the peer broke the order of the attestation exchange",
        "Each frame comes once and in its place, application bytes only after the verdict, and a server may not drop an attestation the client required.";
    GuestPolicyViolation, "guest_policy_violation", Peer, false,
        "the guest or platform is configured in a way the policy refuses",
        "A launch policy or platform flag (migration, SMT, memory alias check, minimum ABI, author key, firmware state) is not as the policy wants it. The field names the flag. Change how the guest is launched or how the host is set up; the policy can only allow what it has a key for.";
    IdentityMismatch, "identity_mismatch", Peer, false,
        "the peer's identity is not one that is configured",
        "Evidence says what runs; identity says whose it is. The certificate's PKI chain and name, key pin or SPIFFE id did not match what is configured for this peer.";
    MeasurementUnknown, "measurement_unknown", Peer, false,
        "the peer runs code that the policy does not list",
        "The launch measurement, or another reference value of the same kind (host data, security version), is not in any entry of the policy. A new release of yours? Add it with `portcullis policy add`. Not yours? Then this host runs other code than you trust: do not add it.";
    NameMismatch, "name_mismatch", Peer, false,
        "the certificate's names differ from those the evidence speaks for",
        "The set of subject alternative names must be exactly the set in the binding claims.";
    PeerRefused, "peer_refused", Peer, false,
        "the other side refused this side",
        "The peer answered with RESULT 1 (rejected) or 3 (protocol error): it does not accept this side's evidence, identity or protocol. It says no more, so that nobody can probe its policy; its own log has the reason, the field, what was expected and what was found.";
    PlatformNotAllowed, "platform_not_allowed", Peer, false,
        "the evidence is from a platform, product or chip that the policy does not allow",
        "The TEE kind, the processor product or the chip identifier is outside the allowlist. AMD Milan is opt-in because reports of any TCB can be forged on it (MilanLaunchy, BadFuse).";
    PolicyInvalid, "policy_invalid", Operator, false,
        "the policy cannot be used",
        "The policy file has errors, is expired, or asks for something this build does not have. Run `portcullis policy lint FILE`.";
    PossessionUnproved, "possession_unproved", Peer, false,
        "the peer did not prove that it holds the certificate's private key",
        "The TLS CertificateVerify signature does not match the leaf. Somebody presents a certificate that is not theirs.";
    ProxyLoop, "proxy_loop", Operator, false,
        "a connection came from this proxy itself, or was meant for it",
        "With capture the system sends connections of this machine to the proxy. If the rules also send the proxy's own connections, each would make another. Exempt the proxy in the rules by the user it runs as (meta skuid). A connection that was made to the capturing port itself, without the system's rules, is refused for the same reason: it has no other destination. So is a handshake that protocol \"tls-passthrough\" would pass back to a listener of this proxy that passes too: name the service as the upstream's target.";
    QuotingEnclaveInvalid, "quoting_enclave_invalid", Peer, false,
        "the quoting enclave is not the vendor's, or not bound to the attestation key",
        "Quotes are only as good as the enclave that signs them; its identity must match the vendor's signed description.";
    RequestMalformed, "request_malformed", Peer, false,
        "a client did not say, in the form that the listener expects, where it wants to go",
        "A SOCKS5 listener expects SOCKS version 5, CONNECT, and the authentication that it was given; a listener that chooses by server name expects a TLS ClientHello with one. What came was something else, was too long, or did not come in time. Look at what the application is set to use: an HTTP proxy is not a SOCKS proxy, and SOCKS4 is not SOCKS5.";
    ReservedBitsSet, "reserved_bits_set", Peer, false,
        "bits or bytes that the specification reserves are set",
        "A later firmware may give these bits a meaning that weakens the guest; until this program knows it, they refuse. Look for a newer release.";
    SignatureInvalid, "signature_invalid", Peer, false,
        "the evidence's signature does not verify",
        "The report was changed after it was signed, or is signed by another key than the certificate presented with it.";
    TcbTooLow, "tcb_too_low", Peer, false,
        "the platform's firmware or microcode is older than the floor",
        "A security version of the reported, committed, current or launch TCB is below the policy's minimum, or differs from the one the signing key is certified for. Update the host's firmware; or read the vendor's bulletin and lower the floor with the insecure_ key.";
    Timeout, "timeout", Peer, true,
        "the peer did not finish in time",
        "The TLS handshake or the attestation exchange was not complete at its deadline. Nothing was forwarded.";
    TlsUnacceptable, "tls_unacceptable", Peer, false,
        "the TLS handshake failed or was of a kind that is not accepted",
        "Only full TLS 1.3 handshakes count: resumption shows no evidence, early data precedes it. The far side may not be a TLS server at all.";
    TpmQuoteInvalid, "tpm_quote_invalid", Peer, false,
        "the vTPM quote does not hold",
        "Magic, type, nonce, PCR selection, digest or signature of the TPM quote is wrong, or its key is not the one in the TEE evidence.";
    VmplNotAllowed, "vmpl_not_allowed", Peer, false,
        "the report was requested from a privilege level the policy does not allow",
        "VMPL 0 is the most privileged software in the guest. A report from a lower level speaks for less; clouds with a paravisor need the level written in the policy.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Reason {
    /// The reason spelled `code`, if there is one.
    #[must_use]
    pub fn find(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }
}

/// One failed check: what was looked at, what was wanted, what was there, and what to do about it.
///
/// For the operator's eyes only; a refused peer learns one of three codes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The stable code.
    pub reason: Reason,
    /// The thing that was looked at, by its vendor's name (`report.measurement`, `vek.not_after`).
    pub field: Cow<'static, str>,
    /// What would have been accepted.
    pub expected: String,
    /// What was there.
    pub found: String,
    /// What a person can do; empty when the check has no advice of its own: see [`Finding::advice`].
    pub fix: Cow<'static, str>,
}

impl Finding {
    /// A finding without advice of its own. A peer may have chosen the texts: they are cut at [`MAX_TEXT`] octets, and control
    /// characters are written out, so that a line of a log stays one line.
    pub fn new(reason: Reason, field: impl Into<Cow<'static, str>>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { reason, field: plain(field.into()), expected: cut(expected.into()), found: cut(found.into()), fix: Cow::Borrowed("") }
    }

    /// The same finding with advice.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<Cow<'static, str>>) -> Self {
        self.fix = fix.into();
        self
    }

    /// What to do: the finding's own words, else those of its reason.
    #[must_use]
    pub fn advice(&self) -> &str {
        if self.fix.is_empty() { self.reason.explanation() } else { &self.fix }
    }

    /// A refusal for this finding alone, as an `Err`.
    ///
    /// # Errors
    /// Always.
    pub fn refuse<T>(self) -> Result<T, Denied> {
        Err(self.into())
    }
}

/// What was expected or found is told in at most this many octets, and how many there were.
pub const MAX_TEXT: usize = 1024;

/// The text with its control characters written out (`\n`).
fn plain(text: Cow<'static, str>) -> Cow<'static, str> {
    if !text.contains(char::is_control) {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() { out.extend(letter.escape_default()) } else { out.push(letter) }
    }
    out.into()
}

fn cut(text: String) -> String {
    let mut text = plain(text.into()).into_owned();
    let length = text.len();
    if length > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str(&format!("… ({length} octets)"));
    }
    text
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: expected {}, found {}", self.reason, self.field, self.expected, self.found)
    }
}

/// A refusal: at least one finding, the most telling first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denied {
    first: Box<Finding>,
    rest: Vec<Finding>,
}

impl Denied {
    /// A refusal with all that was found, or `None` when nothing was.
    #[must_use]
    pub fn from_findings(findings: Vec<Finding>) -> Option<Self> {
        let mut findings = findings.into_iter();
        let first = Box::new(findings.next()?);
        Some(Self { first, rest: findings.collect() })
    }

    /// The code that stands for the whole refusal.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.first.reason
    }

    /// All findings, the most telling first.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        std::iter::once(&*self.first).chain(&self.rest)
    }
}

impl From<Finding> for Denied {
    fn from(finding: Finding) -> Self {
        Self { first: Box::new(finding), rest: Vec::new() }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.rest.iter().try_for_each(|finding| write!(f, "; {finding}"))
    }
}

impl std::error::Error for Denied {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_bounded_whatever_a_peer_writes() {
        let finding = Finding::new(Reason::NameMismatch, "bind.names", "é".repeat(20_000), "x".repeat(MAX_TEXT));
        assert!(finding.expected.len() < MAX_TEXT + 32 && finding.expected.ends_with("… (40000 octets)"));
        assert_eq!(finding.found.len(), MAX_TEXT);
    }

    /// A peer that chooses a text does not write lines of its own into the log.
    #[test]
    fn a_finding_is_one_line() {
        let forged = "x\n2026-12-01T00:00:00Z  INFO audit: event=\"peer.appraised\" result=\"allow\"\r\u{1b}[2K";
        let finding = Finding::new(Reason::EvidenceUnsupported, format!("cmw.{forged}"), forged, forged);
        assert!(!finding.to_string().contains(char::is_control), "{finding:?}");
        assert!(finding.to_string().contains(r"x\n2026-12-01T00:00:00Z") && finding.found.ends_with(r"\r\u{1b}[2K"));
        assert_eq!(Finding::new(Reason::NameMismatch, "names", "é", "a b").to_string(), "name_mismatch: names: expected é, found a b");
    }

    #[test]
    fn codes_are_sorted_unique_and_found() {
        let codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
        assert!(Reason::ALL.iter().all(|reason| Reason::find(reason.code()) == Some(*reason)));
        assert_eq!(Reason::find("nonsense"), None);
    }
}
