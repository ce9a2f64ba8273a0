//! `portcullis measure`: against the calculator that others use for SEV-SNP (`sev-snp-measure`, in Python), against the
//! event logs of real TDX machines, and what changes a value.
#![cfg(feature = "cli")]

#[path = "support/program.rs"]
mod program;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use data_encoding::HEXLOWER;
use portcullis::crypto::sha384;
use portcullis::measure::snp::{Direct, Hypervisor, Launch, VCPU_TYPES, signature};
use portcullis::measure::tdx::Order;
use portcullis::measure::{snp, tdx};
use program::Desk;
use serde_json::{Value, json};

/// What a made-up firmware image says of itself.
#[derive(Clone, Copy)]
struct Image {
    pages: usize,
    /// SEV sections: address, length, kind.
    sections: &'static [[u32; 3]],
    /// Where it looks for the kernel's hash; 0 for nowhere.
    hashes: u32,
}

const PLAIN: Image =
    Image { pages: 32, sections: &[[0x80_0000, 0x9000, 1], [0x80_a000, 0x1000, 2], [0x80_b000, 0x1000, 3], [0x80_c000, 0x3000, 1]], hashes: 0 };
const HASHING: Image = Image {
    pages: 16,
    sections: &[[0x80_0000, 0x9000, 1], [0x80_b000, 0x1000, 3], [0x80_a000, 0x1000, 2], [0x80_d000, 0x1000, 4], [0x81_0000, 0x1000, 0x10]],
    hashes: 0x81_0c00,
};

/// An image with the tables at its end, other octets everywhere else.
fn firmware(image: Image, seed: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..image.pages * 4096).map(|at| ((at as u64 * 2_654_435_761) >> 13) as u8 ^ seed).collect();
    let end = bytes.len();
    let mut sev = b"ASEV".to_vec();
    sev.extend((16 + 12 * image.sections.len() as u32).to_le_bytes());
    sev.extend([1, image.sections.len() as u32].map(u32::to_le_bytes).concat());
    sev.extend(image.sections.iter().flatten().flat_map(|number| number.to_le_bytes()));
    bytes[end - 2048..end - 2048 + sev.len()].copy_from_slice(&sev);
    // The code volume, measured, and memory, only added.
    let mut tdx = b"TDVF".to_vec();
    tdx.extend([16 + 64, 1, 2].map(u32::to_le_bytes).concat());
    for (offset, raw, address, size, kind, attributes) in [(0x1000_u32, 0x2000_u32, 0xffff_1000_u64, 0x3000_u64, 0_u32, 1_u32), (0, 0, 0x80_9000, 0x2000, 3, 0)]
    {
        tdx.extend([offset, raw].map(u32::to_le_bytes).concat());
        tdx.extend([address, size].map(u64::to_le_bytes).concat());
        tdx.extend([kind, attributes].map(u32::to_le_bytes).concat());
    }
    bytes[end - 1024..end - 1024 + tdx.len()].copy_from_slice(&tdx);
    let entry = |data: &[u8], name: &str| [data, &(data.len() as u16 + 18).to_le_bytes(), &guid(name)].concat();
    let mut table = entry(&2048_u32.to_le_bytes(), "dc886566-984a-4798-a75e-5585a7bf67cc");
    table.extend(entry(&1024_u32.to_le_bytes(), "e47a6535-984a-4798-865e-4685a7bf8ec2"));
    table.extend(entry(&0x80_b004_u32.to_le_bytes(), "00f771de-1a7e-4fcb-890e-68c77e2fb44e"));
    table.extend(entry(&[image.hashes, 0x400].map(u32::to_le_bytes).concat(), "7255371f-3a3b-4b04-927b-1da6efa8d454"));
    table.extend((table.len() as u16 + 18).to_le_bytes());
    table.extend(guid("96b582de-1fb2-45f7-baea-a366c55a082d"));
    bytes[end - 32 - table.len()..end - 32].copy_from_slice(&table);
    bytes
}

fn guid(text: &str) -> Vec<u8> {
    let octets = HEXLOWER.decode(text.replace('-', "").as_bytes()).expect("hex");
    [&[octets[3], octets[2], octets[1], octets[0], octets[5], octets[4], octets[7], octets[6]], &octets[8..]].concat()
}

fn measurement(launch: &Launch<'_>) -> String {
    snp::measure(launch).unwrap_or_else(|error| panic!("{error}")).values[0].value.clone()
}

#[test]
fn sev_snp_measure_comes_to_the_same_digests() {
    let desk = Desk::new();
    let kernel = vec![0x5a; 70_000];
    desk.write("kernel", &kernel);
    desk.write("initrd", b"a RAM disk");
    let (mut asked, mut ours) = (Vec::new(), Vec::new());
    for (at, (image, direct)) in [
        (PLAIN, None),
        (HASHING, None),
        (HASHING, Some(Direct { kernel: &kernel, initrd: b"a RAM disk", cmdline: "console=ttyS0 root=/dev/vda" })),
        (HASHING, Some(Direct { kernel: &kernel, initrd: b"", cmdline: "" })),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = firmware(image, at as u8);
        desk.write(&format!("ovmf{at}"), &bytes);
        for (name, hypervisor) in Hypervisor::ALL {
            for (vcpus, (model, numbers), features) in [(1, VCPU_TYPES[0], 1), (4, VCPU_TYPES[10], 0x21), (3, VCPU_TYPES[15], 1), (2, VCPU_TYPES[7], 0x81)] {
                let launch = Launch { firmware: &bytes, direct: direct.clone(), vcpus, vcpu_signature: signature(numbers), hypervisor, features };
                ours.push(measurement(&launch));
                asked.push(json!({
                    "ovmf": desk.path(&format!("ovmf{at}")), "vcpus": vcpus, "model": model, "features": features, "vmm": if name == "qemu" { "QEMU" } else { name },
                    "kernel": direct.as_ref().map(|_| desk.path("kernel")), "initrd": direct.as_ref().filter(|direct| !direct.initrd.is_empty()).map(|_| desk.path("initrd")),
                    "append": direct.as_ref().map(|direct| direct.cmdline),
                }));
            }
        }
    }
    let distinct: std::collections::BTreeSet<_> = ours.iter().collect();
    assert_eq!(distinct.len(), ours.len(), "each of these launches is another");
    let Some(theirs) = second_opinion(&Value::from(asked)) else { return };
    assert_eq!(theirs, ours);
}

/// What the Python package says; `None` where it is not installed, which is said.
fn second_opinion(asked: &Value) -> Option<Vec<String>> {
    const ASK: &str = "
import json, sys
from sevsnpmeasure import guest, vcpu_types, vmm_types
for q in json.load(sys.stdin):
    print(guest.snp_calc_launch_digest(q['vcpus'], vcpu_types.CPU_SIGS[q['model']], q['ovmf'], q['kernel'], q['initrd'], q['append'],
        q['features'], '', vmm_types.VMMType[q['vmm']]).hex())
";
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/tools/sev-snp-measure");
    let mut python =
        Command::new("python3").env("PYTHONPATH", tools).args(["-c", ASK]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()?;
    let _ = python.stdin.take().expect("a pipe").write_all(asked.to_string().as_bytes());
    let output = python.wait_with_output().expect("python ends");
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("No module named 'sevsnpmeasure'") {
        println!("SKIPPED: sev-snp-measure is not installed (tests/run installs it): the SNP launch digest has no second opinion");
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

#[test]
fn firmware_that_would_boot_any_kernel_is_refused() {
    let direct = Some(Direct { kernel: b"k", initrd: b"", cmdline: "" });
    let good = firmware(HASHING, 0);
    let refused = |firmware: &[u8], vcpus| {
        let launch = Launch { firmware, direct: direct.clone(), vcpus, vcpu_signature: 0, hypervisor: Hypervisor::Qemu, features: 1 };
        snp::measure(&launch).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(refused(&good, 1), Ok(()));
    let said = |firmware: &[u8], vcpus, words: &str| assert!(refused(firmware, vcpus).unwrap_err().contains(words), "{words}");
    said(&firmware(PLAIN, 0), 1, "no place for the kernel's hash");
    said(&firmware(Image { hashes: 0, ..HASHING }, 0), 1, "where it looks for the kernel's hash");
    said(&firmware(Image { hashes: 0x81_0fff, ..HASHING }, 0), 1, "across two pages");
    said(&firmware(Image { sections: &[[0, 0x1000, 9]], ..HASHING }, 0), 1, "unknown kind");
    said(&good, 0, "from 1 to");
    said(&good[1..], 1, "whole pages");
    said(&[7; 8192], 1, "no table of GUIDs");
    // Every octet of the tables, wrong in turn: an answer or a refusal, never a panic.
    let tables = good.len() - 2048;
    for at in tables..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        let _ = (refused(&bad, 2), tdx::measure(&bad, Order::PageByPage, None));
    }
}

/// MRTD by the letter of the TDX module's specification, written out for the made-up image.
#[test]
fn the_firmwares_sections_make_mr_td() {
    let bytes = firmware(PLAIN, 3);
    let block = |what: &str, address: u64| {
        let mut block = what.as_bytes().to_vec();
        block.resize(16, 0);
        block.extend(address.to_le_bytes());
        block.resize(128, 0);
        block
    };
    let mut content = bytes[0x1000..0x3000].to_vec();
    content.resize(0x3000, 0);
    let pages = || (0..3).map(|page| 0xffff_1000 + page * 4096);
    let extended = |address: u64| {
        let at = (address - 0xffff_1000) as usize;
        (0..16)
            .flat_map(|chunk| [block("MR.EXTEND", address + chunk * 256), content[at + chunk as usize * 256..][..256].to_vec()].concat())
            .collect::<Vec<u8>>()
    };
    let memory = [block("MEM.PAGE.ADD", 0x80_9000), block("MEM.PAGE.ADD", 0x80_a000)].concat();
    let by_page: Vec<u8> = pages().flat_map(|address| [block("MEM.PAGE.ADD", address), extended(address)].concat()).collect();
    let by_section = [pages().flat_map(|address| block("MEM.PAGE.ADD", address)).collect::<Vec<_>>(), pages().flat_map(extended).collect()].concat();
    for (order, code) in [(Order::PageByPage, by_page), (Order::SectionBySection, by_section)] {
        let measured = tdx::measure(&bytes, order, None).expect("TDX firmware");
        assert_eq!(measured.values[0].value, HEXLOWER.encode(&sha384(&[&code, &memory])), "{order:?}");
    }
    assert!(tdx::measure(&firmware(PLAIN, 3)[4096..], Order::PageByPage, None).is_ok_and(|other| other.values[0].value.len() == 96));
}

/// A kernel as far as its digest looks, with a signature behind it.
fn kernel(checksum: u32, signed: bool) -> Vec<u8> {
    let mut program = vec![0x33; 2048];
    program[..2].copy_from_slice(b"MZ");
    program[0x3c..0x40].copy_from_slice(&0x80_u32.to_le_bytes());
    program[0x80..0x84].copy_from_slice(b"PE\0\0");
    program[0x98..0x9a].copy_from_slice(&0x20b_u16.to_le_bytes());
    program[0x98 + 64..0x98 + 68].copy_from_slice(&checksum.to_le_bytes());
    let directory = if signed { [2048_u32, 64] } else { [0, 0] };
    program[0x98 + 144..0x98 + 152].copy_from_slice(&directory.map(u32::to_le_bytes).concat());
    program.extend(vec![0x77; if signed { 64 } else { 0 }]);
    program
}

#[test]
fn a_directly_booted_kernel_makes_rtmr_1_and_2() {
    let bytes = firmware(PLAIN, 0);
    let measured = |kernel: &[u8], initrd: &[u8], cmdline: &str| {
        let direct = Direct { kernel, initrd, cmdline };
        tdx::measure(&bytes, Order::PageByPage, Some(&direct))
            .map(|measured| [1, 2].map(|at| measured.values[at].value.clone()))
            .map_err(|error| error.to_string())
    };
    let plain = measured(&kernel(0, false), b"disk", "quiet").expect("a kernel");
    assert_eq!(measured(&kernel(7, true), b"disk", "quiet").expect("a kernel"), plain, "checksum and signature are no part of the program");
    let extend = |register: [u8; 48], event: &[u8]| sha384(&[&register, &sha384(&[event])]);
    let cmdline: Vec<u8> = "quiet initrd=initrd\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(plain[1], HEXLOWER.encode(&extend(extend([0; 48], &cmdline), b"disk")));
    let alone: Vec<u8> = "quiet\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(measured(&kernel(0, false), b"", "quiet").expect("a kernel")[1], HEXLOWER.encode(&extend([0; 48], &alone)));
    for cut in [0, 1, 0x40, 0x90, 0x12f] {
        assert!(measured(&kernel(0, false)[..cut], b"", "").unwrap_err().contains("not an EFI program"), "{cut}");
    }
}

/// Two real machines that booted a kernel directly: the events behind the kernel's own are those that are replayed here,
/// and RTMR1 follows from the kernel's digest by them.
#[test]
fn the_event_logs_of_real_machines_have_these_events() {
    let vectors = std::env::var_os("PORTCULLIS_VECTORS").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"), Into::into);
    let mut seen = 0;
    for name in ["dstack/tdx-quote-report/get_quote.json", "dstack/near-mpc-node-app-compose/dstack_tcb_info.json"] {
        let Ok(text) = std::fs::read(vectors.join(name)) else {
            println!("SKIPPED: no {name}");
            continue;
        };
        let document: Value = serde_json::from_slice(&text).expect("JSON");
        let log = match &document["event_log"] {
            Value::String(text) => serde_json::from_str(text).expect("JSON in JSON"),
            other => other.clone(),
        };
        let of = |imr: u64| {
            log.as_array().expect("a log").iter().filter(move |event| event["imr"] == imr).map(|event| event["digest"].as_str().expect("hex").to_owned())
        };
        let told: Vec<_> = of(1).skip(1).collect();
        let ours =
            [b"Calling EFI Application from Boot Option".as_slice(), &[0; 4], b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success"];
        assert_eq!(told, ours.map(|event| HEXLOWER.encode(&sha384(&[event]))), "{name}");
        assert_eq!(of(2).count(), 2, "{name}: command line and RAM disk");
        seen += 1;
    }
    println!("{seen} logs of real machines");
}

#[test]
fn the_command_says_the_values_and_which_input_changed_one() {
    let desk = Desk::new();
    desk.write("ovmf", firmware(HASHING, 0));
    desk.write("kernel", b"one");
    desk.write("other", b"two");
    let words = "measure snp --ovmf ovmf --vcpus 2 --vcpu-type EPYC-v4 --append quiet --json";
    for (file, kernel) in [("a.json", "kernel"), ("b.json", "other")] {
        let run = desk.run(&format!("{words} --kernel {kernel}"));
        assert_eq!(run.code, 0, "{}", run.shown());
        desk.write(file, &run.stdout);
    }
    let shown = desk.run("measure snp --ovmf ovmf --vcpus 2 --vcpu-type EPYC-v4");
    assert!(shown.code == 0 && shown.stdout.contains("from firmware, vcpus, vcpu_signature"), "{}", shown.shown());
    let same = desk.run("measure diff a.json a.json");
    assert!(same.code == 0 && same.stdout.contains("the same values"), "{}", same.shown());
    let other = desk.run("measure diff a.json b.json");
    assert!(other.code == 1 && other.stdout.starts_with("measurement changed by kernel\n"), "{}", other.shown());
    let document = desk.run("measure diff a.json b.json --json").json();
    assert_eq!(document["values"]["measurement"]["because"], json!(["kernel"]));
    for (words, said) in [
        ("measure snp --ovmf ovmf --vcpus 2", "--vcpu-type"),
        ("measure snp --ovmf kernel --vcpus 2 --vcpu-type EPYC", "firmware: not whole pages"),
        ("measure nitro kernel", "image: does not begin as an EIF"),
        ("measure diff a.json kernel", "not a result of"),
        ("measure tdx --firmware ovmf --kernel kernel", "not an EFI program"),
    ] {
        let run = desk.run(words);
        assert!(run.code == 2 && run.stderr.contains(said), "{words}: {}", run.shown());
    }
}
