//! The built program while it runs, and what it says.
#![allow(dead_code, reason = "shared by several tests, each of which uses its part")]

use std::time::Duration;

use super::program::Desk;

/// Long enough for a slow machine; nothing waits that long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program with a configuration, and what it says.
pub(crate) struct Process {
    child: std::process::Child,
    said: std::sync::mpsc::Receiver<String>,
}

impl Process {
    /// Starts it and waits for its listeners; gives their addresses in the order of their lines.
    pub(crate) fn start(desk: &Desk, file: &str, listeners: usize) -> (Self, Vec<std::net::SocketAddr>) {
        use std::io::BufRead as _;
        let mut child = desk.command(["run", "--config", file], &[]).stderr(std::process::Stdio::piped()).spawn().expect("the program");
        let (sender, said) = std::sync::mpsc::channel();
        let log = std::io::BufReader::new(child.stderr.take().expect("a pipe"));
        std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let process = Self { child, said };
        let address = |line: String| line.rsplit_once("address=").and_then(|(_, address)| address.trim().parse().ok()).expect("an address");
        let addresses = (0..listeners).map(|_| address(process.says("listening")));
        let addresses = addresses.collect();
        (process, addresses)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        rustix::process::kill_process(rustix::process::Pid::from_raw(id).expect("not 0"), signal).expect("a signal");
    }

    /// The next line with these words.
    pub(crate) fn says(&self, words: &str) -> String {
        loop {
            let line = self.said.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("never said: {words}"));
            if line.contains(words) {
                return line;
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
