//! Frames: `type u8 ‖ length u32be ‖ payload`, as TLS application data before any inner byte.

use crate::refusal::{Denied, Finding, Reason};

/// What a frame is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// 0x03, binding claims with the evidence for them.
    Evidence,
    /// 0x01, the client's opening.
    HelloClient,
    /// 0x02, the server's answer.
    HelloServer,
    /// 0x04, a verdict in one of four codes.
    Result,
}

impl Kind {
    /// The name in the protocol.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Evidence => "EVIDENCE",
            Self::HelloClient => "HELLO_C",
            Self::HelloServer => "HELLO_S",
            Self::Result => "RESULT",
        }
    }

    const fn octet(self) -> u8 {
        match self {
            Self::HelloClient => 1,
            Self::HelloServer => 2,
            Self::Evidence => 3,
            Self::Result => 4,
        }
    }

    /// The kind that a frame's first octet says.
    #[must_use]
    pub const fn of_octet(octet: u8) -> Option<Self> {
        match octet {
            1 => Some(Self::HelloClient),
            2 => Some(Self::HelloServer),
            3 => Some(Self::Evidence),
            4 => Some(Self::Result),
            _ => None,
        }
    }

    /// The longest payload, whatever was agreed, in octets.
    const fn most(self) -> usize {
        match self {
            Self::Evidence => MAX_EVIDENCE_FRAME,
            Self::HelloClient | Self::HelloServer => MAX_HELLO,
            Self::Result => MAX_RESULT,
        }
    }
}

/// A HELLO's payload is at most this long.
pub const MAX_HELLO: usize = 4096;

/// An EVIDENCE payload is at most this long, whatever a side allows.
pub const MAX_EVIDENCE_FRAME: usize = crate::evidence::cmw::MAX_COLLECTION;

/// A RESULT's payload is at most this long.
pub const MAX_RESULT: usize = 64;

/// A frame's first octets, read and within bounds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// The payload's length: at most what the kind and the caller allow.
    pub length: usize,
}

impl Header {
    /// How long a header is.
    pub const LENGTH: usize = 5;

    /// Reads the header of a frame of the kind `expected`, or of a RESULT, which may come in any other's place; `limit`
    /// bounds the payload of an EVIDENCE frame.
    ///
    /// # Errors
    /// `exchange_out_of_order` for an unknown type (an application byte, most likely) or another kind, `evidence_size`.
    pub fn read(octets: [u8; Self::LENGTH], expected: Kind, limit: usize) -> Result<Self, Denied> {
        let [kind, length @ ..] = octets;
        let Some(kind) = Kind::of_octet(kind) else {
            let found = format!("octet {kind:#04x}");
            return Finding::new(Reason::ExchangeOutOfOrder, "frame.type", "a frame of the exchange", found)
                .fix("the other side sent application bytes before the verdict: is it a Portcullis of a session tier?")
                .refuse();
        };
        if kind != expected && kind != Kind::Result {
            return out_of_order(expected, kind);
        }
        let most = match kind {
            Kind::Evidence => kind.most().min(limit),
            _ => kind.most(),
        };
        let length = u32::from_be_bytes(length);
        match usize::try_from(length).ok().filter(|length| *length <= most) {
            Some(length) => Ok(Self { kind, length }),
            None => Finding::new(Reason::EvidenceSize, "frame.length", format!("{} of at most {most} octets", kind.name()), length.to_string()).refuse(),
        }
    }
}

/// A frame as it is on the wire.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    kind: Kind,
    octets: Vec<u8>,
}

impl Frame {
    /// A frame around `payload`.
    #[must_use]
    pub fn new(kind: Kind, payload: Vec<u8>) -> Self {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut octets = payload;
        octets.splice(0..0, [kind.octet()].into_iter().chain(length.to_be_bytes()));
        Self { kind, octets }
    }

    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The whole frame, header and payload.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.octets.get(Header::LENGTH..).unwrap_or_default()
    }

    /// The payload of a frame that has to be of this kind.
    ///
    /// # Errors
    /// `exchange_out_of_order` for another kind.
    pub fn expect(&self, kind: Kind) -> Result<&[u8], Denied> {
        if self.kind == kind { Ok(self.payload()) } else { out_of_order(kind, self.kind) }
    }
}

fn out_of_order<T>(expected: Kind, found: Kind) -> Result<T, Denied> {
    Finding::new(Reason::ExchangeOutOfOrder, "frame.type", expected.name(), found.name()).refuse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_bounded_before_anything_is_allocated() {
        let read = |octets, kind, limit| Header::read(octets, kind, limit).map_err(|denied| denied.reason());
        let (hello, evidence) = (Kind::HelloClient, Kind::Evidence);
        assert_eq!(read([1, 0, 0, 0x10, 0], hello, 0), Ok(Header { kind: Kind::HelloClient, length: 4096 }));
        assert_eq!(read([1, 0, 0, 0x10, 1], hello, 0), Err(Reason::EvidenceSize));
        assert_eq!(read([3, 0xff, 0xff, 0xff, 0xff], evidence, usize::MAX), Err(Reason::EvidenceSize));
        assert_eq!(read([3, 0, 0, 1, 0], evidence, 255), Err(Reason::EvidenceSize));
        assert_eq!(read([4, 0, 0, 0, 65], evidence, 1 << 20), Err(Reason::EvidenceSize));
        for octet in (0..=255).filter(|octet| !(1..=4).contains(octet)) {
            assert_eq!(read([octet, 0, 0, 0, 0], hello, 0), Err(Reason::ExchangeOutOfOrder));
        }
        assert_eq!(read([3, 0, 4, 0, 0], hello, 1 << 20), Err(Reason::ExchangeOutOfOrder), "evidence in place of a HELLO is not read");
        assert_eq!(read([4, 0, 0, 0, 3], hello, 0), Ok(Header { kind: Kind::Result, length: 3 }), "a refusal may come at any time");
    }

    #[test]
    fn a_frame_is_type_length_payload() {
        let frame = Frame::new(Kind::Result, vec![0xa1, 1, 0]);
        assert_eq!(frame.octets(), [4, 0, 0, 0, 3, 0xa1, 1, 0]);
        assert_eq!(frame.expect(Kind::Result).ok(), Some([0xa1, 1, 0].as_slice()));
        assert_eq!(frame.expect(Kind::Evidence).map_err(|denied| denied.reason()), Err(Reason::ExchangeOutOfOrder));
    }
}
