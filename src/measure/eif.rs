//! The PCRs of a Nitro enclave image (EIF).
//!
//! | register | over |
//! |---|---|
//! | PCR0 | kernel, command line and every RAM disk |
//! | PCR1 | kernel, command line and the first RAM disk |
//! | PCR2 | the RAM disks behind the first |
//! | PCR8 | the certificate that signed the image, where one did |
//!
//! Each is one extension of zeros: SHA-384 of 48 zero octets and the SHA-384 of the parts. Big-endian header of 548
//! octets, sections each with a header of 12. Source: `aws-nitro-enclaves-image-format`.

use super::{Input, Measured, Unfit, Value};
use crate::crypto::sha384;

const HEADER: usize = 548;
const MAX_SECTIONS: usize = 32;

/// The registers of an image.
///
/// # Errors
/// [`Unfit`] for octets that are no such image, or sections that reach beyond them.
pub fn measure(image: &[u8]) -> Result<Measured, Unfit> {
    let sections = sections(image)?;
    let of = |kind: u16| sections.iter().filter(move |section| section.kind == kind).map(|section| section.data).collect::<Vec<_>>();
    let (kernel, cmdline, disks) = (of(KERNEL), of(CMDLINE), of(RAMDISK));
    let (&[kernel], &[cmdline]) = (kernel.as_slice(), cmdline.as_slice()) else {
        return Err(Unfit::new("image", format!("{} kernels and {} command lines: one of each is wanted", kernel.len(), cmdline.len())));
    };
    let Some((first, others)) = disks.split_first() else { return Err(Unfit::new("image", "no RAM disk")) };
    let mut inputs = vec![Input::file("kernel", kernel), Input::setting("cmdline", String::from_utf8_lossy(cmdline))];
    let names: Vec<String> = (0..disks.len()).map(|at| format!("ramdisk{at}")).collect();
    inputs.extend(names.iter().zip(&disks).map(|(name, disk)| Input::file(name, disk)));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut values = vec![
        Value::new("pcr0", &extended(&[&[kernel, cmdline], disks.as_slice()].concat()), &[&["kernel", "cmdline"], names.as_slice()].concat()),
        Value::new("pcr1", &extended(&[kernel, cmdline, first]), &["kernel", "cmdline", "ramdisk0"]),
        Value::new("pcr2", &extended(others), &names[1..]),
    ];
    if let Some(signature) = of(SIGNATURE).first() {
        let certificate = certificate(signature)?;
        inputs.push(Input::file("certificate", &certificate));
        values.push(Value::new("pcr8", &extended(&[&certificate]), &["certificate"]));
    }
    Ok(Measured { tee: "nitro".to_owned(), inputs, values })
}

const KERNEL: u16 = 1;
const CMDLINE: u16 = 2;
const RAMDISK: u16 = 3;
const SIGNATURE: u16 = 4;

struct Section<'a> {
    kind: u16,
    data: &'a [u8],
}

fn sections(image: &[u8]) -> Result<Vec<Section<'_>>, Unfit> {
    let unfit = |why: String| Unfit::new("image", why);
    let number = |at: usize, length: usize| {
        let octets = image.get(at..at.checked_add(length)?)?;
        Some(octets.iter().fold(0_u64, |sum, octet| sum << 8 | u64::from(*octet)))
    };
    if image.len() < HEADER || !image.starts_with(b".eif") {
        return Err(unfit("does not begin as an EIF (.eif)".to_owned()));
    }
    let version = number(4, 2).unwrap_or_default();
    if !(2..=4).contains(&version) {
        return Err(unfit(format!("EIF version {version}; 2 to 4 are read")));
    }
    let count = number(26, 2).and_then(|count| usize::try_from(count).ok()).filter(|count| *count <= MAX_SECTIONS);
    let count = count.ok_or_else(|| unfit(format!("more than {MAX_SECTIONS} sections")))?;
    let mut sections = Vec::new();
    for at in 0..count {
        let place = (|| {
            let start = usize::try_from(number(28 + 8 * at, 8)?).ok()?;
            let kind = u16::try_from(number(start, 2)?).ok()?;
            let length = usize::try_from(number(start.checked_add(4)?, 8)?).ok()?;
            let data = image.get(start.checked_add(12)?..)?.get(..length)?;
            Some(Section { kind, data })
        })();
        sections.push(place.ok_or_else(|| unfit(format!("section {at} reaches beyond the image")))?);
    }
    Ok(sections)
}

fn extended(parts: &[&[u8]]) -> [u8; 48] {
    sha384(&[&[0; 48], &sha384(parts)])
}

/// The DER certificate in a signature section: CBOR, a list of maps with `signing_certificate`, which holds PEM as a list
/// of numbers or as octets.
fn certificate(section: &[u8]) -> Result<Vec<u8>, Unfit> {
    let unfit = || Unfit::new("image", "its signature section holds no certificate in PEM");
    // The PEM text stands there octet by octet; as CBOR numbers beyond 23 each has 0x18 in front.
    let plain: Vec<u8> = match find(section, b"-----BEGIN CERTIFICATE-----") {
        Some(at) => section.get(at..).unwrap_or_default().to_vec(),
        None => {
            let spaced: Vec<u8> = b"-----BEGIN".iter().flat_map(|octet| [0x18, *octet]).collect();
            let at = find(section, &spaced).ok_or_else(unfit)?;
            let mut octets = section.get(at..).unwrap_or_default().iter();
            let mut text = Vec::new();
            while let Some(octet) = octets.next() {
                match octet {
                    0x18 => text.extend(octets.next()),
                    0..=0x17 => text.push(*octet),
                    _ => break,
                }
            }
            text
        }
    };
    let (pem, _) = x509_parser::pem::Pem::read(std::io::Cursor::new(plain)).map_err(|_| unfit())?;
    Ok(pem.contents)
}

fn find(octets: &[u8], wanted: &[u8]) -> Option<usize> {
    octets.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image of these sections, laid out by the header's definition.
    fn image(sections: &[(u16, &[u8])]) -> Vec<u8> {
        let mut image = vec![0; HEADER];
        image[..4].copy_from_slice(b".eif");
        image[4..6].copy_from_slice(&4_u16.to_be_bytes());
        image[26..28].copy_from_slice(&(sections.len() as u16).to_be_bytes());
        for (at, (kind, data)) in sections.iter().enumerate() {
            let start = image.len() as u64;
            image[28 + 8 * at..36 + 8 * at].copy_from_slice(&start.to_be_bytes());
            image[284 + 8 * at..292 + 8 * at].copy_from_slice(&(data.len() as u64).to_be_bytes());
            image.extend(kind.to_be_bytes());
            image.extend([0, 0]);
            image.extend((data.len() as u64).to_be_bytes());
            image.extend(*data);
        }
        image
    }

    fn value(measured: &Measured, name: &str) -> String {
        measured.values.iter().find(|value| value.name == name).map(|value| value.value.clone()).unwrap_or_default()
    }

    #[test]
    fn each_register_covers_its_sections() {
        let whole = measure(&image(&[(KERNEL, b"k"), (CMDLINE, b"c"), (5, b"metadata"), (RAMDISK, b"one"), (RAMDISK, b"two"), (RAMDISK, b"three")])).unwrap();
        let hex = |text: &[u8]| super::super::hex(&sha384(&[&[0; 48], &sha384(&[text])]));
        assert_eq!(value(&whole, "pcr0"), hex(b"kconetwothree"));
        assert_eq!(value(&whole, "pcr1"), hex(b"kcone"));
        assert_eq!(value(&whole, "pcr2"), hex(b"twothree"));
        assert_eq!(whole.values.len(), 3);
        let other = measure(&image(&[(KERNEL, b"k"), (CMDLINE, b"c"), (RAMDISK, b"one"), (RAMDISK, b"TWO"), (RAMDISK, b"three")])).unwrap();
        let told: Vec<_> = super::super::diff::compare(&whole, &other).values.into_iter().map(|value| (value.name, value.because)).collect();
        assert_eq!(told, [("pcr0".to_owned(), vec!["ramdisk1".to_owned()]), ("pcr2".to_owned(), vec!["ramdisk1".to_owned()])]);
    }

    #[test]
    fn a_section_that_begins_at_the_end_of_all_numbers_is_no_part_of_the_image() {
        for start in [u64::MAX, u64::MAX - 1, u64::MAX - 8, 1 << 40] {
            let mut image = image(&[(KERNEL, b"k"), (CMDLINE, b"c"), (RAMDISK, b"one")]);
            image[28..36].copy_from_slice(&start.to_be_bytes());
            assert!(measure(&image).is_err_and(|unfit| unfit.to_string().contains("reaches beyond")), "{start:#x}");
        }
    }

    #[test]
    fn a_signed_image_has_a_register_for_its_certificate_in_either_spelling() {
        let pem = b"-----BEGIN CERTIFICATE-----\nAQIDBA==\n-----END CERTIFICATE-----\n";
        let spaced: Vec<u8> = pem.iter().flat_map(|octet| if *octet < 24 { vec![*octet] } else { vec![0x18, *octet] }).chain([0x69]).collect();
        for section in [pem.to_vec(), spaced] {
            let section = [b"\x81\xa2\x73signing_certificate\x98".as_slice(), &section].concat();
            let measured = measure(&image(&[(KERNEL, b"k"), (CMDLINE, b"c"), (RAMDISK, b"r"), (SIGNATURE, &section)])).unwrap();
            assert_eq!(value(&measured, "pcr8"), super::super::hex(&extended(&[&[1, 2, 3, 4]])));
        }
    }

    #[test]
    fn what_is_no_image_is_refused_and_nothing_panics() {
        let good = image(&[(KERNEL, b"k"), (CMDLINE, b"c"), (RAMDISK, b"r")]);
        for (bad, said) in [
            (Vec::new(), ".eif"),
            (good[..good.len() - 1].to_vec(), "beyond"),
            (image(&[(KERNEL, b"k"), (RAMDISK, b"r")]), "0 command lines"),
            (image(&[(KERNEL, b"k"), (CMDLINE, b"c")]), "no RAM disk"),
        ] {
            assert!(measure(&bad).unwrap_err().to_string().contains(said), "{said}");
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = measure(&bad);
            }
        }
    }
}
