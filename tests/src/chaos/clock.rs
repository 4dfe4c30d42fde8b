//! A wall clock that is off, for some processes only: the machine's own is left alone.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

/// The wall clock of the processes that were started behind it.
#[derive(Debug)]
pub(crate) struct Clock {
    offset: File,
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// Builds the library that is preloaded; the clock is right at first.
    pub(crate) fn build(dir: &Path) -> Result<Self, String> {
        let (source, library) = (dir.join("wallclock.c"), dir.join("wallclock.so"));
        std::fs::write(&source, include_str!("wallclock.c")).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .output()
            .map_err(|error| format!("cc: {error}"))?;
        if !built.status.success() {
            return Err(String::from_utf8_lossy(&built.stderr).into_owned());
        }
        let file = dir.join("wallclock");
        let mut offset = File::options();
        offset.create(true).write(true).truncate(true);
        let offset = offset.open(&file).unwrap();
        let this = Self { offset, file, library };
        this.step(0);
        Ok(this)
    }

    /// Lets the clock be off by so many seconds.
    pub(crate) fn step(&self, seconds: i64) {
        self.offset.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// What to put before a command.
    pub(crate) fn launcher(&self) -> Vec<String> {
        vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", self.library.display()),
            format!("SLUICE_TEST_CLOCK={}", self.file.display()),
        ]
    }
}
