//! A `sluice` process: started, waited for, killed, asked to stop.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use crate::{PATIENCE, eventually, free_port};

/// The binary under test: built beside the tests by `cargo test --workspace`.
pub fn binary() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().and_then(Path::parent).unwrap().join("sluice");
    assert!(path.exists(), "{} is missing: run cargo build -p sluice first", path.display());
    path
}

/// Runs a command of the command line to its end.
pub fn run(args: &[&str]) -> Output {
    run_behind(&[], args)
}

/// The same behind another program, see [`Process::behind`].
pub fn run_behind(launcher: &[String], args: &[&str]) -> Output {
    command(launcher).args(args).stdin(Stdio::null()).output().unwrap()
}

/// The binary, started by a launcher that becomes it.
fn command(launcher: &[String]) -> Command {
    match launcher.split_first() {
        None => Command::new(binary()),
        Some((program, args)) => {
            let mut command = Command::new(program);
            command.args(args).arg(binary());
            command
        }
    }
}

/// A long-running service with its addresses. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    launcher: Vec<String>,
    args: Vec<String>,
    log: PathBuf,
    address: Ipv4Addr,
    /// Port of its API.
    pub api: u16,
    /// Port of its admin door.
    pub admin: u16,
    child: Option<Child>,
}

impl Process {
    /// A service that is not started yet, on free ports. Its log goes into `dir`.
    pub fn new(name: &str, dir: &Path, args: &[&str]) -> Self {
        let (api, admin) = (free_port(), free_port());
        Self {
            name: name.to_owned(),
            launcher: Vec::new(),
            args: args.iter().map(ToString::to_string).collect(),
            log: dir.join(format!("{name}.log")),
            address: Ipv4Addr::LOCALHOST,
            api,
            admin,
            child: None,
        }
    }

    /// Lets it listen at another address than the loopback one, at this port and the next. Its
    /// launcher must start it where that address is.
    #[must_use]
    pub fn at(mut self, address: Ipv4Addr, api: u16) -> Self {
        (self.address, self.api, self.admin) = (address, api, api + 1);
        self
    }

    /// Lets a program start it that becomes it, such as `nsenter`.
    #[must_use]
    pub fn behind(mut self, launcher: &[String]) -> Self {
        self.launcher = launcher.to_vec();
        self
    }

    /// The URL of its API.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.address, self.api)
    }

    /// A GET at its admin door; `None` if nobody answers.
    pub fn admin_get(&self, path: &str) -> Option<String> {
        http_get((self.address, self.admin).into(), path)
    }

    /// Starts it, with more arguments than it was made with, and waits until it is ready.
    pub async fn start(&mut self, more: &[String]) {
        self.spawn(more);
        self.ready().await;
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self, more: &[String]) {
        assert!(self.child.is_none(), "{} is already running", self.name);
        self.args.extend_from_slice(more);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let child = command(&self.launcher)
            .args(&self.args)
            .args(["--set", &format!("listen.api={}:{}", self.address, self.api)])
            .args(["--set", &format!("listen.admin={}:{}", self.address, self.admin)])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Waits until it takes work; fails at once if it has ended.
    pub async fn ready(&mut self) {
        let began = std::time::Instant::now();
        while !is_ok(self.admin_get("/readyz")) {
            if let Some(ended) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("{} ended ({ended}):\n{}", self.name, self.log());
            }
            assert!(began.elapsed() < PATIENCE, "{} is not ready:\n{}", self.name, self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it with SIGKILL and starts it again.
    pub async fn kill_and_restart(&mut self) {
        self.kill();
        self.start(&[]).await;
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap_or_else(|| panic!("{} is not running", self.name));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it to stop with SIGTERM and gives its exit status.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// Waits until it has ended and gives its exit status.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("{} ends:\n{}", self.name, self.log());
        let child = self.child.as_mut().unwrap();
        let status = eventually(&what, || std::future::ready(child.try_wait().unwrap())).await;
        self.child = None;
        status
    }

    /// True if it was started and neither killed nor seen to end since.
    pub const fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} is not running", self.name)).id()
    }

    /// Sends it a signal by name.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(sent.success(), "kill -{signal} {pid}");
    }

    /// Its resident memory and the peak of it, in bytes.
    pub fn memory(&self) -> (u64, u64) {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let of = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            kib << 10
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// What it has logged, the end of it.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
            if std::thread::panicking() {
                std::io::stderr()
                    .write_all(format!("--- {}\n{}\n", self.name, self.log()).as_bytes())
                    .ok();
            }
        }
    }
}

/// True if the answer is 200.
fn is_ok(answer: Option<String>) -> bool {
    answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// A GET over a fresh connection; `None` if nobody answers.
pub fn http_get(address: SocketAddr, path: &str) -> Option<String> {
    let mut socket = TcpStream::connect(address).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    Some(answer)
}
