//! System calls of a running process that fail on purpose, through strace.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::eventually;

/// System calls that fail until this is detached or dropped.
#[derive(Debug)]
pub struct FailingCalls {
    strace: Child,
    pid: u32,
    log: PathBuf,
}

impl FailingCalls {
    /// From the moment this returns, these calls (names with commas between) of every thread of
    /// the process answer with this error. What strace says goes into `dir`.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub async fn attach(pid: u32, calls: &str, error: &str, dir: &Path) -> Result<Self, String> {
        Self::inject(pid, calls, &format!("error={error}"), dir).await
    }

    /// The same with anything that strace can do to a call, such as `delay_enter=2s`.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub async fn inject(pid: u32, calls: &str, what: &str, dir: &Path) -> Result<Self, String> {
        let log = dir.join(format!("strace-{pid}.log"));
        let said = File::create(&log).unwrap();
        let strace = Command::new("strace")
            .args(["-f", "-p", &pid.to_string(), "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:{what}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .map_err(|error| format!("strace: {error}; `make test` installs it"))?;
        let mut this = Self { strace, pid, log };
        let attached = eventually("strace is attached", || {
            let answer = match this.strace.try_wait().unwrap() {
                Some(_) => Some(Err(this.said())),
                None => traced(this.pid).then_some(Ok(())),
            };
            std::future::ready(answer)
        })
        .await;
        attached.map(|()| this)
    }

    /// What strace said; each failed call is a line with `(INJECTED)`.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Lets the calls work again.
    pub fn detach(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Asked to, strace lets go of the process; killed, it might take it along.
        let pid = self.strace.id().to_string();
        Command::new("kill").args(["-INT", &pid]).status().ok();
        self.strace.wait().ok();
    }
}

impl Drop for FailingCalls {
    fn drop(&mut self) {
        if let Ok(None) = self.strace.try_wait() {
            self.end();
        }
    }
}

/// True if every thread of the process is traced.
fn traced(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0")
    })
}
