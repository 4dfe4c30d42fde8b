//! Reads a journal's files and judges them by the rules alone.
//!
//! Nothing of the writing side is used: records come in the order in which they lie in the files,
//! with the writer and the epoch that they carry, and digests are compared with those that
//! [`Chain`] works out from the height.

use std::{collections::BTreeMap, path::Path};

use bytes::BytesMut;
use sluice_frame::{Frame, Record};
use sluice_journal::inspect;
use sluice_model::Kind;

use crate::chaos::chain::{Chain, changes};

/// What is wrong with a history; everything is 0 and empty if nothing is.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Acknowledged blocks that are not there.
    pub lost: u64,
    /// Blocks that are there more than once.
    pub duplicated: u64,
    /// Blocks of other content, on another parent, or by a writer that was fenced.
    pub forked: u64,
    /// In words, the first of each kind.
    pub wrong: Vec<String>,
    /// Whole blocks found.
    pub blocks: u64,
    /// The last of them.
    pub head: u64,
    /// Epochs that opened the journal, in order, without repetition.
    pub epochs: Vec<u64>,
    /// The largest step between the times of two records that follow each other, in seconds.
    pub clock_step: u64,
}

impl Verdict {
    fn note(&mut self, what: String) {
        if self.wrong.len() < 20 {
            self.wrong.push(what);
        }
    }

    fn fork(&mut self, what: String) {
        self.forked += 1;
        self.note(what);
    }
}

/// Walks over the records of a journal.
struct Walk<'a> {
    chain: &'a Chain,
    verdict: Verdict,
    /// The writer of the last open, and its epoch.
    writer: (u64, u64),
    /// Changes of the block whose parts are coming in.
    content: BytesMut,
    parts: Option<(u64, u32)>,
    time: Option<i64>,
    /// Below the oldest retained block nothing can be told.
    begun: bool,
}

/// Judges the journal in `dir` against what was acknowledged. Nobody may write to it meanwhile.
pub fn check(dir: &Path, chain: &Chain, acked: &BTreeMap<u64, [u8; 32]>) -> Verdict {
    let mut found = inspect::journals(dir).unwrap();
    assert_eq!(found.len(), 1, "journals in {}", dir.display());
    let journal = found.remove(0).unwrap();
    let mut segments = inspect::segments(&journal.dir).unwrap();
    // Files without a header are spares.
    segments.retain(|segment| segment.header.is_ok());
    segments.sort_by_key(|segment| segment.header.as_ref().map(|header| header.incarnation).ok());
    let mut walk = Walk::new(chain);
    let counts: Vec<u64> = segments
        .iter()
        .skip(1)
        .map(|next| next.header.as_ref().map_or(0, |header| header.previous_len))
        .chain([u64::MAX])
        .collect();
    for (segment, counts) in segments.iter().zip(counts) {
        let file = segment.file.display().to_string();
        inspect::records(&journal.dir, segment.number, |record| {
            // The next segment says how much of this one counts: what a failed sync left behind
            // does not.
            if record.offset >= counts {
                return false;
            }
            let at = format!("{file} at byte {}", record.offset);
            match record.frame {
                Ok(frame) => walk.take(&frame, record.writer_id, record.appended, &at),
                Err(cause) => {
                    walk.verdict.lost += 1;
                    walk.verdict.note(format!("{at} is unreadable: {cause}"));
                }
            }
            true
        })
        .unwrap();
    }
    walk.compare(acked)
}

impl<'a> Walk<'a> {
    fn new(chain: &'a Chain) -> Self {
        Self {
            chain,
            verdict: Verdict::default(),
            writer: (0, 0),
            content: BytesMut::new(),
            parts: None,
            time: None,
            begun: false,
        }
    }

    fn take(&mut self, frame: &Frame, writer: u64, appended: i64, at: &str) {
        let epoch = frame.header.epoch.as_u64();
        let before = self.time.replace(appended);
        let step = before.map_or(0, |before| appended.abs_diff(before) / 1_000_000_000);
        self.verdict.clock_step = self.verdict.clock_step.max(step);
        if let Some(Record::EpochStart { writer_id, .. }) = &frame.header.record {
            return self.opened(*writer_id, epoch, at);
        }
        if (writer, epoch) != self.writer && self.writer.0 > 0 {
            let (now, its) = self.writer;
            self.verdict.fork(format!(
                "{at}: a record of writer {writer} (epoch {epoch}) was accepted although writer \
                 {now} (epoch {its}) had opened the journal"
            ));
        }
        match frame.header.kind {
            Kind::Block => self.part(frame, at),
            kind => self.verdict.fork(format!("{at}: nobody asked for a record {kind:?}")),
        }
    }

    fn opened(&mut self, writer: u64, epoch: u64, at: &str) {
        let (last_writer, last_epoch) = self.writer;
        if epoch < last_epoch {
            self.verdict.fork(format!("{at}: epoch {epoch} opened after epoch {last_epoch}"));
        }
        if writer <= last_writer {
            self.verdict.fork(format!(
                "{at}: writer {writer} opened after writer {last_writer}: it fences nobody"
            ));
        }
        if self.verdict.epochs.last() != Some(&epoch) {
            self.verdict.epochs.push(epoch);
        }
        self.writer = (writer, epoch);
        // What was unfinished stays so.
        self.parts = None;
    }

    fn part(&mut self, frame: &Frame, at: &str) {
        let (height, part) = (frame.header.height, frame.header.part);
        if part == 0 {
            self.content.clear();
        } else if self.parts != Some((height, part)) {
            self.verdict.note(format!("{at}: part {part} of block {height} continues nothing"));
            return;
        }
        self.content.extend_from_slice(&frame.changes);
        self.parts = Some((height, part + 1));
        let Some(end) = &frame.header.end else { return };
        self.parts = None;
        let (parent, digest) = (*end.parent_digest.as_bytes(), *end.digest.as_bytes());
        self.block(height, at);
        if digest != self.chain.digest(height) || self.content != changes(height) {
            self.verdict.fork(format!("{at}: block {height} has foreign content"));
        } else if parent != self.chain.digest(height - 1)
            || frame.header.parent.height().unwrap_or(0) != height - 1
        {
            self.verdict.fork(format!("{at}: block {height} is on another parent"));
        }
    }

    /// The place of a whole block.
    fn block(&mut self, height: u64, at: &str) {
        let head = self.verdict.head;
        if self.begun && height <= head {
            self.verdict.duplicated += 1;
            self.verdict.note(format!("{at}: block {height} lies behind block {head}"));
        } else if self.begun && height > head + 1 {
            self.verdict.lost += height - head - 1;
            self.verdict.note(format!("{at}: block {height} follows block {head}"));
        }
        self.begun = true;
        self.verdict.blocks += 1;
        self.verdict.head = head.max(height);
    }

    fn compare(mut self, acked: &BTreeMap<u64, [u8; 32]>) -> Verdict {
        let head = self.verdict.head;
        let beyond = acked.range(head + 1..).count() as u64;
        if beyond > 0 {
            self.verdict.lost += beyond;
            self.verdict.note(format!("{beyond} acknowledged blocks above the head {head}"));
        }
        let first = (head + 1).saturating_sub(self.verdict.blocks);
        for (height, digest) in acked.range(first..=head) {
            if *digest != self.chain.digest(*height) {
                let what = format!("block {height} was acknowledged with a foreign digest");
                self.verdict.fork(what);
            }
        }
        self.verdict
    }
}

#[cfg(test)]
mod tests;
