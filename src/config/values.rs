//! The values that people write as strings: durations, sizes, addresses, targets, pins.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::tree::Wrong;
use super::{Bind, Target, Transport};

/// A duration with its unit: `"20ms"`, `"30s"`, `"5m"`, `"1h"`, `"2d"`.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    let wrong = || Wrong::new(format!("\"{text}\" is not a duration"), "write a number and a unit: \"20ms\", \"30s\", \"5m\", \"1h\", \"2d\"");
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(wrong)
}

/// A duration within bounds.
pub(super) fn duration_within(least: Duration, most: Duration) -> impl Fn(&str) -> Result<Duration, Wrong> {
    move |text| {
        let duration = duration(text)?;
        if (least..=most).contains(&duration) {
            return Ok(duration);
        }
        Err(Wrong::new(format!("\"{text}\" is out of bounds"), format!("write at least {} and at most {}", written(least), written(most))))
    }
}

/// The shortest way to write a duration.
pub(super) fn written(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if milliseconds >= size && milliseconds.is_multiple_of(size) {
            return format!("\"{}{unit}\"", milliseconds / size);
        }
    }
    format!("\"{milliseconds}ms\"")
}

/// A number of octets with its unit: `"512B"`, `"32KiB"`, `"100MiB"`, `"4GiB"`.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    let wrong = || Wrong::new(format!("\"{text}\" is not a size"), "write a number and a unit: \"512B\", \"32KiB\", \"100MiB\", \"4GiB\"");
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

/// A socket address written as numbers.
pub(super) fn address(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_| {
        let port = text.rsplit_once(':').map_or("", |(_, port)| port);
        if !port.is_empty() && port.bytes().all(|octet| octet.is_ascii_digit()) && port.parse::<u16>().is_err() {
            return Wrong::new(format!("\"{text}\" has no possible port"), "ports are numbers up to 65535");
        }
        Wrong::new(format!("\"{text}\" is not an address with a port"), "write an address, not a name: \"127.0.0.1:8080\", \"0.0.0.0:8443\", \"[::]:8443\"")
    })
}

/// Where a listener binds.
pub(super) fn bind(text: &str) -> Result<Bind, Wrong> {
    if let Some(rest) = text.strip_prefix("vsock:") {
        let (cid, port) = vsock(text, rest, "write \"vsock:any:PORT\", or \"vsock:CID:PORT\" with a context id of this machine; the port is 1 to 4294967294")?;
        return Ok(Bind::Vsock { cid, port });
    }
    match (text.strip_prefix("unix:"), text.strip_prefix("systemd:")) {
        (Some(path), _) => Ok(Bind::Unix(socket_path(text, path)?)),
        (_, Some(name)) => word(name).map(Bind::Systemd),
        (None, None) => address(text).map(Bind::Tcp),
    }
}

/// One target of an upstream.
pub(super) fn target(text: &str) -> Result<Target, Wrong> {
    for (prefix, transport) in [("unix:", Transport::Plain), ("h2c+unix:", Transport::Http2)] {
        if let Some(path) = text.strip_prefix(prefix) {
            return Ok(Target { transport, place: super::Place::Unix(socket_path(text, path)?) });
        }
    }
    for (prefix, transport) in [("tls+vsock://", Transport::Attested), ("vsock://", Transport::Plain)] {
        if let Some(rest) = text.strip_prefix(prefix) {
            let fix = format!("write \"{prefix}CID:PORT\": 2 is the host, 3 an enclave's parent, and guests have numbers above; the port is 1 to 4294967294");
            let (cid, port) = vsock(text, rest, &fix)?;
            let cid = cid.ok_or_else(|| Wrong::new(format!("\"{text}\" is nobody in particular"), fix))?;
            return Ok(Target { transport, place: super::Place::Vsock { cid, port } });
        }
    }
    let (transport, rest) = match text.split_once("://") {
        Some(("tls", rest)) => (Transport::Attested, rest),
        Some(("tcp", rest)) => (Transport::Plain, rest),
        Some(("http", rest)) => (Transport::Http1, rest),
        Some(("h2c", rest)) => (Transport::Http2, rest),
        Some((scheme, _)) => {
            return Err(Wrong::new(
                format!("targets cannot be {scheme}://"),
                "write \"tls://HOST:PORT\" for attested TLS; \"http://HOST:PORT\", \"h2c://HOST:PORT\", \"tcp://HOST:PORT\" or \"unix:PATH\" for plain bytes; \"tls+vsock://CID:PORT\" or \"vsock://CID:PORT\" over vsock",
            ));
        }
        None => {
            return Err(Wrong::new(
                format!("\"{text}\" does not say what is spoken to it"),
                format!("write \"tls://{text}\" for attested TLS or \"tcp://{text}\" for plain bytes"),
            ));
        }
    };
    let (host, port) = host_and_port(rest)?;
    Ok(Target { transport, place: super::Place::Tcp { host, port } })
}

/// `CID:PORT`, where the context id may be `any`. The largest numbers, and port 0, are no places.
fn vsock(text: &str, rest: &str, fix: &str) -> Result<(Option<u32>, u32), Wrong> {
    let wrong = || Wrong::new(format!("\"{text}\" is not a vsock address"), fix);
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number != u32::MAX).ok_or_else(wrong);
    let (cid, port) = rest.split_once(':').ok_or_else(wrong)?;
    let cid = if cid == "any" { None } else { Some(number(cid)?) };
    match number(port)? {
        0 => Err(wrong()),
        port => Ok((cid, port)),
    }
}

/// `HOST:PORT`, with an IPv6 address in brackets; the port is not 0.
pub(super) fn host_and_port(text: &str) -> Result<(String, u16), Wrong> {
    let wrong = || Wrong::new(format!("\"{text}\" is not HOST:PORT"), "write a name or address and a port: db.example:8443, 127.0.0.1:8080, [::1]:8080");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => Ok((address.to_owned(), port)),
        None if is_host(host) => Ok((host.to_owned(), port)),
        _ => Err(wrong()),
    }
}

/// Whether this host is meant to be this machine.
pub(super) fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// `sha256:` and 64 hex digits.
pub(super) fn pin(text: &str) -> Result<[u8; 32], Wrong> {
    let wrong = || Wrong::new(format!("\"{text}\" is not a pin"), "write \"sha256:\" and the 64 hex digits of the SHA-256 of the SubjectPublicKeyInfo");
    let hex = text.strip_prefix("sha256:").ok_or_else(wrong)?;
    data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok().and_then(|digest| digest.try_into().ok()).ok_or_else(wrong)
}

/// A SPIFFE id: `spiffe://`, a trust domain and a path.
pub(super) fn spiffe_id(text: &str) -> Result<String, Wrong> {
    let wrong = || Wrong::new(format!("\"{text}\" is not a SPIFFE id"), "write \"spiffe://TRUST-DOMAIN/PATH\"");
    let rest = text.strip_prefix("spiffe://").ok_or_else(wrong)?;
    let (domain, path) = rest.split_once('/').ok_or_else(wrong)?;
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-._/".contains(letter);
    if domain.is_empty() || path.is_empty() || domain.contains(|letter: char| letter.is_ascii_uppercase()) || !rest.chars().all(allowed) || text.len() > 2048 {
        return Err(wrong());
    }
    Ok(text.to_owned())
}

/// A DNS name in lower case or a SPIFFE id, as certificates carry them.
pub(super) fn certificate_name(text: &str) -> Result<String, Wrong> {
    if text.starts_with("spiffe://") {
        return spiffe_id(text);
    }
    if is_host(text) && text == text.to_ascii_lowercase() && text.parse::<IpAddr>().is_err() {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("\"{text}\" is not a name for a certificate"), "write a DNS name in lower case (A-labels for other scripts) or a spiffe:// id"))
}

/// A digest of 32, 48 or 64 octets in hex.
pub(super) fn measurement(text: &str) -> Result<Vec<u8>, Wrong> {
    let wrong = || Wrong::new(format!("\"{text}\" is not a measurement"), "write 64, 96 or 128 hex digits, as the platform's digests have");
    let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
    octets.filter(|octets| matches!(octets.len(), 32 | 48 | 64)).ok_or_else(wrong)
}

/// The permission bits of a socket, octal.
pub(super) fn mode(text: &str) -> Result<u32, Wrong> {
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o777 && text.len() <= 4);
    bits.ok_or_else(|| Wrong::new(format!("\"{text}\" is not a file mode"), "write octal permission bits: \"0600\", \"0660\""))
}

/// A name that may stand in logs and metric labels.
pub(super) fn word(text: &str) -> Result<String, Wrong> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if !text.is_empty() && text.len() <= 64 && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("\"{text}\" is not a usable name"), "use 1 to 64 letters, digits, and - _ ."))
}

fn socket_path(text: &str, path: &str) -> Result<PathBuf, Wrong> {
    // sun_path is 108 octets with its ending zero (unix(7)).
    if (1..=107).contains(&path.len()) && !path.contains('\0') {
        return Ok(PathBuf::from(path));
    }
    Err(Wrong::new(format!("\"{text}\" is not a socket path"), "write \"unix:PATH\" with a path of at most 107 octets"))
}

pub(super) fn is_host(host: &str) -> bool {
    let label =
        |label: &str| !label.is_empty() && label.len() <= 63 && label.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_');
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
}

/// `ADDRESS` or `ADDRESS/BITS`.
pub(super) fn network(text: &str) -> Result<(IpAddr, u8), Wrong> {
    let wrong = || Wrong::new(format!("\"{text}\" is not an address or network"), "write \"10.0.0.7\", \"10.0.0.0/8\" or \"2001:db8::/32\"");
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Ok(most), |bits| bits.parse::<u8>().map_err(|_| wrong()))?;
    if bits <= most { Ok((address, bits)) } else { Err(wrong()) }
}

/// What one of the `known` words stands for; `what` it is, for people.
pub(super) fn one_of<T: Copy>(text: &str, what: &str, known: &[(&str, T)]) -> Result<T, Wrong> {
    let choices = || known.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let found = known.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| Wrong::new(format!("unknown {what} \"{text}\""), format!("one of {}", choices())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        for bad in ["", "30", "s", "-1s", "1.5h", "99999999999999999999s", "99999999999999999d", "1 h", "1week"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for text in ["20ms", "90s", "1h", "1d"] {
            assert_eq!(written(duration(text).unwrap()), format!("\"{text}\""));
        }
    }

    #[test]
    fn a_port_that_cannot_be_is_named_as_such() {
        assert!(address("127.0.0.1:65535").is_ok());
        for (text, help) in
            [("127.0.0.1:65536", "65535"), ("[::1]:99999", "65535"), ("localhost:80", "not a name"), ("127.0.0.1", "not a name"), ("1:", "not a name")]
        {
            assert!(address(text).is_err_and(|wrong| wrong.help.contains(help)), "{text}");
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(size("32KiB"), Ok(32_768));
        assert_eq!(size("1B"), Ok(1));
        for bad in ["", "32", "KiB", "32kb", "1.5MiB", "99999999999GiB", "-1B"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn targets_say_what_is_spoken_to_them() {
        assert!(matches!(target("tls://db:8443"), Ok(Target { transport: Transport::Attested, .. })));
        assert!(matches!(target("tcp://[::1]:80"), Ok(Target { transport: Transport::Plain, .. })));
        assert!(matches!(target("unix:/run/app.sock"), Ok(Target { transport: Transport::Plain, .. })));
        assert!(matches!(target("http://db:80"), Ok(Target { transport: Transport::Http1, .. })));
        assert!(matches!(target("h2c+unix:/run/app.sock"), Ok(Target { transport: Transport::Http2, .. })));
        let vsock = |transport, cid, port| Ok(Target { transport, place: crate::config::Place::Vsock { cid, port } });
        assert_eq!(target("vsock://2:5000"), vsock(Transport::Plain, 2, 5000));
        assert_eq!(target("tls+vsock://16:4294967294"), vsock(Transport::Attested, 16, 4_294_967_294));
        for bad in ["vsock:2:5000", "vsock://any:5000", "vsock://2", "vsock://2:0", "vsock://4294967295:1", "tls+vsock://2:4294967295", "tls+vsock://host:1"] {
            assert!(target(bad).is_err(), "{bad}");
        }
        for bad in ["db:8443", "https://db:80", "tls://db", "tls://db:0", "tls://db:99999", "tls://:1", "tls://::1:80", "tls://[x]:1", "tls://a..b:1", "unix:"]
        {
            assert!(target(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn listeners_take_every_context_id_or_one() {
        assert_eq!(bind("vsock:any:8443"), Ok(Bind::Vsock { cid: None, port: 8443 }));
        assert_eq!(bind("vsock:3:70000"), Ok(Bind::Vsock { cid: Some(3), port: 70_000 }));
        for bad in
            ["vsock:", "vsock:8443", "vsock:any", "vsock:any:0", "vsock:any:4294967295", "vsock:4294967295:1", "vsock:-1:1", "vsock:1:2:3", "vsock://any:1"]
        {
            assert!(bind(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_is_meant_to_be_this_machine_is_local() {
        assert!(["localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"].iter().all(|host| is_local(host)));
        assert!(!["0.0.0.0", "localhost.example", "10.0.0.1", "127.0.0.1.example", "::"].iter().any(|host| is_local(host)));
    }

    #[test]
    fn pins_names_modes_and_ids() {
        assert!(pin(&format!("sha256:{}", "ab".repeat(32))).is_ok());
        assert!(pin("sha256:abcd").is_err() && pin(&"ab".repeat(32)).is_err());
        assert_eq!(mode("0660"), Ok(0o660));
        assert!(mode("8").is_err() && mode("7777").is_err() && mode("").is_err());
        assert!(spiffe_id("spiffe://mesh/orders").is_ok());
        assert!(spiffe_id("spiffe://mesh").is_err() && spiffe_id("spiffe:///x").is_err() && spiffe_id("https://mesh/x").is_err());
        assert!(certificate_name("db.example").is_ok());
        assert!(certificate_name("DB.example").is_err() && certificate_name("127.0.0.1").is_err());
        assert!(word("a b").is_err() && word("").is_err() && word("orders-2026.11").is_ok());
    }
}
