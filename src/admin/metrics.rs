//! What is counted. Labels are bounded: no address, name of a peer or measurement is ever a label.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge>;
type Durations = Family<Labels, Histogram, fn() -> Histogram>;

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    acme_orders: Counters,
    appraisals: Counters,
    cache_lookups: Counters,
    certificate_not_after: Gauges,
    collateral_fetches: Counters,
    collateral_fetch_duration: Durations,
    collateral_not_after: Gauges,
    confirmed: Counters,
    connections_active: Gauges,
    connections_closed: Counters,
    connections_opened: Counters,
    devices: DeviceMetrics,
    drain_state: Gauge,
    handshakes: Counters,
    http_duration: Durations,
    http_in_flight: Gauges,
    http_requests: Counters,
    spoofed: Counters,
    upstream_healthy: Gauges,
    upstream_retries: Counters,
    insecure_option: Gauges,
    limits_rejected: Counters,
    log_lines_dropped: Counter,
    refused: Counters,
    mints: Counters,
    config_info: Gauges,
    config_reload_success: Gauge,
    config_reloads: Counters,
    config_restart: Gauges,
    public_not_after: Gauges,
    quotes: QuoteMetrics,
    received: Counters,
    sent: Counters,
    tunnel_sessions_active: Gauges,
    tunnel_sessions_opened: Counters,
    upstream_connects: Counters,
    withdrawn: Counters,
}

/// Which way an attested connection goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// The peer connected to us.
    Inbound,
    /// We connected to the peer.
    Outbound,
}

impl Direction {
    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What is counted for each listener, looked up once.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    /// Connections accepted.
    pub opened: Counter,
    /// Connections ended.
    pub closed: Counter,
    /// Connections now.
    pub active: Gauge,
    /// Octets from the listener's peers.
    pub received: Counter<u64, AtomicU64>,
    /// Octets to them.
    pub sent: Counter<u64, AtomicU64>,
}

/// One more in a gauge, until it is dropped.
#[derive(Debug)]
pub struct Held(Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What is counted of the requests of one listener, each looked up once: requests are many.
#[derive(Debug)]
pub struct HttpMetrics {
    listener: String,
    in_flight: Gauge,
    requests: Counters,
    durations: Durations,
    /// By method, then by class of status, as [`METHODS`] and [`CLASSES`] have them.
    ended: [[OnceLock<(Counter, Histogram)>; CLASSES.len()]; METHODS.len()],
}

impl HttpMetrics {
    /// Notes that a request has begun.
    pub fn begun(&self) {
        self.in_flight.inc();
    }

    /// Notes that a request is over.
    pub fn over(&self) {
        self.in_flight.dec();
    }

    /// Counts a request and how long it took.
    pub fn request(&self, method: &str, status: u16, seconds: f64) {
        let method = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1);
        let class = Some(usize::from(status / 100)).filter(|class| *class < CLASSES.len()).unwrap_or(0);
        let (Some(cell), Some(method), Some(class)) = (self.ended.get(method).and_then(|of| of.get(class)), METHODS.get(method), CLASSES.get(class)) else {
            return;
        };
        let (requests, durations) = cell.get_or_init(|| {
            let labels = owned(&[("listener", &self.listener), ("method", method), ("code_class", class)]);
            (self.requests.get_or_create_owned(&labels), self.durations.get_or_create_owned(&labels))
        });
        requests.inc();
        durations.observe(seconds);
    }
}

/// What is counted of the evidence that this machine makes.
#[derive(Clone, Debug, Default)]
pub struct QuoteMetrics {
    /// Quotes that were made, for batches and for certificates.
    pub quotes: Counter,
    /// Sessions that quotes were made for.
    pub leaves: Counter,
    /// The size of the largest batch.
    pub largest: Gauge,
    /// Quotes that the attester did not make.
    pub failures: Counter,
    /// Requests that were answered busy.
    pub busy: Counter,
}

/// What is counted of the evidence of devices beside the TEE.
#[derive(Clone, Debug, Default)]
pub struct DeviceMetrics {
    /// Sessions that devices gave evidence for.
    pub attested: Counter,
    /// Sessions that they gave none for.
    pub failures: Counter,
    /// Sessions that were answered busy.
    pub busy: Counter,
}

impl DeviceMetrics {
    fn registered(registry: &mut Registry) -> Self {
        Self {
            attested: made(registry, "device_evidence", "Sessions that devices beside the TEE gave evidence for"),
            failures: made(registry, "device_evidence_failures", "Sessions that devices beside the TEE gave no evidence for"),
            busy: made(registry, "device_evidence_busy", "Sessions that found no room before the devices and were answered busy"),
        }
    }
}

impl QuoteMetrics {
    fn registered(registry: &mut Registry) -> Self {
        Self {
            quotes: made(registry, "quotes", "Quotes that this machine's TEE made"),
            leaves: made(registry, "quote_sessions", "Sessions that quotes were made for"),
            largest: made(registry, "quote_largest_batch", "The most sessions that one quote spoke for"),
            failures: made(registry, "quote_failures", "Quotes that the TEE did not make"),
            busy: made(registry, "quotes_busy", "Requests for a quote that were answered busy"),
        }
    }
}

impl Metrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("portcullis");
        let build: Gauges = made(&mut registry, "build_info", "The program");
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("target", target)]).set(1);
        Self {
            acme_orders: made(&mut registry, "acme_orders", "Tries to get a certificate from a CA by ACME"),
            appraisals: made(&mut registry, "appraisals", "Verdicts about peers"),
            cache_lookups: made(&mut registry, "appraisal_cache_lookups", "Certificate verdicts asked of the cache"),
            certificate_not_after: made(&mut registry, "certificate_not_after_timestamp_seconds", "End of our certificate"),
            collateral_fetches: made(&mut registry, "collateral_fetches", "Questions to sources of collateral"),
            collateral_fetch_duration: durations(&mut registry, "collateral_fetch_duration_seconds", "How long sources of collateral took to answer", || {
                Histogram::new([0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0])
            }),
            collateral_not_after: made(&mut registry, "collateral_not_after_timestamp_seconds", "The earliest end of an item at hand"),
            confirmed: made(&mut registry, "connections_confirmed", "Connections that were let through, by tier"),
            connections_active: made(&mut registry, "connections_active", "Connections now"),
            connections_closed: made(&mut registry, "connections_closed", "Connections ended"),
            connections_opened: made(&mut registry, "connections_opened", "Connections accepted"),
            tunnel_sessions_active: made(&mut registry, "tunnel_sessions_active", "Sessions of many connections now"),
            tunnel_sessions_opened: made(&mut registry, "tunnel_sessions_opened", "Sessions of many connections begun"),
            devices: DeviceMetrics::registered(&mut registry),
            drain_state: made(&mut registry, "drain_state", "0 running, 1 draining"),
            handshakes: made(&mut registry, "handshakes", "TLS handshakes"),
            http_duration: durations(&mut registry, "http_request_duration_seconds", "Requests from their head to the end of their answer", || {
                Histogram::new(DURATIONS)
            }),
            http_in_flight: made(&mut registry, "http_requests_in_flight", "Requests that are under way"),
            http_requests: made(&mut registry, "http_requests", "Requests, by method and class of status"),
            spoofed: made(&mut registry, "spoofed_headers_stripped", "Fields removed because they could be taken for an identity"),
            upstream_healthy: made(&mut registry, "upstream_healthy_targets", "Targets that passed their last health check"),
            upstream_retries: made(&mut registry, "upstream_retries", "Requests tried again while nothing of them was sent, by why: unreachable or unsent"),
            insecure_option: made(&mut registry, "insecure_option", "Options in force that weaken safety"),
            limits_rejected: made(&mut registry, "limits_rejected", "Connections turned away by a limit"),
            log_lines_dropped: made(&mut registry, "log_lines_dropped", "Lines of the log that were lost: what takes it is too slow, or full"),
            config_info: made(&mut registry, "config_info", "The configuration in force, by the SHA-256 of its text"),
            config_reload_success: made(&mut registry, "config_last_reload_success_timestamp_seconds", "When the configuration was last read and taken"),
            config_reloads: made(&mut registry, "config_reloads", "Reloads of the configuration, by result"),
            config_restart: made(&mut registry, "config_restart_needed", "Keys that changed in the file and are only taken by a restart"),
            refused: made(&mut registry, "connections_refused", "Connections refused, by listener, side and reason"),
            mints: made(&mut registry, "evidence_mints", "Certificates with evidence made"),
            public_not_after: made(&mut registry, "public_certificate_not_after_timestamp_seconds", "End of a listener's certificate for the public"),
            quotes: QuoteMetrics::registered(&mut registry),
            received: made(&mut registry, "bytes_received", "Octets from the peers of a listener"),
            sent: made(&mut registry, "bytes_sent", "Octets to the peers of a listener"),
            upstream_connects: made(&mut registry, "upstream_connects", "Connections to upstreams"),
            withdrawn: made(&mut registry, "connections_withdrawn", "Live connections ended because a peer would now be refused"),
            registry,
        }
    }

    /// All metrics as OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// The counters of one listener.
    #[must_use]
    pub fn listener(&self, listener: &str, direction: Direction) -> ListenerMetrics {
        let labels = vec![("listener", listener.to_owned()), ("direction", direction.name().to_owned())];
        ListenerMetrics {
            opened: self.connections_opened.get_or_create(&labels).clone(),
            closed: self.connections_closed.get_or_create(&labels).clone(),
            active: self.connections_active.get_or_create(&labels).clone(),
            received: self.received.get_or_create(&labels).clone(),
            sent: self.sent.get_or_create(&labels).clone(),
        }
    }

    /// The counters of the evidence of devices.
    #[must_use]
    pub const fn devices(&self) -> &DeviceMetrics {
        &self.devices
    }

    /// The counters of the evidence that is made here.
    #[must_use]
    pub const fn quotes(&self) -> &QuoteMetrics {
        &self.quotes
    }

    /// The counter of lines that are missing in the log.
    #[must_use]
    pub const fn log_lines_dropped(&self) -> &Counter {
        &self.log_lines_dropped
    }

    /// Counts a verdict: `reason` is `None` when the peer was accepted.
    pub fn appraised(&self, direction: Direction, policy: &str, tee: &str, reason: Option<&'static str>) {
        let result = if reason.is_none() { "accepted" } else { "refused" };
        let labels = [("direction", direction.name()), ("policy", policy), ("tee", tee), ("result", result), ("reason", reason.unwrap_or(""))];
        self.appraisals.get_or_create(&owned(&labels)).inc();
    }

    /// Counts a look into the appraisal cache.
    pub fn cache_looked_up(&self, result: &'static str) {
        self.cache_lookups.get_or_create(&owned(&[("result", result)])).inc();
    }

    /// Counts a question to a source of collateral: its kind, the item's short name, `ok` or why not.
    pub fn collateral_fetched(&self, source: &'static str, item: &str, result: &'static str, took: Duration) {
        self.collateral_fetches.get_or_create(&owned(&[("source", source), ("item", item), ("result", result)])).inc();
        self.collateral_fetch_duration.get_or_create(&owned(&[("source", source), ("item", item)])).observe(took.as_secs_f64());
    }

    /// Notes the earliest end of the items of this short name.
    pub fn collateral_ends(&self, item: &str, until: u64) {
        self.collateral_not_after.get_or_create(&owned(&[("item", item)])).set(i64::try_from(until).unwrap_or(i64::MAX));
    }

    /// Counts a connection that was let through under this tier.
    pub fn confirmed(&self, tier: &'static str, direction: Direction) {
        self.confirmed.get_or_create(&owned(&[("tier", tier), ("direction", direction.name())])).inc();
    }

    /// Counts a TLS handshake; `result` is `ok` or a reason code.
    pub fn handshake(&self, listener: &str, direction: Direction, result: &'static str) {
        self.handshakes.get_or_create(&owned(&[("listener", listener), ("direction", direction.name()), ("result", result)])).inc();
    }

    /// Counts a connection turned away.
    pub fn limit_rejected(&self, listener: &str, limit: &'static str) {
        self.limits_rejected.get_or_create(&owned(&[("listener", listener), ("limit", limit)])).inc();
    }

    /// Counts a refused connection: every one of them, whatever stage refused it.
    pub fn refused(&self, listener: &str, side: &'static str, reason: &'static str) {
        self.refused.get_or_create(&owned(&[("listener", listener), ("side", side), ("reason", reason)])).inc();
    }

    /// Counts a live connection that ended because this side of it would now be refused.
    pub fn withdrawn(&self, listener: &str, side: &'static str, reason: &'static str) {
        self.withdrawn.get_or_create(&owned(&[("listener", listener), ("side", side), ("reason", reason)])).inc();
    }

    /// Counts a reload of the configuration: `ok` or `failed`.
    pub fn reloaded(&self, result: &'static str) {
        self.config_reloads.get_or_create(&owned(&[("result", result)])).inc();
    }

    /// Notes the configuration in force by the SHA-256 of its text, when it was taken in seconds since 1970, and the keys of it
    /// that a restart would take.
    pub fn configured(&self, digest: &[u8; 32], at: Option<u64>, restart: &[&str]) {
        self.config_info.clear();
        self.config_info.get_or_create(&owned(&[("digest", &data_encoding::HEXLOWER.encode(digest))])).set(1);
        if let Some(at) = at.and_then(|at| i64::try_from(at).ok()) {
            self.config_reload_success.set(at);
        }
        self.config_restart.clear();
        for key in restart {
            self.config_restart.get_or_create(&owned(&[("key", key)])).set(1);
        }
    }

    /// Counts a certificate with evidence made, or failed, and notes the end of the one in use.
    pub fn minted(&self, provider: &str, not_after: Option<u64>) {
        let result = if not_after.is_some() { "ok" } else { "failed" };
        self.mints.get_or_create(&owned(&[("provider", provider), ("result", result)])).inc();
        if let Some(seconds) = not_after.and_then(|seconds| i64::try_from(seconds).ok()) {
            self.certificate_not_after.get_or_create(&owned(&[("kind", "attested")])).set(seconds);
        }
    }

    /// Notes the end of the certificate from elsewhere that is in use.
    pub fn certificate_issued(&self, not_after: u64) {
        self.certificate_not_after.get_or_create(&owned(&[("kind", "issued")])).set(i64::try_from(not_after).unwrap_or(i64::MAX));
    }

    /// Counts a try to get a certificate for a listener from a CA.
    pub fn acme_ordered(&self, listener: &str, result: &str) {
        self.acme_orders.get_or_create(&owned(&[("listener", listener), ("result", result)])).inc();
    }

    /// Notes the end of a listener's certificate for the public.
    pub fn public_certificate(&self, listener: &str, not_after: u64) {
        self.public_not_after.get_or_create(&owned(&[("listener", listener)])).set(i64::try_from(not_after).unwrap_or(i64::MAX));
    }

    /// The counters of one listener's requests.
    #[must_use]
    pub fn http(&self, listener: &str) -> HttpMetrics {
        HttpMetrics {
            listener: listener.to_owned(),
            in_flight: self.http_in_flight.get_or_create_owned(&owned(&[("listener", listener)])),
            requests: self.http_requests.clone(),
            durations: self.http_duration.clone(),
            ended: Default::default(),
        }
    }

    /// Counts a field that was removed because it could be taken for an identity.
    pub fn spoofed(&self, listener: &str, header: &'static str) {
        self.spoofed.get_or_create(&owned(&[("listener", listener), ("header", header)])).inc();
    }

    /// Notes how many targets of an upstream are well.
    pub fn healthy_targets(&self, upstream: &str, targets: i64) {
        self.upstream_healthy.get_or_create(&owned(&[("upstream", upstream)])).set(targets);
    }

    /// Counts a request that was tried again.
    pub fn upstream_retry(&self, upstream: &str, result: &'static str) {
        self.upstream_retries.get_or_create(&owned(&[("upstream", upstream), ("result", result)])).inc();
    }

    /// Counts a try to reach an upstream.
    pub fn upstream_connect(&self, upstream: &str, result: &'static str) {
        self.upstream_connects.get_or_create(&owned(&[("upstream", upstream), ("result", result)])).inc();
    }

    /// Notes the options in force that weaken safety.
    pub fn insecure_options(&self, options: &[String]) {
        self.insecure_option.clear();
        for option in options {
            self.insecure_option.get_or_create(&owned(&[("option", option)])).set(1);
        }
    }

    /// Says nothing more of how many targets of an upstream are well.
    pub fn unchecked(&self, upstream: &str) {
        self.upstream_healthy.remove(&owned(&[("upstream", upstream)]));
    }

    /// Says nothing more of a listener's certificate for the public.
    pub fn no_public_certificate(&self, listener: &str) {
        self.public_not_after.remove(&owned(&[("listener", listener)]));
    }

    /// Counts a session of many connections, until what is returned is dropped.
    #[must_use]
    pub fn tunnel_session(&self, listener: &str, direction: Direction) -> Held {
        let labels = owned(&[("listener", listener), ("direction", direction.name())]);
        self.tunnel_sessions_opened.get_or_create(&labels).inc();
        let gauge = self.tunnel_sessions_active.get_or_create(&labels).clone();
        gauge.inc();
        Held(gauge)
    }

    /// Notes that the proxy drains.
    pub fn draining(&self) {
        self.drain_state.set(1);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// A metric that shows under this name.
fn made<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn durations(registry: &mut Registry, name: &str, help: &str, histogram: fn() -> Histogram) -> Durations {
    let family = Durations::new_with_constructor(histogram);
    registry.register(name, help, family.clone());
    family
}

/// Methods that have a label of their own; a client may send any, which is the last.
const METHODS: [&str; 10] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "other"];

/// Classes of status, by its first digit; the first is that of no answer.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Seconds: a cache's answer to a long stream.
const DURATIONS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_show_under_their_documented_names() {
        let metrics = Metrics::new();
        metrics.appraised(Direction::Outbound, "db", "sev-snp", Some("measurement_unknown"));
        metrics.insecure_options(&["insecure_roots".to_owned()]);
        metrics.refused("public", "downstream", "peer_refused");
        metrics.confirmed("session", Direction::Inbound);
        metrics.listener("public", Direction::Inbound).received.inc_by(7);
        let http = metrics.http("web");
        (0..3).for_each(|_| http.begun());
        for (method, status) in [("GET", 204), ("GET", 200), ("BREW", 0)] {
            http.request(method, status, 0.003);
        }
        http.over();
        let text = metrics.text();
        for line in [
            r#"portcullis_appraisals_total{direction="outbound",policy="db",tee="sev-snp",result="refused",reason="measurement_unknown"} 1"#,
            r#"portcullis_insecure_option{option="insecure_roots"} 1"#,
            r#"portcullis_connections_refused_total{listener="public",side="downstream",reason="peer_refused"} 1"#,
            r#"portcullis_connections_confirmed_total{tier="session",direction="inbound"} 1"#,
            r#"portcullis_bytes_received_total{listener="public",direction="inbound"} 7"#,
            "portcullis_drain_state 0",
            r#"portcullis_http_requests_in_flight{listener="web"} 2"#,
            r#"portcullis_http_requests_total{listener="web",method="GET",code_class="2xx"} 2"#,
            r#"portcullis_http_requests_total{listener="web",method="other",code_class="none"} 1"#,
            r#"portcullis_http_request_duration_seconds_count{listener="web",method="GET",code_class="2xx"} 2"#,
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
        assert!(text.contains("portcullis_build_info{"));
    }
}
