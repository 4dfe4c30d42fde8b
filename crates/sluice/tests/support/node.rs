//! The program as a child process, for the tests that meet it as a stranger does.

#![allow(dead_code, reason = "no test uses all of it")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

pub(crate) const SLUICE: &str = env!("CARGO_BIN_EXE_sluice");

/// A port of the loopback on which nobody listens.
pub(crate) fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

pub(crate) fn sluice(args: &[&str]) -> Output {
    Command::new(SLUICE).args(args).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn fed(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(SLUICE)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `sluice run`, killed if a test leaves it behind.
pub(crate) struct Node {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) lines: BufReader<std::process::ChildStderr>,
}

impl Node {
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, &["listen.api=127.0.0.1:0"])
    }

    /// With further `--set`s.
    pub(crate) fn start_with(data: &Path, sets: &[&str]) -> Self {
        let mut child = Command::new(SLUICE)
            .arg("run")
            .args(["--set", "listen.admin=127.0.0.1:0", "--set", "telemetry.log=warn"])
            .args(["--set", "ingestors.app.source={type=\"capture\"}"])
            .arg("--set")
            .arg(format!("data_dir={}", data.display()))
            .args(sets.iter().flat_map(|set| ["--set", set]))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("is up: api ") {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended before it listened");
        }
        let url = line.split("api ").nth(1).unwrap().split(',').next().unwrap().to_owned();
        Self { child, url, lines }
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        sluice(&[args, &["--server", &self.url]].concat())
    }

    /// Asks again until the answer is as wanted.
    pub(crate) fn until(&self, args: &[&str], wanted: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let text = stdout(&self.run(args));
            if wanted(&text) {
                return text;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{args:?}: {text}");
        }
    }

    pub(crate) fn signal(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// SIGTERM; the exit code and the last line.
    pub(crate) fn stop(self) -> (Option<i32>, String) {
        let (code, mut lines) = self.ended();
        (code, lines.pop().unwrap_or_default())
    }

    /// SIGTERM; the exit code and every line since it listened.
    pub(crate) fn ended(mut self) -> (Option<i32>, Vec<String>) {
        self.signal();
        let lines = (&mut self.lines).lines().map_while(Result::ok).collect();
        (self.child.wait().unwrap().code(), lines)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Usually gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) const BLOCKS: &str = r#"{"height":1,"time":"2026-01-31T12:00:00Z","changes":[{"store":"bank","op":"set","key":"AQ==","value":"Cg=="}]}
{"height":2,"changes":[{"store":"bank","op":"delete","key":"01","encoding":"hex"},{"store":"gov","key":"Ag==","value":""}]}
"#;

pub(crate) fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(&stdout(output)).unwrap()
}
