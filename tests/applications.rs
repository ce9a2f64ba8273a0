//! Applications of others between two sidecars, by their own clients: PostgreSQL (`psql`, `pgbench`) and Redis
//! (`redis-benchmark`) as bytes, each connection in a session of its own or many in one, and an S3 server (boto3) as HTTP.
#![cfg(all(feature = "cli", feature = "simulator"))]

#[path = "support/peers.rs"]
mod peers;
#[path = "support/web.rs"]
mod web;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portcullis::app::App;
use web::{Pair, Setup, desk, sidecar};

/// Both sides prove themselves; bytes go through.
struct Way {
    entrance: SocketAddr,
    server: App,
    client: App,
    _desk: tempfile::TempDir,
}

impl Way {
    async fn to(application: &str, shared: bool) -> Self {
        let desk = desk();
        let any = format!("insecure_allow_any_genuine_platform = true\nmultiplex = {shared}\n");
        let server = format!(
            "[[upstream]]\nname = \"app\"\ntargets = [\"{application}\"]\n[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:0\"\ncertificate = \"attested\"\n\
             clients = \"attested\"\npolicy = \"mesh\"\nupstream = \"app\"\n{any}"
        );
        let server = sidecar(&desk, &server).await;
        let attested = server.tcp_address("in").expect("an address");
        let client = format!(
            "[[upstream]]\nname = \"far\"\ntargets = [\"tls://{attested}\"]\nserver_name = \"far.test\"\nattested = {{ policy = \"mesh\", freshness = \"session-mutual\" }}\n{any}\
             [[listener]]\nname = \"out\"\nbind = \"127.0.0.1:0\"\nupstream = \"far\"\n"
        );
        let client = sidecar(&desk, &client).await;
        let entrance = client.tcp_address("out").expect("an address");
        Self { entrance, server, client, _desk: desk }
    }

    /// Attested handshakes at the far end.
    fn handshakes(&self) -> u64 {
        let metrics = self.server.metrics().text();
        let count = metrics.lines().find(|line| line.starts_with("portcullis_handshakes_total{listener=\"in\"") && line.contains("result=\"ok\""));
        count.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }

    async fn end(self) {
        let (client, server) = tokio::join!(self.client.drain(), self.server.drain());
        assert_eq!((client.cut, server.cut), (0, 0), "connections had to be cut");
    }
}

/// Runs a program that has to end well; gives what it printed.
async fn ran(mut command: Command) -> String {
    command.stdin(Stdio::null());
    let shown = format!("{command:?}");
    let run = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").unwrap_or_else(|error| panic!("{shown}: {error}"));
    let (out, errors) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{shown}: {out}{errors}");
    format!("{out}{errors}")
}

/// A PostgreSQL of the test's own, in a folder, on a Unix socket alone.
struct Postgres {
    folder: tempfile::TempDir,
    programs: PathBuf,
}

impl Postgres {
    async fn start() -> Option<Self> {
        peers::installed("pgbench")?;
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|version| Some(version.ok()?.path().join("bin")));
        let programs = versions.filter(|programs| programs.join("initdb").is_file()).max()?;
        let postgres = Self { folder: tempfile::tempdir().expect("a folder"), programs };
        let place = postgres.folder.path();
        if Self::is_root() {
            let mut owner = Command::new("chown");
            owner.arg("postgres").arg(place);
            ran(owner).await;
        }
        let data = place.join("data");
        ran(postgres.program("initdb", &["-D", &shown(&data), "-U", "tester", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"])).await;
        let options = format!("-c listen_addresses='' -c unix_socket_directories='{}' -c fsync=off -c max_connections=50", place.display());
        let log = shown(&place.join("log"));
        ran(postgres.program("pg_ctl", &["-D", &shown(&data), "-l", &log, "-w", "-o", &options, "start"])).await;
        Some(postgres)
    }

    fn is_root() -> bool {
        std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
    }

    /// Its server refuses to run as root.
    fn program(&self, name: &str, arguments: &[&str]) -> Command {
        let program = self.programs.join(name);
        let mut command = if Self::is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        // `pg_ctl` leaves the server its own output.
        command.args(arguments).current_dir("/").stdout(Stdio::null());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.program("pg_ctl", &["-D", &shown(&self.folder.path().join("data")), "-m", "immediate", "stop"]).stdin(Stdio::null()).status();
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A client of PostgreSQL that speaks to the near sidecar.
fn asks(program: &str, way: &Way, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "127.0.0.1", "-p", &way.entrance.port().to_string(), "-U", "tester"]).args(arguments);
    command.env("PGSSLMODE", "disable").env("PGDATABASE", "postgres");
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_reached_by_psql_and_pgbench() {
    let Some(postgres) = Postgres::start().await else { return };
    let socket = format!("unix:{}", postgres.folder.path().join(".s.PGSQL.5432").display());
    for shared in [false, true] {
        let way = Way::to(&socket, shared).await;
        let sql = "CREATE TEMP TABLE t AS SELECT n, md5(n::text) AS sum FROM generate_series(1, 100000) n; SELECT count(*), max(sum) FROM t; SELECT repeat('x', 20000000);";
        let mut query = asks("psql", &way, &["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        query.stderr(Stdio::inherit());
        let answer = ran(query).await;
        assert!(answer.starts_with("100000|ffff") && answer.len() > 20_000_000, "{}", &answer[..answer.len().min(200)]);
        // Rows in by COPY, out again, unchanged.
        let rows: String = (0..50_000).map(|n| format!("{n}\t{}\n", "ü".repeat(n % 90))).collect();
        let (there, back) = (postgres.folder.path().join("there"), postgres.folder.path().join("back"));
        std::fs::write(&there, &rows).expect("written");
        let copy = format!(
            "CREATE TABLE r (n int PRIMARY KEY, s text);\n\\copy r from '{}'\n\\copy (select * from r order by n) to '{}'\nDROP TABLE r;\n",
            there.display(),
            back.display()
        );
        let script = postgres.folder.path().join("script.sql");
        std::fs::write(&script, copy).expect("written");
        std::fs::write(&back, "").expect("written");
        ran(asks("psql", &way, &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", &shown(&script)])).await;
        assert!(std::fs::read_to_string(&back).is_ok_and(|back| back == rows), "the rows came changed");

        ran(asks("pgbench", &way, &["-i", "-q", "-s", "1"])).await;
        let mixed = ran(asks("pgbench", &way, &["-c", "8", "-j", "2", "-t", "20"])).await;
        assert!(mixed.contains("number of transactions actually processed: 160/160") && mixed.contains("number of failed transactions: 0 "), "{mixed}");
        let before = way.handshakes();
        // A connection for each transaction.
        let short = ran(asks("pgbench", &way, &["-S", "-C", "-c", "8", "-j", "2", "-t", "20"])).await;
        assert!(short.contains("number of transactions actually processed: 160/160"), "{short}");
        let rate = short.lines().find(|line| line.starts_with("tps = ")).unwrap_or_default();
        let made = way.handshakes() - before;
        println!("shared {shared}: 160 transactions, each over a connection of its own, {made} handshakes; {rate}");
        assert!(if shared { made == 0 } else { made >= 160 }, "{made} handshakes");
        way.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_reached_by_its_benchmark() {
    let (Some(server), Some(benchmark)) = (peers::installed("redis-server"), peers::installed("redis-benchmark")) else { return };
    let (address, folder) = (peers::free(), tempfile::tempdir().expect("a folder"));
    let mut command = Command::new(server);
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", "", "--appendonly", "no"]).current_dir(folder.path());
    let _redis = peers::start(command, address).await;
    for shared in [false, true] {
        let way = Way::to(&format!("tcp://{address}"), shared).await;
        let port = way.entrance.port().to_string();
        // Connections that stay, with many requests on their way, and ones for a single request.
        for (kind, arguments) in [("-k 1", ["-k", "1", "-n", "5000", "-P", "16"]), ("-k 0", ["-k", "0", "-n", "100", "-P", "1"])] {
            let mut command = Command::new(&benchmark);
            command.args(["-h", "127.0.0.1", "-p", &port, "-c", "20", "-q", "-d", "1000", "-t", "set,get,lpush,lrange_100"]).args(arguments);
            let said = ran(command).await;
            let rates: Vec<_> = said.split(['\r', '\n']).filter(|line| line.contains("requests per second")).collect();
            assert!(rates.len() >= 4 && !said.contains("Error") && !said.contains("WARNING: Could not connect"), "{said}");
            println!("shared {shared}, {kind}: {}", rates.join("; "));
        }
        way.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_server_is_used_by_its_client() {
    let Some(python) = peers::python() else { return };
    let server = python.with_file_name("moto_server");
    if !server.is_file() {
        println!("SKIPPED: moto is not installed (tests/run tools)");
        assert!(std::env::var_os("CI").is_none(), "in CI nothing is left out: moto");
        return;
    }
    let address = peers::free();
    let mut command = Command::new(server);
    command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]).stderr(Stdio::null());
    let _moto = peers::start_slow(command, address).await;
    let pair = Pair::start(address, Setup::default()).await;
    let said = peers::ask(&python, "s3.py", &[&pair.entrance.to_string()]).await;
    println!("{said}");
    assert_eq!(said, "passed 20\n");
    pair.end().await;
}
