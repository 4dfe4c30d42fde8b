//! How far a capture is: a bar on a terminal, a line now and then otherwise.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::{count, note};

/// How often a line is written where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);

/// One capture's progress.
#[derive(Debug)]
pub(crate) struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    told: Instant,
    last: u64,
}

impl Progress {
    /// For an ingestor; shows nothing before the first [`set`](Self::set).
    pub(crate) fn new(name: &str) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let form = "{prefix} {wide_bar} {human_pos}/{human_len} blocks, {per_sec}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(form) {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_owned());
            bar
        });
        Self { name: name.to_owned(), bar, told: Instant::now(), last: 0 }
    }

    /// The height that is durable and the one that the source has.
    pub(crate) fn set(&mut self, height: u64, source: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(source.max(height));
            bar.set_position(height);
        } else if height != self.last && self.told.elapsed() >= EVERY {
            self.told = Instant::now();
            self.last = height;
            note(format!("{}: height {} of {}", self.name, count(height), count(source)));
        }
    }

    /// Nothing more will be shown.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
