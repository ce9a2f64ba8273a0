//! A TPM 2.0 over its command interface: the kernel's resource-managed device, or the socket of a software TPM. Only what
//! attestation needs; no system library (TCG "TPM 2.0 Library", part 3: commands).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Place, Unavailable};
use crate::evidence::tpm::{Attest, Hash, PCR_COUNT, Pcrs, Selection, Signature};

/// The TPM: a resource-managed device, or the socket of a software TPM.
pub const DEVICE: Place = Place("dev/tpmrm0");

/// The longest command or response that is exchanged: the kernel's limit.
const MAX_MESSAGE: usize = 4096;
/// How long a socket may take for one response. The kernel's device has its own limits.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of an NV index is read at a time: every TPM's buffer takes that.
const NV_CHUNK: u16 = 512;
/// The most that is read from one NV index.
const MAX_NV: u16 = 8 * 1024;
/// How often a quote is asked for anew because a register changed meanwhile.
const ATTEMPTS: usize = 5;

const TPM_ST_NO_SESSIONS: u16 = 0x8001;
const TPM_ST_SESSIONS: u16 = 0x8002;
/// TPM_RS_PW: an authorisation by password, here the empty one.
const TPM_RS_PW: u32 = 0x4000_0009;
const TPM_ALG_NULL: u16 = 0x0010;

/// TPM_RH_OWNER: the owner's hierarchy.
pub const OWNER: u32 = 0x4000_0001;
/// TPM_RH_ENDORSEMENT: the maker's hierarchy.
pub const ENDORSEMENT: u32 = 0x4000_000b;

/// The commands that are used, by TPM_CC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Command {
    /// TPM2_CreatePrimary.
    CreatePrimary = 0x0131,
    /// TPM2_FlushContext.
    FlushContext = 0x0165,
    /// TPM2_NV_Read.
    NvRead = 0x014e,
    /// TPM2_NV_ReadPublic.
    NvReadPublic = 0x0169,
    /// TPM2_PCR_Read.
    PcrRead = 0x017e,
    /// TPM2_Quote.
    Quote = 0x0158,
    /// TPM2_ReadPublic.
    ReadPublic = 0x0173,
}

/// A quote with what it is about.
#[derive(Clone, Debug)]
pub struct Quoted {
    /// The TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// The TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// The registers.
    pub pcrs: Pcrs,
}

/// A TPM. One command at a time.
#[derive(Debug)]
pub struct Tpm {
    path: PathBuf,
    line: Mutex<Line>,
}

#[derive(Debug)]
enum Line {
    Device(File),
    Socket(UnixStream),
}

impl Tpm {
    /// The TPM at a device (`/dev/tpmrm0`) or a Unix socket. Asks it nothing.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn open(path: &Path) -> Result<Self, Unavailable> {
        let opened = std::fs::metadata(path).and_then(|metadata| {
            if metadata.file_type().is_socket() {
                let socket = UnixStream::connect(path)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.set_write_timeout(Some(PATIENCE))?;
                return Ok(Line::Socket(socket));
            }
            OpenOptions::new().read(true).write(true).open(path).map(Line::Device)
        });
        match opened {
            Ok(line) => Ok(Self { path: path.to_owned(), line: Mutex::new(line) }),
            Err(error) => Err(unopened(path, &error)),
        }
    }

    /// Runs one command with handles, the empty password for as many of them as `authorised` says, and parameters. Returns
    /// the response's parameters, behind the handle of `CreatePrimary`'s new object.
    ///
    /// # Errors
    /// [`Unavailable`] when the TPM cannot be reached or answers with an error; transient where it says that it is busy.
    pub fn run(&self, command: Command, handles: &[u32], authorised: Authorised, parameters: &[u8]) -> Result<Vec<u8>, Unavailable> {
        self.run_code(command as u32, handles, authorised, parameters).map_err(|failure| self.explain(command, failure))
    }

    /// As [`Tpm::run`], for any TPM_CC.
    ///
    /// # Errors
    /// The line's, or the TPM's own response code.
    pub fn run_code(&self, code: u32, handles: &[u32], authorised: Authorised, parameters: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        handles.iter().for_each(|handle| body.extend(handle.to_be_bytes()));
        let tag = match authorised {
            Authorised::No => TPM_ST_NO_SESSIONS,
            Authorised::FirstHandle => {
                let session: &[u8] = &[0, 0, 1, 0, 0]; // no nonce, continueSession, no password
                body.extend(9_u32.to_be_bytes());
                body.extend(TPM_RS_PW.to_be_bytes());
                body.extend(session);
                TPM_ST_SESSIONS
            }
        };
        body.extend(parameters);
        let length = u32::try_from(body.len() + 10).map_err(|_| Failure::Line(io::ErrorKind::InvalidInput.into()))?;
        let mut message = tag.to_be_bytes().to_vec();
        message.extend(length.to_be_bytes());
        message.extend(code.to_be_bytes());
        message.extend(body);
        let response = self.exchange(&message).map_err(Failure::Line)?;
        let short = || Failure::Line(io::Error::new(io::ErrorKind::UnexpectedEof, "a response that is cut off"));
        let (head, rest) = response.split_first_chunk::<10>().ok_or_else(short)?;
        let [tag_high, tag_low, _, _, _, _, code @ ..] = *head;
        match u32::from_be_bytes(code) {
            0 if u16::from_be_bytes([tag_high, tag_low]) == TPM_ST_SESSIONS => parameters_of(rest, code_has_handle(message.get(6..10))).ok_or_else(short),
            0 => Ok(rest.to_vec()),
            code => Err(Failure::Code(code)),
        }
    }

    fn exchange(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *line {
            Line::Device(device) => exchange_device(device, message),
            Line::Socket(socket) => exchange_socket(socket, message),
        }
    }

    /// The content of an NV index, read with the owner's empty password.
    ///
    /// # Errors
    /// As [`Tpm::run`]; also when it is longer than 8 KiB.
    pub fn nv(&self, index: u32) -> Result<Vec<u8>, Unavailable> {
        let public = self.run(Command::NvReadPublic, &[index], Authorised::No, &[])?;
        // TPM2B_NV_PUBLIC: size, index, name algorithm, attributes, policy, data size.
        let policy = public.get(12..14).and_then(|size| size.try_into().ok()).map(u16::from_be_bytes);
        let at = policy.map(|policy| 14 + usize::from(policy));
        let size = at.and_then(|at| public.get(at..at + 2)?.try_into().ok()).map(u16::from_be_bytes);
        let Some(size) = size.filter(|size| *size <= MAX_NV) else {
            return Err(self.unfit(format!("NV index {index:#x}: a size that is not understood")));
        };
        let mut content = Vec::new();
        while content.len() < usize::from(size) {
            let offset = u16::try_from(content.len()).unwrap_or(size);
            let chunk = NV_CHUNK.min(size - offset);
            let parameters = [chunk.to_be_bytes(), offset.to_be_bytes()].concat();
            let response = self.run(Command::NvRead, &[OWNER, index], Authorised::FirstHandle, &parameters)?;
            let taken = sized(&mut response.as_slice()).filter(|taken| taken.len() == usize::from(chunk));
            content.extend(taken.ok_or_else(|| self.unfit(format!("NV index {index:#x}: fewer octets than asked for")))?);
        }
        Ok(content)
    }

    /// The public area (TPMT_PUBLIC) of a loaded or persistent object.
    ///
    /// # Errors
    /// As [`Tpm::run`].
    pub fn public(&self, handle: u32) -> Result<Vec<u8>, Unavailable> {
        let response = self.run(Command::ReadPublic, &[handle], Authorised::No, &[])?;
        sized(&mut response.as_slice()).ok_or_else(|| self.unfit("TPM2_ReadPublic: a response that is not understood".to_owned()))
    }

    /// Makes the key that `template` (a TPMT_PUBLIC) describes in a hierarchy with an empty password. Returns its handle,
    /// to be given to [`Tpm::flush`].
    ///
    /// # Errors
    /// As [`Tpm::run`].
    pub fn create_primary(&self, hierarchy: u32, template: &[u8]) -> Result<u32, Unavailable> {
        let mut parameters = vec![0, 4, 0, 0, 0, 0]; // TPM2B_SENSITIVE_CREATE: no password, no data
        parameters.extend(u16::try_from(template.len()).unwrap_or(u16::MAX).to_be_bytes());
        parameters.extend(template);
        parameters.extend([0; 6]); // no outside information, no registers
        let response = self.run(Command::CreatePrimary, &[hierarchy], Authorised::FirstHandle, &parameters)?;
        let handle = response.first_chunk().map(|handle| u32::from_be_bytes(*handle));
        handle.ok_or_else(|| self.unfit("TPM2_CreatePrimary: a response that is not understood".to_owned()))
    }

    /// Forgets a loaded object.
    ///
    /// # Errors
    /// As [`Tpm::run`].
    pub fn flush(&self, handle: u32) -> Result<(), Unavailable> {
        self.run(Command::FlushContext, &[], Authorised::No, &handle.to_be_bytes()).map(drop)
    }

    /// The values of a bank's selected registers.
    ///
    /// # Errors
    /// As [`Tpm::run`]; also when the TPM has no such bank.
    pub fn pcrs(&self, wanted: Selection) -> Result<Pcrs, Unavailable> {
        let mut pcrs = Pcrs { bank: wanted.bank, values: std::collections::BTreeMap::new() };
        loop {
            let left: Vec<u8> = wanted.indices().filter(|index| !pcrs.values.contains_key(index)).collect();
            if left.is_empty() {
                return Ok(pcrs);
            }
            let response = self.run(Command::PcrRead, &[], Authorised::No, &selection(Selection::of(wanted.bank, left)))?;
            let before = pcrs.values.len();
            pcrs.values.extend(values(&response, wanted.bank).unwrap_or_default());
            if pcrs.values.len() == before {
                return Err(self.unfit(format!("it has no {} registers", wanted.bank.name())));
            }
        }
    }

    /// A quote of all 24 registers of a bank by `key`, a signing key with a scheme of its own and an empty password.
    ///
    /// # Errors
    /// As [`Tpm::run`]; transient when registers changed each time while they were read.
    pub fn quote(&self, key: u32, extra_data: &[u8], bank: Hash) -> Result<Quoted, Unavailable> {
        let wanted = Selection::of(bank, 0..PCR_COUNT);
        let mut parameters = u16::try_from(extra_data.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        parameters.extend(extra_data);
        parameters.extend(TPM_ALG_NULL.to_be_bytes());
        parameters.extend(selection(wanted));
        for _ in 0..ATTEMPTS {
            let response = self.run(Command::Quote, &[key], Authorised::FirstHandle, &parameters)?;
            let mut rest = response.as_slice();
            let Some(attest) = sized(&mut rest) else {
                return Err(self.unfit("TPM2_Quote: a response that is not understood".to_owned()));
            };
            let pcrs = self.pcrs(wanted)?;
            if about(&attest, rest, &pcrs).map_err(|denied| self.unfit(format!("TPM2_Quote: {denied}")))? {
                return Ok(Quoted { attest, signature: rest.to_vec(), pcrs });
            }
        }
        let why = "its registers change faster than they can be read".to_owned();
        Err(Unavailable { what: self.name(), why, fix: "find what extends registers all the time".to_owned(), transient: true })
    }

    fn name(&self) -> String {
        format!("TPM at {}", self.path.display())
    }

    fn unfit(&self, why: String) -> Unavailable {
        Unavailable { what: self.name(), why, fix: "this TPM is not of the kind that this program knows".to_owned(), transient: false }
    }

    fn explain(&self, command: Command, failure: Failure) -> Unavailable {
        let (why, fix, transient) = match failure {
            Failure::Line(error) => (error.to_string(), "see whether the kernel's log says more", error.kind() == io::ErrorKind::TimedOut),
            // TPM_RC_YIELDED, TPM_RC_TESTING, TPM_RC_RETRY, TPM_RC_NV_RATE, TPM_RC_NV_UNAVAILABLE.
            Failure::Code(code @ (0x908 | 0x90a | 0x922 | 0x920 | 0x923)) => (format!("it is busy (code {code:#x})"), "try again", true),
            // TPM_RC_HANDLE of the first handle, and what NV commands say of an index that is not there.
            Failure::Code(code) if code & 0xbf == 0x8b => (format!("it has no such object (code {code:#x})"), "this is another kind of machine", false),
            Failure::Code(code) => (format!("code {code:#x}"), "the code's meaning stands in the TPM specification, part 2, section 6.6", false),
        };
        Unavailable { what: format!("{}, {command:?}", self.name()), why, fix: fix.to_owned(), transient }
    }
}

/// Which handles of a command are authorised by the empty password.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Authorised {
    /// The first one.
    FirstHandle,
    /// None.
    No,
}

/// Why a command had no answer.
#[derive(Debug)]
pub enum Failure {
    /// The TPM's response code.
    Code(u32),
    /// The device or socket failed.
    Line(io::Error),
}

/// Whether the quote is about these values: registers may change between the two commands.
fn about(attest: &[u8], signature: &[u8], pcrs: &Pcrs) -> Result<bool, crate::refusal::Denied> {
    let quote = Attest::parse(attest)?;
    let (Signature::Ecdsa { hash, .. } | Signature::Rsassa { hash, .. }) = Signature::parse(signature)?;
    let values: Vec<&[u8]> = pcrs.values.values().map(Vec::as_slice).collect();
    Ok(hash.digest(&values).is_some_and(|digest| digest == quote.pcr_digest))
}

fn code_has_handle(code: Option<&[u8]>) -> bool {
    code == Some((Command::CreatePrimary as u32).to_be_bytes().as_slice())
}

/// The parameters of a response with sessions: behind a handle, where the command makes one, stands their length.
fn parameters_of(rest: &[u8], with_handle: bool) -> Option<Vec<u8>> {
    let (handle, rest) = rest.split_at_checked(if with_handle { 4 } else { 0 })?;
    let (length, rest) = rest.split_first_chunk()?;
    let parameters = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some([handle, parameters].concat())
}

/// TPML_PCR_SELECTION of one bank.
fn selection(selection: Selection) -> Vec<u8> {
    let mut out = 1_u32.to_be_bytes().to_vec();
    out.extend(selection.bank.id().to_be_bytes());
    out.push(3);
    out.extend(selection.bitmap);
    out
}

/// The registers of a TPM2_PCR_Read response: as many of those asked for as the TPM gave.
fn values(response: &[u8], bank: Hash) -> Option<Vec<(u8, Vec<u8>)>> {
    let (_counter, rest) = response.split_first_chunk::<4>()?;
    let (head, mut rest) = rest.split_first_chunk::<10>()?;
    let [0, 0, 0, 1, high, low, 3, bitmap @ ..] = *head else { return None };
    if u16::from_be_bytes([high, low]) != bank.id() {
        return None;
    }
    let (_count, more) = rest.split_first_chunk::<4>()?;
    rest = more;
    Selection { bank, bitmap }.indices().map(|index| Some((index, sized(&mut rest).filter(|value| value.len() == bank.size())?))).collect()
}

/// A TPM2B from the front.
fn sized(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let (length, more) = rest.split_first_chunk()?;
    let (taken, more) = more.split_at_checked(u16::from_be_bytes(*length).into())?;
    *rest = more;
    Some(taken.to_vec())
}

/// The device takes a command in one write and gives the response in one read.
fn exchange_device(device: &mut File, message: &[u8]) -> io::Result<Vec<u8>> {
    if device.write(message)? != message.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut response = vec![0; MAX_MESSAGE];
    let length = device.read(&mut response)?;
    response.truncate(length);
    Ok(response)
}

/// On a socket the response says how long it is.
fn exchange_socket(socket: &mut UnixStream, message: &[u8]) -> io::Result<Vec<u8>> {
    socket.write_all(message)?;
    let mut head = [0; 10];
    socket.read_exact(&mut head)?;
    let [_, _, a, b, c, d, ..] = head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if !(head.len()..=MAX_MESSAGE).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a response of an impossible length"));
    }
    let mut response = head.to_vec();
    response.resize(length, 0);
    socket.read_exact(&mut response[head.len()..])?;
    Ok(response)
}

fn unopened(path: &Path, error: &io::Error) -> Unavailable {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "this machine has no TPM, or the kernel no driver for it (CONFIG_TCG_CRB, CONFIG_TCG_TIS)",
        io::ErrorKind::PermissionDenied => "give this user the device's group (often tss), and nobody else who could ask for quotes",
        _ => "see whether another program holds the device; use the resource-managed one (/dev/tpmrm0)",
    };
    Unavailable { what: format!("TPM at {}", path.display()), why: error.to_string(), fix: fix.to_owned(), transient: false }
}
