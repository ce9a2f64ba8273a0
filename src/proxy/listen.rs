//! Listening sockets: made all before the first is served, removed when the listener ends.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use socket2::{Domain, SockAddr, SockRef, Type};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket};

use super::passed::{Given, Passed};
use super::plan::{Announcer, Bind};
use super::stream::Socket;
use super::vsock;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u16 = 1024;

/// Where a listener really listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// With the port that the system chose where 0 was asked for.
    Tcp(SocketAddr),
    /// The socket's path.
    Unix(PathBuf),
    /// A vsock port.
    Vsock {
        /// The context id, or `None` for all of this machine's.
        cid: Option<u32>,
        /// The port.
        port: u32,
    },
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Vsock { cid: Some(cid), port } => write!(f, "vsock:{cid}:{port}"),
            Self::Vsock { cid: None, port } => write!(f, "vsock:any:{port}"),
        }
    }
}

impl Address {
    /// Whether those who announce connections can come here; of a socket that was passed, nothing was known before.
    pub(super) fn announced_by(&self, from: &[Announcer]) -> io::Result<()> {
        let come = |announcer: &Announcer| matches!((self, announcer), (Self::Tcp(_), Announcer::Network(_)) | (Self::Unix(_), Announcer::Unix));
        let expected = match self {
            Self::Tcp(_) => "addresses: it is a TCP socket",
            Self::Unix(_) => "[\"unix\"]: it is a Unix socket, whose connections have no address",
            Self::Vsock { .. } => "nothing: who is behind a vsock address is not known",
        };
        if from.iter().all(come) { Ok(()) } else { Err(io::Error::other(format!("proxy_protocol_from takes {expected}"))) }
    }
}

/// A bound socket.
#[derive(Debug)]
pub(super) enum Listening {
    Tcp(TcpListener),
    /// With its file, where we made it.
    Unix(UnixListener, Option<RemovedOnDrop>),
    /// With what it was bound to.
    Vsock(vsock::Listener, Address),
}

/// A Unix socket's file.
#[derive(Debug)]
pub(super) struct RemovedOnDrop(PathBuf);

impl Drop for RemovedOnDrop {
    fn drop(&mut self) {
        // Somebody else may have removed it; a left-over is replaced at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

/// Who connected.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// For the log.
    pub(super) name: String,
    /// What is capped; none for a local application over a Unix socket, and for whoever comes over vsock, most often the one
    /// host there is: the caps of the listener hold.
    pub(super) source: Option<IpAddr>,
    /// Its address and port, and ours.
    pub(super) addresses: Option<(SocketAddr, SocketAddr)>,
    /// The same of the connection itself, whoever is announced by it.
    pub(super) ends: Option<(SocketAddr, SocketAddr)>,
}

impl Listening {
    /// `foreign`: whether connections to addresses of others may come, handed over by the system.
    pub(super) fn bind(place: &Bind, foreign: bool, passed: &mut Passed) -> io::Result<Self> {
        match place {
            Bind::Tcp(address) | Bind::TcpShared(address) => {
                let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                socket.set_reuseaddr(true)?;
                if address.is_ipv6() && address.ip().is_unspecified() {
                    // IPv4 too, whatever the system's default is.
                    SockRef::from(&socket).set_only_v6(false)?;
                }
                if foreign {
                    transparent(&socket, address.is_ipv4())?;
                }
                if matches!(place, Bind::TcpShared(_)) {
                    socket.set_reuseport(true)?;
                }
                socket.bind(*address)?;
                socket.listen(BACKLOG.into()).map(Self::Tcp)
            }
            Bind::Passed { name, here_alone } => match passed.take(name, *here_alone)? {
                Given::Tcp(listener) => TcpListener::from_std(listener).map(Self::Tcp),
                Given::Unix(listener) => Ok(Self::Unix(UnixListener::from_std(listener)?, None)),
            },
            Bind::Unix { path, mode, user, group } => {
                remove_left_over(path)?;
                let (socket, file) = bound(path, *mode)?;
                settle(path, *mode, (*user, *group))?;
                // From here on it can be connected to.
                Ok(Self::Unix(socket.listen(BACKLOG.into())?, Some(file)))
            }
            Bind::Vsock { cid, port } => {
                let listener = vsock::Listener::bind(&vsock::address(*cid, *port), BACKLOG)?;
                Ok(Self::Vsock(listener, Address::Vsock { cid: *cid, port: *port }))
            }
        }
    }

    pub(super) fn address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            Self::Unix(_, Some(file)) => Ok(Address::Unix(file.0.clone())),
            Self::Vsock(_, address) => Ok(address.clone()),
            // An abstract socket has no path.
            Self::Unix(listener, None) => Ok(Address::Unix(listener.local_addr()?.as_pathname().unwrap_or(Path::new("@")).to_owned())),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Socket, Caller)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                let addresses = stream.local_addr().ok().map(|ours| (address, ours));
                Ok((Socket::tcp(stream), Caller { name: address.to_string(), source: Some(address.ip()), addresses, ends: addresses }))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::unix(stream), Caller { name: "unix".to_owned(), source: None, addresses: None, ends: None }))
            }
            Self::Vsock(listener, _) => {
                let (stream, address) = listener.accept().await?;
                let name = address.as_vsock_address().map_or_else(|| "vsock".to_owned(), |(cid, port)| format!("vsock:{cid}:{port}"));
                Ok((Socket::vsock(stream), Caller { name, source: None, addresses: None, ends: None }))
            }
        }
    }
}

/// Lets connections to foreign addresses come.
fn transparent(socket: &TcpSocket, v4: bool) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let set = if v4 { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) };
    set.map_err(|error| {
        let fix = "capture = \"tproxy\" needs CAP_NET_ADMIN in this network's namespace (systemd: AmbientCapabilities=CAP_NET_ADMIN; Kubernetes: \
                   securityContext.capabilities.add NET_ADMIN); capture = \"redirect\" needs none";
        io::Error::new(error.kind(), format!("{error}: {fix}"))
    })
}

/// A socket whose file never had more permission bits than `mode`, whatever the umask is: Linux gives the file the bits of
/// the socket, less the umask.
fn bound(path: &Path, mode: u32) -> io::Result<(UnixSocket, RemovedOnDrop)> {
    let socket = UnixSocket::new_stream()?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    socket.bind(path)?;
    Ok((socket, RemovedOnDrop(path.to_owned())))
}

/// Gives a socket's file its owner and all of its mode, before it listens: until then nobody can connect. No link that
/// somebody puts in its place is followed.
fn settle(path: &Path, mode: u32, (user, group): (Option<u32>, Option<u32>)) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_socket() {
        return Err(io::Error::other("something else is in the socket's place: let nobody else write its folder"));
    }
    if user.is_some() || group.is_some() {
        let (user, group) = (user.map(rustix::fs::Uid::from_raw), group.map(rustix::fs::Gid::from_raw));
        rustix::fs::chownat(&file, "", user, group, AtFlags::EMPTY_PATH).map_err(|error| {
            let fix = "`owner` needs CAP_CHOWN; without it, leave the user out and name a group that this process's user is in";
            io::Error::new(error.kind(), format!("{error}: {fix}"))
        })?;
    }
    if rustix::fs::fstat(&file)?.st_mode & 0o777 != mode {
        // What the umask took away. The link leads to the very file that is open.
        fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Removes a socket that nobody serves; leaves everything else to fail at binding.
fn remove_left_over(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && deserted(path)? { fs::remove_file(path) } else { Ok(()) }
}

/// Whether nobody serves a socket. One whose server stands still is served, and not waited for.
fn deserted(path: &Path) -> io::Result<bool> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket.connect(&SockAddr::unix(path)?).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Under the usual umask a socket's file has 0755 at first: others may read what would be connected to.
    #[tokio::test]
    async fn a_unix_socket_has_never_more_permissions_than_it_should() {
        let folder = tempfile::tempdir().expect("a folder");
        let bits = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
        for mode in [0o600, 0o000, 0o200] {
            let path = folder.path().join(format!("{mode:o}"));
            let (_socket, _file) = bound(&path, mode).expect("bound");
            assert_eq!(bits(&path) & !mode, 0, "{:o} in place of {mode:o}", bits(&path));
        }
        let path = folder.path().join("all");
        let place = Bind::Unix { path: path.clone(), mode: 0o666, user: None, group: None };
        let listening = Listening::bind(&place, false, &mut Passed::default()).expect("bound");
        assert_eq!(bits(&path), 0o666, "the umask takes nothing away");
        drop(listening);
    }

    /// Whoever serves it may stand still, and as many wait for him as the system lets wait.
    #[tokio::test]
    async fn a_socket_whose_server_stands_still_is_left_alone_and_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let (socket, _file) = bound(&path, 0o600).expect("bound");
        let standing = socket.listen(0).expect("it listens");
        let waiting = || {
            let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("set");
            socket.connect(&SockAddr::unix(&path).expect("an address")).map(|()| socket)
        };
        let waiting: Vec<_> = std::iter::from_fn(|| waiting().ok()).collect();
        assert!(!waiting.is_empty());
        let (tell, told) = std::sync::mpsc::channel();
        let at = path.clone();
        std::thread::spawn(move || tell.send(remove_left_over(&at).is_ok()));
        assert_eq!(told.recv_timeout(std::time::Duration::from_secs(20)), Ok(true), "it waits");
        assert!(path.exists(), "it is served");
        drop((waiting, standing));
        remove_left_over(&path).expect("looked at");
        assert!(!path.exists(), "nobody serves it");
    }

    #[tokio::test]
    async fn a_link_in_the_sockets_place_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (victim, path) = (folder.path().join("victim"), folder.path().join("socket"));
        fs::write(&victim, "").expect("a file");
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("a mode");
        std::os::unix::fs::symlink(&victim, &path).expect("a link");
        let error = settle(&path, 0o666, (Some(0), None)).expect_err("a link").to_string();
        assert!(error.contains("something else is in the socket's place"), "{error}");
        assert_eq!(fs::metadata(&victim).expect("a file").permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn nobody_connects_before_mode_and_owner_are_right() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let (socket, _file) = bound(&path, 0o666).expect("bound");
        let refused = std::os::unix::net::UnixStream::connect(&path).expect_err("it does not listen");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        settle(&path, 0o666, (None, None)).expect("settled");
        let _listening = socket.listen(1).expect("it listens");
        std::os::unix::net::UnixStream::connect(&path).expect("now it does");
    }

    #[tokio::test]
    async fn both_families_come_to_one_socket() {
        let any = Bind::Tcp(SocketAddr::new(IpAddr::from([0_u16; 8]), 0));
        let listening = Listening::bind(&any, false, &mut Passed::default()).expect("bound");
        let Address::Tcp(address) = listening.address().expect("an address") else { panic!("TCP") };
        for host in [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16])] {
            let client = std::net::TcpStream::connect(SocketAddr::new(host, address.port())).expect("connected");
            let (_, from) = listening.accept().await.expect("a connection");
            assert_eq!(from.source.map(|source| source.to_canonical()), Some(host), "{client:?}");
        }
    }
}
