//! The account at a CA: its key in a file of the operator's folder, for nobody else to read.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use instant_acme::{Account, AccountCredentials, Error, NewAccount};
use zeroize::Zeroizing;

use super::{Authority, Failure, Settings};

/// A file of credentials is not read beyond this.
const MOST: u64 = 64 * 1024;

/// Credentials are shorter: a key and some addresses.
const ROOM: usize = 4096;

/// An account that the CA knows.
#[derive(Clone)]
pub(super) struct Opened(pub(super) Account);

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Opened").field(&self.0.id()).finish()
    }
}

/// The account; made at the CA where there is none yet, once for all listeners.
pub(super) async fn open(authority: &Authority) -> Result<Opened, Failure> {
    let mut known = authority.account.lock().await;
    if let Some(opened) = &*known {
        return Ok(opened.clone());
    }
    let file = file(&authority.settings);
    let opened = match blocking({
        let file = file.clone();
        move || read(&file)
    })
    .await?
    {
        Some(credentials) => {
            let builder = Account::builder_with_http(Box::new(authority.client.clone()));
            Opened(builder.from_credentials(credentials).await.map_err(failed)?)
        }
        None => register(authority, file).await?,
    };
    *known = Some(opened.clone());
    Ok(opened)
}

/// Forgets the account: the CA does not know it any more. The next order makes another.
pub(super) async fn forget(authority: &Authority) -> Result<(), Failure> {
    let mut known = authority.account.lock().await;
    *known = None;
    let file = file(&authority.settings);
    blocking(move || match std::fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unusable(&file, &error)),
        _ => Ok(()),
    })
    .await
}

async fn register(authority: &Authority, file: PathBuf) -> Result<Opened, Failure> {
    // Before the CA has an account whose key could not be kept.
    let there = file.clone();
    blocking(move || try_out(&there).map_err(|error| unusable(&there, &error))).await?;
    let contact: Vec<&str> = authority.settings.contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let builder = Account::builder_with_http(Box::new(authority.client.clone()));
    let (account, credentials) = builder.create(&new, authority.settings.directory.clone(), None).await.map_err(failed)?;
    tracing::info!(target: "acme", event = "registered", account = account.id(), file = %file.display());
    let octets = Zeroizing::new(serde_json::to_vec(&credentials).map_err(|error| Failure::State(error.to_string()))?);
    blocking(move || write(&file, &octets).map_err(|error| unusable(&file, &error))).await?;
    Ok(Opened(account))
}

/// One file for each CA.
fn file(settings: &Settings) -> PathBuf {
    let digest = crate::crypto::sha256(&[settings.directory.as_bytes()]);
    let name = data_encoding::HEXLOWER.encode(digest.get(..8).unwrap_or_default());
    settings.state.join(format!("account-{name}.json"))
}

fn read(path: &Path) -> Result<Option<AccountCredentials>, Failure> {
    let file = match crate::file::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(path, &error)),
    };
    let metadata = file.metadata().map_err(|error| unusable(path, &error))?;
    let own = rustix::process::geteuid().as_raw();
    private(metadata.mode(), metadata.uid(), own).map_err(|why| Failure::State(format!("{} {why}", path.display())))?;
    let mut octets = Zeroizing::new(Vec::new());
    file.take(MOST).read_to_end(&mut octets).map_err(|error| unusable(path, &error))?;
    serde_json::from_slice(&octets).map(Some).map_err(|error| Failure::State(format!("{} is no account: {error}; remove it to get another", path.display())))
}

/// Refuses what others know or may have put there: whoever has the account gets certificates for its names.
fn private(mode: u32, owner: u32, own: u32) -> Result<(), String> {
    if mode & 0o077 != 0 {
        return Err(format!("can be read by others (mode {:o}): chmod 600 it", mode & 0o777));
    }
    if owner != own && owner != 0 {
        return Err(format!("belongs to user {owner}, and this process is user {own}: remove it, and let nobody else write the folder"));
    }
    Ok(())
}

/// Whether an account could be kept here. Nothing may be there yet.
fn try_out(path: &Path) -> io::Result<()> {
    // A full disk takes an empty file.
    write(path, &[0; ROOM])?;
    std::fs::remove_file(path)
}

/// Writes whole or not at all, with mode 0600 from the first octet on.
fn write(path: &Path, octets: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let new = path.with_extension("new");
    // What a process left that was killed here.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(octets)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::State(format!("{}: {error}", path.display()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Failure::State(error.to_string())))
}

/// What an error of the library means for us.
pub(super) fn failed(error: Error) -> Failure {
    match error {
        Error::Api(problem) => Failure::Refused(problem.to_string()),
        Error::Other(why) => Failure::Unreachable(why.to_string()),
        Error::Timeout(_) => Failure::Unreachable(error.to_string()),
        other => Failure::Unusable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Root may read a file that somebody else left in a folder that everybody may write.
    #[test]
    fn an_account_that_somebody_else_put_there_is_not_taken() {
        assert!(private(0o100_600, 1000, 1000).is_ok() && private(0o100_400, 0, 1000).is_ok());
        for own in [0, 1001] {
            assert!(private(0o100_600, 1000, own).is_err_and(|why| why.contains("belongs to user 1000")));
        }
        assert!(private(0o100_604, 1000, 1000).is_err());
    }

    /// Each try would register another account at the CA, and none would be kept.
    #[test]
    fn a_full_disk_is_noticed_before_the_ca_has_an_account() -> io::Result<()> {
        use std::io::BufRead as _;
        use std::process::{Command, Stdio};

        let folder = tempfile::tempdir()?;
        let script = "mount -t tmpfs -o size=8k none \"$1\" && head -c 8192 /dev/zero > \"$1/fill\" && echo full && read -r _";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(folder.path());
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut disk) = started else { return Ok(()) };
        let mut said = String::new();
        if let Some(out) = disk.stdout.take() {
            io::BufReader::new(out).read_line(&mut said)?;
        }
        // Where no namespace may be made, there is no such disk.
        if said == "full\n" {
            let inside = Path::new("/proc").join(disk.id().to_string()).join("root");
            let path = inside.join(folder.path().strip_prefix("/").unwrap_or(folder.path())).join("account-1.json");
            write(&path, b"")?;
            std::fs::remove_file(&path)?;
            assert_eq!(try_out(&path).map_err(|error| error.kind()), Err(io::ErrorKind::StorageFull));
        }
        // It ends with its input.
        drop(disk.stdin.take());
        disk.wait().map(drop)
    }

    #[test]
    fn the_key_is_for_nobody_else() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("deep/account-1.json");
        assert!(matches!(read(&path), Ok(None)));
        for text in ["{}", "{\"a\":1}"] {
            write(&path, text.as_bytes())?;
            assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::metadata(folder.path().join("deep"))?.permissions().mode() & 0o777, 0o700);
        assert!(matches!(read(&path), Err(Failure::State(why)) if why.contains("is no account")));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640))?;
        assert!(matches!(read(&path), Err(Failure::State(why)) if why.contains("chmod 600")));
        Ok(())
    }
}
