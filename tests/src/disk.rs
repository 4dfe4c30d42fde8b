//! A small file system that can be full without hurting anybody.
//!
//! A tmpfs in a mount namespace of its own, held by a process that ends with the test. Programs
//! enter it through [`SmallDisk::launcher`]; the test reaches in through `/proc`.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A mounted file system. Gone when dropped, once the programs in it have ended.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Child,
    outside: PathBuf,
    launcher: Vec<String>,
}

impl SmallDisk {
    /// Mounts one of so many bytes on an existing directory.
    ///
    /// # Errors
    /// Why this machine does not allow it.
    pub fn mount(dir: &Path, bytes: u64) -> Result<Self, String> {
        // Root may mount for itself; others only where they are root of their own namespace.
        let plain = Self::mount_with(&["--mount"], &["--mount"], dir, bytes);
        plain.or_else(|first| {
            let enter = ["--mount", "--user", "--preserve-credentials"];
            Self::mount_with(&["--mount", "--map-root-user"], &enter, dir, bytes)
                .map_err(|second| format!("{first}; {second}"))
        })
    }

    fn mount_with(leave: &[&str], enter: &[&str], dir: &Path, bytes: u64) -> Result<Self, String> {
        let script = r#"mount -t tmpfs -o "size=$1" sluice-test "$0" && echo mounted && exec cat"#;
        let mut holder = Command::new("unshare")
            .args(leave)
            .args(["sh", "-c", script])
            .arg(dir)
            .arg(bytes.to_string())
            // The end of the test, however it ends, closes it; then the holder ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut answer = [0; 8];
        if holder.stdout.as_mut().unwrap().read_exact(&mut answer).is_err() {
            let output = holder.wait_with_output().unwrap();
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let pid = holder.id().to_string();
        let below = dir.strip_prefix("/").unwrap();
        let launcher = ["nsenter", "--target", &pid]
            .into_iter()
            .chain(enter.iter().copied())
            .map(ToString::to_string);
        Ok(Self {
            outside: Path::new("/proc").join(&pid).join("root").join(below),
            launcher: launcher.collect(),
            holder,
        })
    }

    /// What to put before a command so that it sees the file system.
    pub fn launcher(&self) -> &[String] {
        &self.launcher
    }

    /// The file system as this process reaches it.
    pub fn path(&self) -> &Path {
        &self.outside
    }

    /// Puts a file of so many bytes into it; fewer if it is full before.
    pub fn fill(&self, name: &str, bytes: u64) {
        let mut file = std::fs::File::create(self.outside.join(name)).unwrap();
        let chunk = [0; 4096];
        for _ in 0..bytes / 4096 {
            match file.write_all(&chunk) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return,
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }

    /// Takes a file away.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.outside.join(name)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}
