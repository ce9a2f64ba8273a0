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
    /// Whether it is about requests: on a listener of another protocol than `http` it would do nothing, and is refused.
    pub of_requests: bool,
}

const fn key(key: &'static str, value: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { key, value, default, doc, of_requests: false }
}

const fn of_requests(key: Key) -> Key {
    Key { of_requests: true, ..key }
}

/// The file's outermost table.
pub static FILE: Section = Section {
    name: "the file",
    doc: "One TOML file describes the whole process. Unknown keys are refused, every duration and size has a unit (`\"30s\"`, `\"64KiB\"`), relative paths start at the file's own folder, nothing is read from the environment, and what weakens safety begins with `insecure_`. A running process reads it again on SIGHUP and when it changes: `docs/reload.md` says what is taken then.",
    keys: &[
        key("version", "`1`", "required", "The version of this format."),
        key(
            "drain_grace",
            "duration",
            "`\"30s\"`",
            "How long open connections may finish once the process is told to stop, or their listener is gone. What is left then is cut.",
        ),
        key("identity", "table", "provider `none`", "How this side proves itself."),
        key("listener", "list of tables", "required", "Where connections come in; at least one."),
        key("upstream", "list of tables", "required", "Where connections go; at least one."),
        key("policy", "tables by name", "none", "The appraisal policies that listeners and upstreams name."),
        key("acme", "table", "none", "The CA that gives certificates to listeners with `certificate = \"webpki\"`."),
        key("deny", "table", "none", "The operator's signed deny list: what is refused whatever the policies say."),
        key("collateral", "table", "only what peers staple", "Where certificates and revocation lists of the TEEs' vendors come from."),
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
            "`\"auto\"`, `\"simulator\"`, `\"none\"`, or one way: `\"azure-vtpm\"`, `\"configfs-tsm\"`, `\"google-vtpm\"`, `\"gramine\"`, `\"keystone-socket\"`, `\"nitro-tpm-attest\"`, `\"nsm\"`, `\"psa-tokens\"`, `\"sev-guest\"` or `\"tdx-guest\"`",
            "required",
            "Where evidence comes from. `auto` takes the first way that works on this machine and stops the start when there is none; where a TEE is there and gives no evidence it takes nothing weaker in its place, and it never takes the simulator. `portcullis doctor` says what there is. `simulator` makes evidence that anybody can forge, is refused by every policy that does not name it, and is reported as an insecure option.",
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
            "Certificates and revocation lists to staple beside what the hardware gives: `vcek.der` or `vlek.der`, `ask.der` or `asvk.der`, `crl.der`; for TDX and SGX `tcb_info.json` and `qe_identity.json` with `tcb_signing_chain.pem`, `pck_crl.der`, `root_crl.der`; on Google's machines `vtpm_ca.der` and `launch_endorsement.binarypb`.",
        ),
        key(
            "certificate",
            "file",
            "self-made",
            "A PEM chain issued by your PKI, leaf first, in place of the self-made certificate. Session evidence binds its key. The files are looked at every two seconds: a renewed pair is presented once it passes the checks of the start, and until then the old one, to its end. Such a leaf carries no evidence of its own, so the `certificate` tier cannot be served with it.",
        ),
        key(
            "key",
            "file",
            "made in the process",
            "The PEM private key of `certificate`. Both or neither. A file of a secret (this one, `listener.files.key`, `users_file`) that its group or others may write is refused; one that others may read, or its group where the file is this user's own, is told as a warning.",
        ),
        key(
            "batch_window",
            "duration, at most 1s",
            "`\"20ms\"`",
            "How long sessions are collected for one quote while another quote is made. The first of an idle time never waits.",
        ),
        key("batch_queue", "number, 1 to 65536", "`1024`", "How many sessions may wait for a quote. More are told `busy` at once."),
        key("gpus", "table", "none", "NVIDIA GPUs beside the TEE, whose evidence goes into sessions with peers that require it."),
        key("simulator", "table", "", "What the simulator claims. Only with provider `simulator`."),
    ],
};

/// `[identity.gpus]`.
pub static GPUS: Section = Section {
    name: "[identity.gpus]",
    doc: "NVIDIA GPUs beside the TEE, asked through a local service for each session whose peer requires a member `gpu/0` to `gpu/15`. See `docs/platforms/nvidia-gpu.md` for what the service answers. The start asks once and stops when there is no good answer.",
    keys: &[
        key("socket", "path", "required", "The Unix socket of the service."),
        key(
            "endorsements",
            "folder",
            "none",
            "What verifiers need beside the answers: NVIDIA's reference measurements of this driver and firmware (`*.xml`) and OCSP responses (`gpu-ocsp*.der`, renewed daily by you). Read for each session, so that what is renewed is used.",
        ),
        key("timeout", "duration, 100ms to 60s", "`\"5s\"`", "How long one answer may take. The peer is told `busy` where there is none in time."),
        key(
            "at_once",
            "number, 1 to 16",
            "`1`",
            "How many sessions are answered at a time. Sixteen times as many may wait, half of them from one source; more are told `busy` at once. Sessions that need no GPU never wait.",
        ),
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
        key("gpus", "number, at most 16", "`0`", "How many simulated GPUs stand beside it."),
    ],
};

/// `[[listener]]`.
pub static LISTENER: Section = Section {
    name: "[[listener]]",
    doc: "A place where connections come in. With `certificate = \"attested\"` it speaks attested TLS, with another certificate TLS for the public; without, it takes the plain bytes of a local application.",
    keys: &[
        key("name", "word", "required", "Its name in logs and metrics; unique."),
        key(
            "bind",
            "`\"ADDRESS:PORT\"`, `\"unix:PATH\"`, `\"vsock:CID:PORT\"` or `\"systemd:NAME\"`",
            "required",
            "Where it listens. `[::]` takes IPv4 as well. Port 0 lets the system choose. `systemd:NAME` takes the TCP or Unix stream socket that systemd passes under this name (`FileDescriptorName=`), and `vsock:any:PORT` or `vsock:CID:PORT` connections from this machine's host or guests; see `docs/ways-in.md`.",
        ),
        key(
            "protocol",
            "`\"tcp\"`, `\"http\"`, `\"socks5\"` or `\"tls-passthrough\"`",
            "`\"tcp\"`",
            "What is forwarded: bytes, as they are; or requests of HTTP/1.1 and HTTP/2, each by itself (`docs/http.md`). With `socks5` and `tls-passthrough` clients say where they want to go (`docs/ways-in.md`).",
        ),
        key(
            "certificate",
            "`\"attested\"`, `\"files\"` or `\"webpki\"`",
            "plain bytes",
            "Speak TLS 1.3. `attested`: with a certificate that carries this side's evidence, to sidecars. For browsers and other clients of the public, about whom nothing is known then: `files`, with a certificate from files, or `webpki`, with one of the CA in `[acme]`; both need `evidence`, or upstreams that are attested. See `docs/certificates.md`.",
        ),
        key("files", "table", "required with certificate `files`", "The certificate and its key."),
        key("names", "list of DNS names", "required with certificate `webpki`", "The names that the CA is asked to certify."),
        key("clients", "`\"any\"` or `\"attested\"`", "`\"any\"`", "Whether clients must prove themselves. Only with `certificate`."),
        key(
            "freshness",
            "`\"session-mutual\"`, `\"session\"` or `\"certificate\"`",
            "`\"session\"`; `\"session-mutual\"` with attested clients",
            "How fresh evidence must be. `session`: this side makes evidence for each session. `session-mutual`: both sides do. `certificate`: the evidence in the certificate alone; needs `insecure_accept_replay_risk = true`. There is no downgrade from one to another.",
        ),
        key("policy", "name of a policy", "required with attested clients", "What clients must be."),
        key("peer", "table", "none", "Who clients must be, beside what they run."),
        key(
            "upstream",
            "name of an upstream",
            "required, except with `route`, `redirect` or `destination`",
            "Where connections go; with `route`, requests that no route fits.",
        ),
        key(
            "destination",
            "list of tables",
            "none",
            "Where clients that say where they want to go may go: by CONNECT (protocol `http`), by SOCKS5, captured, or by the server name of their handshake. What it does not have is refused; see `docs/ways-in.md`.",
        ),
        key(
            "capture",
            "`\"redirect\"` or `\"tproxy\"`",
            "none",
            "Takes connections that the system's rules captured on their way to a destination. `redirect`: their destination was rewritten; `tproxy`: they were handed over as they are, which needs CAP_NET_ADMIN.",
        ),
        key(
            "users_file",
            "file",
            "anybody who reaches it",
            "The accounts that protocol `socks5` asks for: lines `USER:PASSWORD`. Read at the start and with every reload. A secret as keys are: see `[identity]` `key`.",
        ),
        of_requests(key("route", "list of tables", "none", "Where requests go, the first that fits. Only with protocol `http`.")),
        of_requests(key("default", "`\"deny\"`", "`\"deny\"`", "What becomes of a request that no route fits. Only with `route` and without `upstream`.")),
        of_requests(key(
            "redirect",
            "`\"https\"`",
            "none",
            "Answers every request with a redirect to the same address by https. In place of `upstream`. Such a plain listener may be reached from everywhere, and answers the challenge `http-01` of `[acme]`.",
        )),
        of_requests(key(
            "allow",
            "list of tables",
            "everything",
            "What attested clients may call, by the policy entry they were accepted for. With it, what no rule allows is refused.",
        )),
        of_requests(key("identity_headers", "table", "structured, with attested clients", "How the application is told who its client is.")),
        of_requests(key(
            "strip_headers",
            "list of field names",
            "none",
            "Further fields to remove from requests and responses, beside every identity field that is known.",
        )),
        of_requests(key("trusted_proxies", "list of addresses or networks", "none", "Clients whose `Forwarded` and `X-Forwarded-*` fields are kept.")),
        of_requests(key(
            "evidence",
            "table",
            "off",
            "Serves fresh evidence to browsers: for a nonce of theirs, about the key of their connection. See `docs/http.md`.",
        )),
        of_requests(key(
            "upgrades",
            "list of words",
            "`[\"websocket\"]`",
            "What connections may be upgraded to. Never HTTP or TLS: no route, `allow` rule or identity field would hold for requests in them.",
        )),
        key(
            "proxy_protocol_from",
            "list of addresses or networks, or `[\"unix\"]`",
            "none",
            "Proxies in front of this listener that tell who really connected by the PROXY protocol (version 1 or 2). They have to; nobody else may. At a Unix socket `[\"unix\"]`: everybody whom its `mode` and `owner` let connect has to. Not over vsock.",
        ),
        key(
            "proxy_protocol_to",
            "`\"v2\"` or `\"v2-certificate\"`",
            "off",
            "Tells a plain upstream who connected by the PROXY protocol, with what is verified: SSL (0x20), ALPN, the name asked for, and in type 0xE0 CBOR claims `{1: tee, 2: entry, 3: policy, 4: policy digest, 5: freshness}`; and `6: [\"observed\", \"simulated\"]`, of these what holds, where the policy let something pass or the machine is simulated. `v2-certificate` adds the certificate that the evidence speaks for (DER, 0x28 within 0x20); with evidence in it, it is several KiB, and some readers take no header that long. Not for protocol `http`, nor where every upstream is attested.",
        ),
        key(
            "multiplex",
            "boolean",
            "`false`",
            "Lets clients put many connections into one attested session (`portcullis1/tunnel`), as their upstream's `multiplex` says; others still make one each. Every connection goes to this listener's own upstream. For protocol `tcp` and the session tiers.",
        ),
        key("mode", "octal digits", "`\"0600\"`", "The permission bits of a Unix socket."),
        key(
            "owner",
            "`\"USER\"`, `\"USER:GROUP\"` or `\":GROUP\"`",
            "the process's own",
            "Whom a Unix socket is given to, with `mode`, before anybody can connect. Names are looked up in `/etc/passwd` and `/etc/group`; numbers need no entry there. Another user than the process's own needs CAP_CHOWN, and so does a group that it is not in; without, the start stops.",
        ),
        key(
            "reuse_port",
            "boolean",
            "`false`",
            "Lets other processes listen at the same TCP address (`SO_REUSEPORT`), where all of them say so and run as one user: the system spreads connections among them. Whoever runs as that user can take connections too.",
        ),
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

/// `listener.files`.
pub static LISTENER_FILES: Section = Section {
    name: "[listener.files]",
    doc: "A certificate for the public. The files are looked at every two seconds: a renewed pair is presented once it passes the checks of the start, and until then the old one, to its end.",
    keys: &[
        key("chain", "file", "required", "A PEM chain, leaf first. The key may be P-256, P-384, Ed25519 or RSA."),
        key("key", "file", "required", "The PEM private key."),
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
        key(
            "connections",
            "number",
            "`65536`",
            "Connections at a time. Over all listeners there are never more than the hard limit of open files (RLIMIT_NOFILE) is enough for, two for each; `check` and the log tell when that is less than what is written here.",
        ),
        key(
            "connections_per_source",
            "number",
            "`16384`",
            "The same from one IPv4 address or IPv6 /64 network; by default never more than half of all that the limit of open files is enough for. Applications at a loopback address are not counted by source at a plain listener.",
        ),
        key("handshakes", "number", "`4096`", "Connections at a time that are not yet admitted."),
        key("handshakes_per_source", "number", "`1024`", "The same from one IPv4 address or IPv6 /64 network."),
        of_requests(key("header", "size, 1KiB to 1MiB", "`\"32KiB\"`", "HTTP: a request's head. Longer ones are answered with 431.")),
        of_requests(key("body", "size", "any", "HTTP: a request's body. Longer ones are answered with 413.")),
        of_requests(key("request_header", "duration", "`\"10s\"`", "HTTP: how long a request's head may take to come.")),
        of_requests(key("request_body", "duration", "`\"60s\"`", "HTTP: how long a request's body may stand still.")),
        key(
            "streams",
            "number",
            "`128`",
            "HTTP: requests at a time on one HTTP/2 connection. With `multiplex`: connections at a time in one session, at most 1024; each counts in `connections` too.",
        ),
        of_requests(key("requests", "number", "`16384`", "HTTP: requests at a time; more are answered with 503 and `Retry-After`.")),
        of_requests(key("rate", "number", "any", "HTTP: requests in a second, on average; more are answered with 429 and `Retry-After`.")),
    ],
};

/// `listener.destination`.
pub static DESTINATION: Section = Section {
    name: "[[listener.destination]]",
    doc: "Destinations and the upstream that serves them; the first that fits decides. Nothing is resolved: names stand for names, addresses for addresses.",
    keys: &[
        key(
            "to",
            "`\"NAME\"`, `\"*.NAME\"`, `\"ADDRESS\"` or `\"ADDRESS/BITS\"`, each with or without `:PORT`",
            "required",
            "What clients ask for; IPv6 addresses with a port are in brackets. Without a port, any.",
        ),
        key("upstream", "name of an upstream", "required", "Where their connections go."),
    ],
};

/// `listener.route`.
pub static ROUTE: Section = Section {
    name: "[[listener.route]]",
    doc: "Requests of a kind and where they go. What is absent fits every request.",
    keys: &[
        key("host", "DNS name or `\"*.NAME\"`", "any", "The host that is asked for."),
        key("paths", "list of paths", "any", "Paths; an asterisk at the end stands for anything."),
        key("methods", "list of methods", "any", "Methods, in capitals."),
        key("upstream", "name of an upstream", "required, or `redirect`", "Where they go."),
        key("redirect", "`\"https\"`", "none", "In place of `upstream`: a redirect to the same address by https."),
    ],
};

/// `listener.allow`.
pub static ALLOW: Section = Section {
    name: "[[listener.allow]]",
    doc: "What clients that were accepted for an entry of the policy may call.",
    keys: &[
        key("entry", "id of a policy entry", "required", "The entry; an asterisk at the end stands for anything."),
        key("methods", "list of methods", "any", "Methods, in capitals."),
        key("paths", "list of paths", "any", "Paths; an asterisk at the end stands for anything."),
    ],
};

/// `listener.evidence`.
pub static EVIDENCE: Section = Section {
    name: "[listener.evidence]",
    doc: "The evidence endpoint for browsers. It does not resist a stolen TLS key: whoever has it can relay the answers.",
    keys: &[
        key("path", "path", "`\"/.well-known/portcullis/v1/evidence\"`", "Where it is served. Requests to it never reach the application."),
        key("per_source", "number", "`5`", "Answers to one address in a second."),
        key("total", "number", "`100`", "Answers in a second. Each may cost a quote."),
    ],
};

/// `listener.identity_headers`.
pub static IDENTITY_HEADERS: Section = Section {
    name: "[listener.identity_headers]",
    doc: "How the application behind an attested listener is told who its client is. Fields that could be taken for these are removed from every request and response first, whatever is chosen.",
    keys: &[
        key(
            "modes",
            "list of `\"structured\"`, `\"token\"`, `\"client-cert\"`, `\"xfcc\"`, `\"flashbots\"`; or `[\"none\"]`",
            "`[\"structured\"]`",
            "`structured`: `Attested-Peer`. `token`: `Attested-Token`, a signed attestation result; its keys are at `[observe]`. `client-cert`: `Client-Cert` (RFC 9440). `xfcc`: `X-Forwarded-Client-Cert`, as Envoy writes it. `flashbots`: `X-Flashbots-Measurement` and `X-Flashbots-Attestation-Type`.",
        ),
        key("audience", "text", "required with mode `token`", "The audience (`aud`) of tokens: what the application calls itself."),
        key("issuer", "text", "none", "The issuer (`iss`) of tokens, where the application wants one."),
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
            "list of `\"tls://HOST:PORT\"`, `\"tcp://HOST:PORT\"`, `\"http://HOST:PORT\"`, `\"h2c://HOST:PORT\"`, `\"unix:PATH\"`, `\"h2c+unix:PATH\"`, `\"tls+vsock://CID:PORT\"` or `\"vsock://CID:PORT\"`",
            "required",
            "Where to connect. For protocol `tcp` they are tried in order until one takes the connection; for `http` see `balance`. `tls://` and `tls+vsock://` speak attested TLS and need `attested`; the others are plain, and without `insecure_remote_upstream` only loopback addresses of theirs are connected to, also where `localhost` is resolved to others. `http://`, `unix:` and `vsock://` speak HTTP/1.1 to the application, `h2c://` HTTP/2, which gRPC needs. A name is resolved by the system (`/etc/hosts`, DNS) and followed: see `dns_refresh` and `docs/http.md`.",
        ),
        key(
            "balance",
            "`\"round-robin\"`, `\"least-request\"` or `\"hash\"`",
            "`\"round-robin\"`",
            "HTTP: how a request finds its target. `hash`: by the client's address and the host asked for.",
        ),
        key("health", "table", "none", "HTTP: how targets are asked whether they are well."),
        key("first_byte", "duration", "any", "HTTP: how long the head of an answer may take. Without a limit, since streams of language models begin late."),
        key("ejection", "duration", "`\"5s\"`", "HTTP: how long a target is left out that could not be reached or, at most 5 s, was refused."),
        key("attested", "table", "required for `tls://`", "What the far end must be."),
        key(
            "server_name",
            "DNS name or address",
            "the first target's host; required with `tls+vsock://`",
            "The name sent in the handshake and bound into the exchange.",
        ),
        key("peer", "table", "none", "Who the far end must be, beside what it runs."),
        key(
            "multiplex",
            "boolean",
            "`false`",
            "Puts connections into shared attested sessions, so that short ones do not each pay a handshake and a quote. The far listener has to say `multiplex` too: without, the session is refused (`alpn_mismatch`) and nothing falls back. New connections use a session in the first half of its life, and an unused one is closed after 60 s. For protocol `tcp`; requests of `http` share sessions always. Needs `attested` in a session tier.",
        ),
        key("connect_timeout", "duration", "`\"5s\"`", "How long connecting to one target may take, name resolution included."),
        key(
            "dns_refresh",
            "duration",
            "`\"30s\"`",
            "How often it is looked where a target's name leads, up to a fifth sooner or later. Requests go to all its addresses; pooled connections and sessions to an address that it no longer has take nothing new. At least `\"1s\"`.",
        ),
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

/// `upstream.health`.
pub static HEALTH: Section = Section {
    name: "[upstream.health]",
    doc: "Asks every target now and then. One that does not answer with a 2xx or 3xx gets no requests until it does.",
    keys: &[key("path", "path", "required", "What is got."), key("every", "duration", "`\"5s\"`", "How often.")],
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
    doc: "An appraisal policy: see `docs/policy.md`. Its SHA-256 names it in every verdict. A running process reads policies again on SIGHUP and within two seconds of a change to a file; connections that the new policy would refuse are closed with the reason, others notice nothing, and a file with errors changes nothing (`docs/reload.md`).",
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

/// `[acme]`.
pub static ACME: Section = Section {
    name: "[acme]",
    doc: "A CA that gives certificates by ACME (RFC 8555) to listeners with `certificate = \"webpki\"`. Each certificate's key is made in this process and kept in memory alone, so every start asks for a new certificate: see `docs/certificates.md` for what that means for a CA's limits.",
    keys: &[
        key("directory", "`\"https://HOST/PATH\"`", "required", "The address of the CA's directory."),
        key("agree_tos", "`true`", "required", "That the operator agrees to the CA's terms of service."),
        key("state_dir", "folder", "required", "Where the account's key is kept (mode 0600). Made when it is not there."),
        key("contact", "list of `\"mailto:…\"`", "none", "Whom the CA may write to."),
        key("ca_file", "file", "the public roots", "PEM certificates of a private CA, which alone vouch for the directory's server then."),
        key(
            "challenge",
            "`\"tls-alpn-01\"` or `\"http-01\"`",
            "`\"tls-alpn-01\"`",
            "How it is proved that a name leads here. `tls-alpn-01`: in the handshake of the listener itself, which port 443 of every name has to lead to. `http-01`: by a plain listener with `redirect`, which port 80 has to lead to.",
        ),
    ],
};

/// `[deny]`.
pub static DENY: Section = Section {
    name: "[deny]",
    doc: "A signed list of machines, code and TLS keys that are refused whatever the policies say; see `docs/collateral.md`. It takes effect on live connections when the file changes. After its `expires` nobody is accepted until there is a newer edition, and an edition with a lower `number` than the one in force is not taken.",
    keys: &[
        key("file", "file", "required", "The list, JSON. Its signature lies beside it as `FILE.sig`, DER, as `openssl dgst -sign` writes it."),
        key("key", "file", "required", "The PEM public key that signs it: P-256 (over SHA-256) or P-384 (over SHA-384)."),
    ],
};

/// `[collateral]`.
pub static COLLATERAL: Section = Section {
    name: "[collateral]",
    doc: "Where endorsements come from: the certificates, revocation lists and TCB data of the TEEs' vendors, for judging peers and for stapling to this side's own evidence. Without this table nothing is fetched and peers must staple what a verdict needs. What is here goes before what peers staple; a peer can never name a source. See `docs/collateral.md`.",
    keys: &[
        key(
            "sources",
            "list of `\"vendor\"`, `\"https://…\"`, folders, and bundles (`….json`)",
            "`[\"vendor\"]`",
            "Asked in this order; the first that has an item that holds is believed. `vendor` is the vendor's own service, an address a mirror with the vendor's paths (a PCCS, a mirror of AMD's service), a folder has files at the vendor's paths, a bundle is made by `portcullis collateral pack`. `PLATFORM=` before one (`sev-snp=https://…`) limits it to that platform's vendor. `http://` only to this machine.",
        ),
        key("cache", "folder", "memory alone", "Where items are kept across starts. Made when it is not there; processes may share it."),
        key("roots", "file", "none", "PEM certificates under which servers' certificates are accepted beside the public roots."),
        key("proxy", "`\"http://HOST:PORT\"`", "none", "An HTTP proxy that is asked to CONNECT to servers beyond this machine."),
        key("timeout", "duration, at most 2m", "`\"10s\"`", "How long one question to a server may take."),
        key(
            "wait",
            "duration, at most 1m",
            "`\"5s\"`",
            "How long a connection waits for an item that was never seen, at most half of the exchange's time. For anything seen before, nothing waits.",
        ),
        key(
            "refresh",
            "duration, 1m to 30d",
            "`\"1d\"`",
            "How often revocation lists and TCB data are asked for again, long before they end: how soon a revocation is known.",
        ),
        key(
            "insecure_plain_sources",
            "boolean",
            "`false`",
            "Lets mirrors beyond this machine be asked without TLS. Items are signed by the vendor, but whoever is on the way can withhold new revocations until the old list ends.",
        ),
    ],
};

/// `[observe]`.
pub static OBSERVE: Section = Section {
    name: "[observe]",
    doc: "A read-only HTTP address: `/startupz`, `/livez`, `/readyz`, `/metrics`, and `/.well-known/jwks.json` with the keys of tokens. It changes nothing and shows no secret.",
    keys: &[key("bind", "`\"ADDRESS:PORT\"`", "required", "Where it listens.")],
};

/// `[log]`.
pub static LOG: Section = Section {
    name: "[log]",
    doc: "The log on standard error. Whoever reads it too slowly loses lines and holds nothing up: 4 MiB wait, lines beyond that are counted (`portcullis_log_lines_dropped_total`) and their number is logged. Lines that a full disk takes away are counted there too. No line is longer than 16 KiB.",
    keys: &[
        key("format", "`\"text\"` or `\"json\"`", "`\"text\"`", "Lines for people or for machines."),
        key(
            "level",
            "`\"error\"`, `\"warn\"`, `\"info\"` or `\"debug\"`",
            "`\"info\"`",
            "How much. Options in force that weaken safety are told at every level. No level shows keys, exporters or what report data is made from.",
        ),
    ],
};

/// Every table in the order of the documentation.
#[rustfmt::skip]
pub static SECTIONS: [&Section; 22] = [
    &FILE, &IDENTITY, &GPUS, &SIMULATOR, &LISTENER, &LISTENER_FILES, &LIMITS, &DESTINATION, &ROUTE, &ALLOW, &IDENTITY_HEADERS, &EVIDENCE, &UPSTREAM, &HEALTH, &ATTESTED, &PEER, &POLICY, &ACME, &DENY, &COLLATERAL,
    &OBSERVE, &LOG,
];

/// The reference page, Markdown.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from("# Configuration\n\nThis page is generated from `src/config/schema.rs`; a test fails when they differ.\n");
    for section in SECTIONS {
        page += &format!("\n## `{}`\n\n{}\n", section.name, section.doc);
        page += "\n| key | value | default | |\n|---|---|---|---|\n";
        for Key { key, value, default, doc, .. } in section.keys {
            page += &format!("| `{key}` | {value} | {default} | {doc} |\n");
        }
    }
    page
}
