//! How far a capture is: a bar on a terminal, a line now and then otherwise.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::output::{BARS, count, note};

/// How often a line is written where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);

/// One capture's progress.
#[derive(Debug)]
pub(crate) struct Progress {
    name: String,
    /// On a terminal, from the first [`set`](Self::set) on.
    bar: Option<ProgressBar>,
    told: Instant,
    last: u64,
}

impl Progress {
    /// For an ingestor; shows nothing before the first [`set`](Self::set).
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), bar: None, told: Instant::now(), last: 0 }
    }

    /// The height that is durable and the one that the source has.
    pub(crate) fn set(&mut self, height: u64, source: u64) {
        if stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| bar(&self.name, height, source));
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
            BARS.remove(&bar);
        }
    }
}

/// A bar that begins at a height: what was there before says nothing about the speed.
fn bar(name: &str, height: u64, source: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(source), ProgressDrawTarget::hidden());
    let form = "{prefix} {wide_bar} {human_pos}/{human_len} blocks{speed}";
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style.with_key("speed", speed));
    }
    bar.set_prefix(name.to_owned());
    bar.set_position(height);
    bar.reset_eta();
    BARS.add(bar)
}

/// Nothing as long as there is no speed.
fn speed(state: &ProgressState, text: &mut dyn std::fmt::Write) {
    let (rate, left) = (state.per_sec(), HumanDuration(state.eta()));
    if rate >= 1.0 {
        // A writer of text that fails is the bar's business.
        write!(text, ", {rate:.0}/s, {left:#} left").ok();
    }
}
