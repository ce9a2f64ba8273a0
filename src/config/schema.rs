//! Every key of the configuration file, in one table: the reader refuses what is not here, `docs/configuration.md` is
//! made from it, and a key that no code reads fails a test.

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// How it is written in the file: `[identity]`, `[[listener]]`, `listener.limits`.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Its keys, in the order they are documented in.
    pub keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub struct Key {
    /// The key.
    pub key: &'static str,
    /// What is written behind it.
    pub value: &'static str,
    /// What holds when it is absent; `required` when it must be there.
    pub default: &'static str,
    /// What it does, and what happens without it.
    pub doc: &'static str,
}

const fn key(key: &'static str, value: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { key, value, default, doc }
}

/// The file's outermost table.
pub static FILE: Section = Section {
    name: "the file",
    doc: "One TOML file describes the whole process. Unknown keys are refused, every duration and size has a unit (`\"30s\"`, `\"64KiB\"`), relative paths start at the file's own folder, nothing is read from the environment, and what weakens safety begins with `insecure_`.",
    keys: &[
        key("version", "`1`", "required", "The version of this format."),
        key("drain_grace", "duration", "`\"30s\"`", "How long open connections may finish once the process is told to stop. What is left then is cut."),
        key("identity", "table", "provider `none`", "How this side proves itself."),
        key("listener", "list of tables", "required", "Where connections come in; at least one."),
        key("upstream", "list of tables", "required", "Where connections go; at least one."),
        key("policy", "tables by name", "none", "The appraisal policies that listeners and upstreams name."),
        key("observe", "table", "off", "The read-only HTTP address with health and metrics."),
        key("log", "table", "text, info", "The log on standard error."),
    ],
};

/// `[identity]`.
pub static IDENTITY: Section = Section {
    name: "[identity]",
    doc: "How this side proves itself: where its evidence comes from and what its certificate carries. The TLS key is made in the process and never leaves it.",
    keys: &[
        key(
            "provider",
            "`\"auto\"`, `\"configfs-tsm\"`, `\"sev-guest\"`, `\"simulator\"` or `\"none\"`",
            "required",
            "Where evidence comes from. `auto` takes the first way that works on this machine and stops the start when there is none; it never takes the simulator. `simulator` makes evidence that anybody can forge, is refused by every policy that does not name it, and is reported as an insecure option.",
        ),
        key(
            "life",
            "duration, at most 24h",
            "`\"1h\"`",
            "How long a certificate and the evidence in it are good. A new key, certificate and evidence are made at half of it; open connections keep the old.",
        ),
        key(
            "names",
            "list of DNS names or `spiffe://` ids",
            "required without `certificate`",
            "The subject alternative names of the self-made certificate, bound into its evidence.",
        ),
        key(
            "endorsements",
            "folder",
            "none",
            "Certificates and revocation lists to staple beside what the hardware gives: `vcek.der` or `vlek.der`, `ask.der` or `asvk.der`, `crl.der`.",
        ),
        key(
            "certificate",
            "file",
            "self-made",
            "A PEM chain issued by your PKI, leaf first, in place of the self-made certificate. Session evidence binds its key. Such a leaf carries no evidence of its own, so the `certificate` tier cannot be served with it.",
        ),
        key("key", "file", "made in the process", "The PEM private key of `certificate`. Both or neither."),
        key(
            "batch_window",
            "duration, at most 1s",
            "`\"20ms\"`",
            "How long sessions are collected for one quote while another quote is made. The first of an idle time never waits.",
        ),
        key("batch_queue", "number, 1 to 65536", "`1024`", "How many sessions may wait for a quote. More are told `busy` at once."),
        key("simulator", "table", "", "What the simulator claims. Only with provider `simulator`."),
    ],
};

/// `[identity.simulator]`.
pub static SIMULATOR: Section = Section {
    name: "[identity.simulator]",
    doc: "What simulated evidence claims. Nothing here makes anything safe: the simulator's keys are published.",
    keys: &[
        key("seed", "number", "`1`", "Makes the simulated chip's keys; the same seed gives the same chip."),
        key("platform", "a platform's name", "`\"sev-snp\"`", "Which TEE is simulated."),
        key("product", "one of the platform's products", "the platform's own choice", "Such as the processor line: `\"milan\"`, `\"genoa\"` or `\"turin\"`."),
        key("measurement", "64, 96 or 128 hex digits", "a fixed one", "The measurement of the guest's code, of the length that the platform's digests have."),
        key("quote_delay", "duration, at most 10s", "`\"0ms\"`", "How long making one report takes, to see what slow hardware does."),
    ],
};

/// `[[listener]]`.
pub static LISTENER: Section = Section {
    name: "[[listener]]",
    doc: "A place where connections come in. With `certificate = \"attested\"` it speaks attested TLS; without, it takes the plain bytes of a local application.",
    keys: &[
        key("name", "word", "required", "Its name in logs and metrics; unique."),
        key("bind", "`\"ADDRESS:PORT\"` or `\"unix:PATH\"`", "required", "Where it listens. Port 0 lets the system choose."),
        key("protocol", "`\"tcp\"`", "`\"tcp\"`", "What is forwarded: bytes, as they are."),
        key("certificate", "`\"attested\"`", "plain bytes", "Speak TLS 1.3 with a certificate that carries this side's evidence."),
        key("clients", "`\"any\"` or `\"attested\"`", "`\"any\"`", "Whether clients must prove themselves. Only with `certificate`."),
        key(
            "freshness",
            "`\"session-mutual\"`, `\"session\"` or `\"certificate\"`",
            "`\"session\"`; `\"session-mutual\"` with attested clients",
            "How fresh evidence must be. `session`: this side makes evidence for each session. `session-mutual`: both sides do. `certificate`: the evidence in the certificate alone; needs `insecure_accept_replay_risk = true`. There is no downgrade from one to another.",
        ),
        key("policy", "name of a policy", "required with attested clients", "What clients must be."),
        key("peer", "table", "none", "Who clients must be, beside what they run."),
        key("upstream", "name of an upstream", "required", "Where connections go."),
        key("mode", "octal digits", "`\"0600\"`", "The permission bits of a Unix socket."),
        key("limits", "table", "see there", "Deadlines and caps."),
        key(
            "insecure_remote_listener",
            "boolean",
            "`false`",
            "Lets a plain listener be reached from beyond this machine: whoever reaches it speaks with this side's name, unencrypted up to here.",
        ),
        key(
            "insecure_accept_replay_risk",
            "boolean",
            "`false`",
            "Acknowledges that evidence in a certificate can be replayed, and its key relayed, within the certificate's life.",
        ),
        key(
            "insecure_allow_any_genuine_platform",
            "boolean",
            "`false`",
            "Lets `session-mutual` do without `peer` and without a chip allowlist in the policy: any genuine machine in the world that runs the measured code is taken for yours.",
        ),
    ],
};

/// `listener.limits`.
pub static LIMITS: Section = Section {
    name: "[listener.limits]",
    doc: "Deadlines and caps of one listener.",
    keys: &[
        key("handshake", "duration", "`\"10s\"`", "From accepting to the end of the TLS handshake."),
        key("exchange", "duration", "`\"15s\"`", "The attestation exchange, quotes and appraisals included."),
        key("idle", "duration", "`\"1h\"`", "How long a connection may carry nothing in either direction."),
        key("max_connection", "duration", "`\"1h\"`", "The longest a connection lives. Evidence and collateral that end earlier end it earlier."),
        key("connections", "number", "`65536`", "Connections at a time."),
        key("handshakes", "number", "`4096`", "Connections at a time that are not yet admitted."),
        key("handshakes_per_source", "number", "`1024`", "The same from one IPv4 address or IPv6 /64 network."),
    ],
};

/// `[[upstream]]`.
pub static UPSTREAM: Section = Section {
    name: "[[upstream]]",
    doc: "A place where connections go. With `attested` the far end must prove itself before one byte is forwarded.",
    keys: &[
        key("name", "word", "required", "Its name in listeners, logs and metrics; unique."),
        key(
            "targets",
            "list of `\"tls://HOST:PORT\"`, `\"tcp://HOST:PORT\"` or `\"unix:PATH\"`",
            "required",
            "Tried in order until one takes the connection. `tls://` speaks attested TLS and needs `attested`; the others are plain.",
        ),
        key("attested", "table", "required for `tls://`", "What the far end must be."),
        key("server_name", "DNS name or address", "the first target's host", "The name sent in the handshake and bound into the exchange."),
        key("peer", "table", "none", "Who the far end must be, beside what it runs."),
        key("connect_timeout", "duration", "`\"5s\"`", "How long connecting to one target may take, name resolution included."),
        key(
            "insecure_remote_upstream",
            "boolean",
            "`false`",
            "Lets a plain upstream be on another machine: bytes leave this one unencrypted, and the far end proves nothing.",
        ),
        key("insecure_accept_replay_risk", "boolean", "`false`", "As on a listener."),
        key("insecure_allow_any_genuine_platform", "boolean", "`false`", "As on a listener."),
    ],
};

/// `upstream.attested`.
pub static ATTESTED: Section = Section {
    name: "[upstream.attested]",
    doc: "What the far end must prove.",
    keys: &[
        key("policy", "name of a policy", "required", "What it must be."),
        key(
            "freshness",
            "`\"session-mutual\"`, `\"session\"` or `\"certificate\"`",
            "`\"session\"`",
            "How fresh its evidence must be. `session-mutual` presents this side's evidence too.",
        ),
    ],
};

/// `listener.peer` and `upstream.peer`.
pub static PEER: Section = Section {
    name: "[listener.peer], [upstream.peer]",
    doc: "Who the other side must be, beside what it runs. Everything written must hold. Evidence says that some machine runs your code; only this, or a chip allowlist in the policy, says that it is your machine.",
    keys: &[
        key("pki_roots", "file", "none", "PEM certificates; the other side's chain must end at one of them. Needs `pki_names` or `spiffe_ids`."),
        key("pki_names", "list of DNS names or addresses", "none", "The certificate is valid for one of them."),
        key(
            "spki_pins",
            "list of `\"sha256:<64 hex digits>\"`",
            "none",
            "The SHA-256 of the certificate's SubjectPublicKeyInfo is one of them. Self-made certificates get a new key at half of their life, so pin keys of `certificate` files.",
        ),
        key(
            "spiffe_ids",
            "list of `\"spiffe://…\"`",
            "none",
            "The certificate's one SPIFFE id is one of them. Needs `pki_roots`: a self-made certificate can carry any id.",
        ),
    ],
};

/// `[policy.NAME]`.
pub static POLICY: Section = Section {
    name: "[policy.NAME]",
    doc: "An appraisal policy: see `docs/policy.md`. Its SHA-256 names it in every verdict. A running process reads policies again on SIGHUP and within two seconds of a change to a file; connections that the new policy would refuse are closed with the reason, others notice nothing, and a file with errors changes nothing.",
    keys: &[
        key("file", "file", "required", "The policy, JSON."),
        key(
            "mode",
            "`\"enforce\"` or `\"observe\"`",
            "`\"enforce\"`",
            "With `observe`, mismatches of reference values (measurement and the like) are logged and let pass; everything else refuses as ever. For a first look at a fleet; needs `insecure_observe`.",
        ),
        key("insecure_observe", "boolean", "`false`", "Acknowledges that with `mode = \"observe\"` any code is let in."),
    ],
};

/// `[observe]`.
pub static OBSERVE: Section = Section {
    name: "[observe]",
    doc: "A read-only HTTP address: `/startupz`, `/livez`, `/readyz`, `/metrics`. It changes nothing and shows no secret.",
    keys: &[key("bind", "`\"ADDRESS:PORT\"`", "required", "Where it listens.")],
};

/// `[log]`.
pub static LOG: Section = Section {
    name: "[log]",
    doc: "The log on standard error.",
    keys: &[
        key("format", "`\"text\"` or `\"json\"`", "`\"text\"`", "Lines for people or for machines."),
        key(
            "level",
            "`\"error\"`, `\"warn\"`, `\"info\"` or `\"debug\"`",
            "`\"info\"`",
            "How much. No level shows keys, exporters or what report data is made from.",
        ),
    ],
};

/// Every table in the order of the documentation.
pub static SECTIONS: [&Section; 11] = [&FILE, &IDENTITY, &SIMULATOR, &LISTENER, &LIMITS, &UPSTREAM, &ATTESTED, &PEER, &POLICY, &OBSERVE, &LOG];

/// The reference page, Markdown.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from("# Configuration\n\nThis page is generated from `src/config/schema.rs`; a test fails when they differ.\n");
    for section in SECTIONS {
        page += &format!("\n## `{}`\n\n{}\n", section.name, section.doc);
        page += "\n| key | value | default | |\n|---|---|---|---|\n";
        for Key { key, value, default, doc } in section.keys {
            page += &format!("| `{key}` | {value} | {default} | {doc} |\n");
        }
    }
    page
}
