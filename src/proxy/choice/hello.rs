//! The server name of a TLS handshake that passes: read from its first message, which nothing is done with.

use rustls::server::Acceptor;

/// A ClientHello is not read beyond this many octets: those with post-quantum shares and encrypted hellos have about 4 KiB.
pub const MOST: usize = 32 * 1024;

/// Follows the first octets of a client until its server name is known.
#[derive(Default)]
pub struct Hello {
    acceptor: Acceptor,
    taken: usize,
}

/// Why there is no server name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Nameless {
    /// The message is too long.
    Long,
    /// It is no ClientHello, or one that is broken.
    Malformed(String),
    /// It is one without a server name.
    NoName,
}

impl std::fmt::Display for Nameless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Long => write!(f, "more than {MOST} octets and still no whole ClientHello"),
            Self::Malformed(why) => write!(f, "no ClientHello: {why}"),
            Self::NoName => f.write_str("a ClientHello without a server name"),
        }
    }
}

impl Hello {
    /// Looks at the next octets: the name in lower case, or `None` while the message is not whole.
    ///
    /// # Errors
    /// [`Nameless`].
    pub fn follow(&mut self, mut octets: &[u8]) -> Result<Option<String>, Nameless> {
        while !octets.is_empty() {
            // The first octet of a handshake record. rustls would wait for a record's head.
            if self.taken == 0 && octets.first() != Some(&22) {
                return Err(Nameless::Malformed("no TLS handshake".to_owned()));
            }
            let before = octets.len();
            let read = self.acceptor.read_tls(&mut octets).map_err(|error| Nameless::Malformed(error.to_string()))?;
            self.taken = self.taken.saturating_add(read);
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                    return name.map(|name| Some(name.strip_suffix('.').map_or(name.clone(), str::to_owned))).ok_or(Nameless::NoName);
                }
                Ok(None) if self.taken > MOST => return Err(Nameless::Long),
                Ok(None) if octets.len() == before => return Err(Nameless::Long),
                Ok(None) => {}
                Err((error, _)) => return Err(Nameless::Malformed(error.to_string())),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;

    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let mut client = rustls::ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).expect("a name")).expect("a client");
        let mut octets = Vec::new();
        client.write_tls(&mut octets).expect("a hello");
        octets
    }

    #[test]
    fn the_name_is_found_however_the_octets_come() {
        let whole = hello("Db.Shop.test");
        for size in [1, 7, 500, whole.len()] {
            let mut following = Hello::default();
            let mut found = None;
            for part in whole.chunks(size) {
                assert_eq!(found, None, "told before the end");
                found = following.follow(part).expect("a hello");
            }
            assert_eq!(found.as_deref(), Some("db.shop.test"), "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_hello_with_a_name_is_told() {
        assert_eq!(Hello::default().follow(&hello("192.0.2.1")), Err(Nameless::NoName));
        assert!(matches!(Hello::default().follow(b"GET / HTTP/1.1\r\n"), Err(Nameless::Malformed(_))));
        assert!(matches!(Hello::default().follow(b"\x16\x03\x01\xff\xff"), Err(Nameless::Malformed(_) | Nameless::Long)));
        // A message that goes on for ever, in records that are good.
        let mut endless = Hello::default();
        let mut ended = endless.follow(b"\x16\x03\x01\x40\x00\x01\x00\xff\xff");
        for _ in 0..64 {
            if ended.is_err() {
                break;
            }
            ended = endless.follow(&[0; 1024]);
        }
        assert!(ended.is_err(), "{ended:?}");
    }
}
