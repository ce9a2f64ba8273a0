//! Sockets that the process was started with: the socket activation of systemd (`sd_listen_fds(3)`).

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::{fmt, io, process};

use listenfd::ListenFd;
use socket2::SockRef;

/// No unit passes as many.
const MOST: usize = 256;

/// Sockets by name. Whoever passes them has bound them and listens already.
#[derive(Debug, Default)]
pub struct Passed(Vec<(String, Result<Given, String>)>);

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Given {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Why what was passed cannot be used.
#[derive(Debug, Eq, PartialEq)]
pub enum Unfit {
    /// A variable of the environment cannot be read.
    Environment(&'static str),
    /// A socket is no TCP or Unix stream socket that listens.
    Kind(String),
    /// No socket has this name; those that there are.
    Absent(String, String),
    /// A name that several have.
    Ambiguous(String),
    /// A plain listener would be reached from beyond this machine.
    Remote(SocketAddr),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(variable) => write!(f, "the sockets that were passed cannot be told apart: {variable} is not what systemd writes"),
            Self::Kind(why) => write!(f, "{why}: write ListenStream= with a TCP address or a path, and Accept=no, in the .socket unit"),
            Self::Absent(name, there) => {
                write!(f, "no socket of this name was passed ({there}): write FileDescriptorName={name} in a .socket unit of this service, and start that unit")
            }
            Self::Ambiguous(name) => {
                write!(f, "several sockets are called {name}: give each a .socket unit of its own with a FileDescriptorName= of its own")
            }
            Self::Remote(address) => write!(
                f,
                "a plain listener on {address} can be reached from beyond this machine: write ListenStream= with 127.0.0.1, [::1] or a path in the .socket unit, \
                 or certificate = \"attested\"; insecure_remote_listener = true accepts the risk"
            ),
        }
    }
}

impl std::error::Error for Unfit {}

impl Passed {
    /// Takes what the environment, which `read` reads, tells of, where it is told to this process. To be called once, before anything else is
    /// opened: from then on the descriptors are the returned value's.
    ///
    /// # Errors
    /// [`Unfit::Environment`].
    pub fn from_environment(read: impl Fn(&str) -> Option<OsString>) -> Result<Self, Unfit> {
        let ours = read("LISTEN_PID").is_some_and(|pid| *pid == *process::id().to_string());
        let Some(count) = read("LISTEN_FDS").filter(|_| ours) else { return Ok(Self::default()) };
        let count = count.to_str().and_then(|count| count.parse().ok()).filter(|count| *count <= MOST).ok_or(Unfit::Environment("LISTEN_FDS"))?;
        let names = names(read("LISTEN_FDNAMES").map(|names| names.into_string().unwrap_or_default()), count)?;
        let mut passed = ListenFd::from_env();
        Ok(Self(names.into_iter().enumerate().map(|(at, name)| (name, given(&mut passed, at))).collect()))
    }

    /// The socket of this name, for a listener that may be `here_alone`.
    pub(super) fn take(&mut self, name: &str, here_alone: bool) -> io::Result<Given> {
        self.find(name, here_alone).map_err(io::Error::other)
    }

    fn find(&mut self, name: &str, here_alone: bool) -> Result<Given, Unfit> {
        let mut those = self.0.iter().enumerate().filter(|(_, (other, _))| other == name).map(|(at, _)| at);
        let at = match (those.next(), those.next()) {
            (Some(at), None) => at,
            (Some(_), Some(_)) => return Err(Unfit::Ambiguous(name.to_owned())),
            (None, _) => return Err(Unfit::Absent(name.to_owned(), self.left().unwrap_or_else(|| "there is none".to_owned()))),
        };
        let given = self.0.swap_remove(at).1.map_err(Unfit::Kind)?;
        let unusable = |error: io::Error| Unfit::Kind(error.to_string());
        match &given {
            Given::Tcp(listener) => {
                let address = listener.local_addr().map_err(unusable)?;
                if here_alone && !address.ip().to_canonical().is_loopback() {
                    return Err(Unfit::Remote(address));
                }
                listener.set_nonblocking(true).map_err(unusable)?;
            }
            Given::Unix(listener) => listener.set_nonblocking(true).map_err(unusable)?,
        }
        Ok(given)
    }

    /// The names of those that were not taken.
    pub(super) fn left(&self) -> Option<String> {
        let names: Vec<_> = self.0.iter().map(|(name, _)| format!("{name:?}")).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

/// One name for each socket; without names systemd's own library calls all of them `unknown`.
fn names(written: Option<String>, count: usize) -> Result<Vec<String>, Unfit> {
    let names = match written {
        Some(written) if count > 0 => written.split(':').map(str::to_owned).collect(),
        _ => vec!["unknown".to_owned(); count],
    };
    if names.len() == count { Ok(names) } else { Err(Unfit::Environment("LISTEN_FDNAMES")) }
}

fn given(passed: &mut ListenFd, at: usize) -> Result<Given, String> {
    let missing = || "there is no such descriptor".to_owned();
    let given = match passed.take_tcp_listener(at) {
        Ok(found) => Given::Tcp(found.ok_or_else(missing)?),
        Err(_) => match passed.take_unix_listener(at) {
            Ok(found) => Given::Unix(found.ok_or_else(missing)?),
            Err(_) => return Err("it is neither a TCP nor a Unix stream socket".to_owned()),
        },
    };
    let listens = match &given {
        Given::Tcp(listener) => SockRef::from(listener).is_listener(),
        Given::Unix(listener) => SockRef::from(listener).is_listener(),
    };
    if listens.unwrap_or(false) { Ok(given) } else { Err("it is a connection, or does not listen".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_name_for_each_socket_or_none_is_taken() {
        let named = |names: &str, count| names_of(Some(names), count);
        assert_eq!(named("a:b", 2), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(names_of(None, 2), Ok(vec!["unknown".to_owned(); 2]));
        assert_eq!(named("", 0), Ok(Vec::new()));
        for (names, count) in [("a", 2), ("a:b", 1), ("", 2)] {
            assert_eq!(named(names, count), Err(Unfit::Environment("LISTEN_FDNAMES")), "{names} {count}");
        }
    }

    fn names_of(written: Option<&str>, count: usize) -> Result<Vec<String>, Unfit> {
        names(written.map(str::to_owned), count)
    }
}
