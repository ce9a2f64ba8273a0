//! Frames and their payloads: no panic, bounds before allocation, and what is read has one encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::session::frame::Header;
use portcullis::session::{Code, EvidenceMessage, Hello};

fuzz_target!(|data: &[u8]| {
    if let Some((header, _)) = data.split_first_chunk::<5>()
        && let Ok(header) = Header::read(*header, 1 << 18)
    {
        assert!(header.length <= 1 << 18);
    }
    if let Ok(hello) = Hello::decode_client(data) {
        assert_eq!(hello.encode(), data);
    }
    if let Ok(hello) = Hello::decode_server(data) {
        assert_eq!(hello.encode(), data);
    }
    if let Ok(message) = EvidenceMessage::decode(data) {
        assert_eq!(message.encode(), data);
    }
    let _ = Code::decode(data);
});
