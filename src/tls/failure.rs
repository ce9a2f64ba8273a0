//! TLS failures as refusals: which of our codes each of rustls's errors is.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerMisbehaved};

use crate::refusal::{Denied, Finding, Reason};

/// The refusal that a failed handshake amounts to.
pub(super) fn of_handshake(error: &io::Error) -> Denied {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(error) => of_tls(error),
        None => {
            let found = match error.kind() {
                io::ErrorKind::UnexpectedEof => "the peer closed the connection during the handshake".to_owned(),
                _ => error.to_string(),
            };
            handshake(Reason::TlsUnacceptable, "a full TLS 1.3 handshake", found)
        }
    }
}

/// The refusal that a failed handshake of a client amounts to that offered `protocols`.
pub(super) fn of_connecting(error: &io::Error, protocols: &[Vec<u8>]) -> Denied {
    let denied = of_handshake(error);
    if denied.reason() != Reason::AlpnMismatch || protocols != [super::ALPN_TUNNEL] {
        return denied;
    }
    let fix = "write `multiplex = true` at the far listener, which has to be one of protocol tcp, or leave it out at this upstream";
    Finding::new(Reason::AlpnMismatch, "handshake.alpn", "portcullis1/tunnel", "a far end that takes no sessions of many connections").fix(fix).into()
}

/// The refusal that an error of rustls amounts to.
pub(super) fn of_tls(error: &Error) -> Denied {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => match other.0.downcast_ref::<Denied>() {
            Some(denied) => denied.clone(),
            None => handshake(Reason::CertificateInvalid, "an acceptable certificate", error.to_string()),
        },
        Error::InvalidCertificate(CertificateError::BadSignature | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }) => {
            let expected = "a CertificateVerify signature by the leaf's key";
            Finding::new(Reason::PossessionUnproved, "handshake.certificate_verify", expected, error.to_string())
                .fix("the peer presents a certificate whose private key it does not hold: find out who answers at that address")
                .into()
        }
        Error::FailedToGetCurrentTime => {
            let fix = "set this machine's clock or repair its time synchronisation";
            Finding::new(Reason::ClockInvalid, "clock", "a time that can be right", error.to_string()).fix(fix).into()
        }
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => handshake(Reason::CertificateInvalid, "an acceptable certificate", error.to_string()),
        Error::NoApplicationProtocol
        | Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => {
            let fix =
                "point this side at an attested listener of a session tier and of the same `protocol` (tcp or http); `probe` speaks to those of protocol tcp";
            Finding::new(Reason::AlpnMismatch, "handshake.alpn", "a protocol of both sides", "none in common").fix(fix).into()
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            let fix = "the other side does not speak TLS here: an application belongs at a plain listener, and a tls:// target is an attested listener";
            Finding::new(Reason::TlsUnacceptable, "handshake", "a full TLS 1.3 handshake", "bytes that are no TLS").fix(fix).into()
        }
        _ => handshake(Reason::TlsUnacceptable, "a full TLS 1.3 handshake", error.to_string()),
    }
}

fn handshake(reason: Reason, expected: &'static str, found: String) -> Denied {
    Finding::new(reason, "handshake", expected, found).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{OtherError, PeerIncompatible};

    use super::*;

    #[test]
    fn every_failure_has_its_own_code() {
        let reason = |error: Error| of_handshake(&io::Error::new(io::ErrorKind::InvalidData, error)).reason();
        assert_eq!(reason(Error::InvalidCertificate(CertificateError::BadSignature)), Reason::PossessionUnproved);
        assert_eq!(reason(Error::InvalidCertificate(CertificateError::BadEncoding)), Reason::CertificateInvalid);
        assert_eq!(reason(Error::NoApplicationProtocol), Reason::AlpnMismatch);
        assert_eq!(reason(Error::AlertReceived(AlertDescription::NoApplicationProtocol)), Reason::AlpnMismatch);
        assert_eq!(reason(Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol)), Reason::AlpnMismatch);
        assert_eq!(reason(Error::FailedToGetCurrentTime), Reason::ClockInvalid);
        assert_eq!(reason(Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)), Reason::TlsUnacceptable);
        let own: Denied = Finding::new(Reason::EvidenceAmbiguous, "x", "y", "z").into();
        assert_eq!(reason(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(own))))), Reason::EvidenceAmbiguous);
        assert_eq!(of_handshake(&io::ErrorKind::UnexpectedEof.into()).reason(), Reason::TlsUnacceptable);
    }
}
