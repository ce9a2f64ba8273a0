//! An event log, line by line, for people and programs.

use serde_json::Value;

use crate::evidence::eventlog::{Event, Log, NO_ACTION};
use crate::evidence::tpm::Hash;

/// A longer log is shown in part: an ordinary boot logs some hundreds of events.
const MOST_EVENTS: usize = 512;

/// So much of an event's data is shown.
const MOST_DATA: usize = 48;

/// The fields of a log: what its registers come to, and its events in order.
pub(super) fn fields(log: &Log) -> Vec<(String, Value)> {
    let mut fields: Vec<(String, Value)> = Vec::new();
    let Some(bank) = strongest(log) else { return vec![("events".to_owned(), log.events.len().into())] };
    fields.push(("bank".to_owned(), bank.name().into()));
    if let Ok(registers) = log.replay(bank) {
        fields.extend(registers.iter().map(|(register, value)| (format!("register {register} replayed"), hex(value).into())));
    }
    fields.push(("events".to_owned(), log.events.len().into()));
    fields.extend(log.events.iter().take(MOST_EVENTS).enumerate().map(|(at, event)| (format!("event {at}"), line(event, bank).into())));
    if let Some(left) = log.events.len().checked_sub(MOST_EVENTS).filter(|left| *left > 0) {
        fields.push(("not shown".to_owned(), left.into()));
    }
    fields
}

fn strongest(log: &Log) -> Option<Hash> {
    let has = |hash: &Hash| log.algorithms.iter().any(|(id, _)| *id == hash.id());
    Hash::ALL.into_iter().rev().find(has)
}

fn line(event: &Event, bank: Hash) -> String {
    let digest = match event.digest(bank) {
        Some(digest) if event.kind != NO_ACTION => format!(" {}", hex(digest)),
        _ => String::new(),
    };
    format!("register {} {}{digest} {}", event.register, kind(event.kind), data(&event.data))
}

/// Text as text, all else as the hex of its beginning.
fn data(octets: &[u8]) -> String {
    let text = octets.strip_suffix(b"\0").unwrap_or(octets);
    let readable = !text.is_empty() && text.iter().all(|octet| (b' '..=b'~').contains(octet));
    let whole = if readable { text } else { octets };
    let shown = whole.get(..MOST_DATA).unwrap_or(whole);
    let rest = if whole.len() > shown.len() { format!("… ({} octets)", octets.len()) } else { String::new() };
    if readable { format!("\"{}\"{rest}", String::from_utf8_lossy(shown)) } else { format!("0x{}{rest}", hex(shown)) }
}

/// The type's name in the TCG's "PC Client Platform Firmware Profile", section 10.4.1.
fn kind(kind: u32) -> String {
    let known = KINDS.iter().find(|(number, _)| *number == kind);
    known.map_or_else(|| format!("type {kind:#x}"), |(_, name)| (*name).to_owned())
}

const KINDS: [(u32, &str); 35] = [
    (0x0, "EV_PREBOOT_CERT"),
    (0x1, "EV_POST_CODE"),
    (0x3, "EV_NO_ACTION"),
    (0x4, "EV_SEPARATOR"),
    (0x5, "EV_ACTION"),
    (0x6, "EV_EVENT_TAG"),
    (0x7, "EV_S_CRTM_CONTENTS"),
    (0x8, "EV_S_CRTM_VERSION"),
    (0x9, "EV_CPU_MICROCODE"),
    (0xa, "EV_PLATFORM_CONFIG_FLAGS"),
    (0xb, "EV_TABLE_OF_DEVICES"),
    (0xc, "EV_COMPACT_HASH"),
    (0xd, "EV_IPL"),
    (0xe, "EV_IPL_PARTITION_DATA"),
    (0xf, "EV_NONHOST_CODE"),
    (0x10, "EV_NONHOST_CONFIG"),
    (0x11, "EV_NONHOST_INFO"),
    (0x12, "EV_OMIT_BOOT_DEVICE_EVENTS"),
    (0x13, "EV_POST_CODE2"),
    (0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG"),
    (0x8000_0002, "EV_EFI_VARIABLE_BOOT"),
    (0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION"),
    (0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER"),
    (0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER"),
    (0x8000_0006, "EV_EFI_GPT_EVENT"),
    (0x8000_0007, "EV_EFI_ACTION"),
    (0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB"),
    (0x8000_0009, "EV_EFI_HANDOFF_TABLES"),
    (0x8000_000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2"),
    (0x8000_000b, "EV_EFI_HANDOFF_TABLES2"),
    (0x8000_000c, "EV_EFI_VARIABLE_BOOT2"),
    (0x8000_000d, "EV_EFI_GPT_EVENT2"),
    (0x8000_0010, "EV_EFI_HCRTM_EVENT"),
    (0x8000_00e0, "EV_EFI_VARIABLE_AUTHORITY"),
    (0x8000_00e1, "EV_EFI_SPDM_FIRMWARE_BLOB"),
];

fn hex(octets: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_shown_in_part_and_its_data_escaped() {
        let mut log = Log::empty(&[Hash::Sha1, Hash::Sha384]);
        let digests = vec![(Hash::Sha1.id(), vec![0; 20]), (Hash::Sha384.id(), vec![1; 48])];
        for data in [b"grub_cmd: ls\0".to_vec(), b"\x1b[31mred".to_vec(), vec![b'a'; 4000], Vec::new()] {
            log.events.push(Event { register: 2, kind: 0xd, digests: digests.clone(), data });
        }
        log.events.extend(std::iter::repeat_n(Event { register: 9, kind: 0xdead, digests, data: vec![0] }, MOST_EVENTS));
        let fields = fields(&log);
        let of = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.to_string()).unwrap_or_default();
        assert!(of("event 0").contains("register 2 EV_IPL 0101") && of("event 0").contains("grub_cmd: ls"), "{}", of("event 0"));
        assert!(of("event 1").ends_with("0x1b5b33316d726564\""), "{}", of("event 1"));
        assert!(of("event 2").contains("… (4000 octets)") && of("event 2").len() < 256);
        assert!(of("event 4").contains("type 0xdead") && of("event 4").ends_with(" 0x00\""), "{}", of("event 4"));
        assert_eq!((of("bank"), of("events"), of("not shown")), ("\"sha384\"".to_owned(), "516".to_owned(), "4".to_owned()));
        assert_eq!(fields.len(), 1 + 2 + 1 + MOST_EVENTS + 1);
    }
}
