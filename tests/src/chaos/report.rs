//! The table.

use std::time::Duration;

/// What a fault did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Epochs that opened the journal for the first time.
    pub(crate) takeovers: usize,
    /// The longest time without a newly acknowledged block.
    pub(crate) stall: Duration,
    /// Append streams that the router ended as fenced.
    pub(crate) fenced: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) forked: u64,
    /// What was wrong, in words.
    pub(crate) wrong: Vec<String>,
}

const HEAD: [&str; 7] =
    ["fault", "take-overs", "longest stall", "refused as fenced", "lost", "duplicated", "forked"];

impl Row {
    /// A fault from which there was no recovery.
    pub(crate) fn stuck(name: &str, why: &str) -> Self {
        Self { name: name.to_owned(), wrong: vec![format!("stuck: {why}")], ..Self::default() }
    }

    /// True if nothing was wrong.
    pub(crate) fn is_good(&self) -> bool {
        self.wrong.is_empty() && self.lost + self.duplicated + self.forked == 0
    }

    fn cells(&self) -> [String; 7] {
        [
            self.name.clone(),
            self.takeovers.to_string(),
            format!("{:.2} s", self.stall.as_secs_f64()),
            self.fenced.to_string(),
            self.lost.to_string(),
            self.duplicated.to_string(),
            self.forked.to_string(),
        ]
    }

    /// As a line of its own, with what was wrong below.
    pub(crate) fn line(&self) -> String {
        let mut text = self.cells().join(" | ");
        for wrong in &self.wrong {
            text += &format!("\n    WRONG: {wrong}");
        }
        text
    }
}

/// All rows, and their sums.
pub(crate) fn table(rows: &[Row]) -> String {
    let sum = Row {
        name: "all".to_owned(),
        takeovers: rows.iter().map(|row| row.takeovers).sum(),
        stall: rows.iter().map(|row| row.stall).max().unwrap_or_default(),
        fenced: rows.iter().map(|row| row.fenced).sum(),
        lost: rows.iter().map(|row| row.lost).sum(),
        duplicated: rows.iter().map(|row| row.duplicated).sum(),
        forked: rows.iter().map(|row| row.forked).sum(),
        wrong: Vec::new(),
    };
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().chain([&sum]).map(Row::cells));
    let width = |at: usize| lines.iter().map(|cells| cells[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |cells: &[String; 7]| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match at {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        padded.collect::<Vec<_>>().join("  ")
    };
    let mut text: Vec<String> = lines.iter().map(line).collect();
    for row in rows.iter().filter(|row| !row.is_good()) {
        text.extend(row.wrong.iter().map(|wrong| format!("WRONG: {}: {wrong}", row.name)));
    }
    text.join("\n")
}
