//! A journal's directory that no process works on.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use sluice_frame::{Frame, Record};
use sluice_journal::{
    JournalError,
    inspect::{self, Found, Segment},
};
use sluice_model::{Generation, IngestorName, Kind};
use tokio::sync::mpsc;

use super::{Scope, Side, Step, fold::Fold, lineage::Lineage};
use crate::exit::{Exit, Failure, on_path};

/// Blocks that are read ahead; of each only its digests are kept.
const AHEAD: usize = 256;

/// The journal of this ingestor in a directory; `None` if it is no directory of journals.
pub(super) fn find(dir: &Path, ingestor: &IngestorName) -> Result<Option<Found>, Failure> {
    std::fs::read_dir(dir).map_err(on_path(dir))?;
    let mut others = Vec::new();
    for found in inspect::journals(dir).map_err(|error| failed(&error))? {
        match found {
            Ok(found) if found.ingestor == *ingestor => return Ok(Some(found)),
            Ok(found) => others.push(found.ingestor.to_string()),
            Err(error) => return Err(failed(&error)),
        }
    }
    if others.is_empty() {
        return Ok(None);
    }
    let message = format!(
        "{} holds journals of {}, and none of {ingestor}",
        dir.display(),
        others.join(", ")
    );
    Err(Failure::new(Exit::NotFound, message).fix("the same with --as NAME"))
}

/// Reads a journal's files in a thread of its own.
#[derive(Debug)]
pub(super) struct DirectorySide {
    first: u64,
    /// The step that was read to find the first height.
    peeked: Option<Step>,
    steps: mpsc::Receiver<Result<Step, Failure>>,
}

impl DirectorySide {
    pub(super) async fn open(found: Found, scope: &Arc<Scope>) -> Result<Self, Failure> {
        let (sender, mut steps) = mpsc::channel(AHEAD);
        let fold = Fold::new(Arc::clone(scope));
        let shown = found.dir.display().to_string();
        tokio::task::spawn_blocking(move || {
            let mut walk = Walk { fold, lineage: Lineage::default(), sender: sender.clone() };
            if let Err(failure) = walk.journal(&found) {
                // A reader that is gone does not want it.
                sender.blocking_send(Err(failure)).ok();
            }
        });
        match steps.recv().await {
            None => Err(Failure::new(Exit::NotFound, format!("{shown} holds no block"))
                .fix("sluice journal ls --dir DIR")),
            Some(step) => {
                let step = step?;
                let first = match &step {
                    Step::Block(block) => block.height,
                    Step::Through(height) | Step::Gap { from: height, .. } => *height,
                };
                let first = scope.from.map_or(first, |from| from.max(first));
                Ok(Self { first, peeked: Some(step), steps })
            }
        }
    }
}

#[async_trait]
impl Side for DirectorySide {
    fn first(&self) -> u64 {
        self.first
    }

    fn last(&self) -> Option<u64> {
        None
    }

    async fn next(&mut self) -> Result<Option<Step>, Failure> {
        match self.peeked.take() {
            Some(step) => Ok(Some(step)),
            None => self.steps.recv().await.transpose(),
        }
    }
}

/// One pass over the files.
struct Walk {
    fold: Fold,
    lineage: Lineage,
    sender: mpsc::Sender<Result<Step, Failure>>,
}

impl Walk {
    fn journal(&mut self, found: &Found) -> Result<(), Failure> {
        let segments = segments(found)?;
        self.lineage = rewinds(found, &segments)?;
        for segment in &segments {
            let mut result = Ok(true);
            inspect::records(&found.dir, segment.number, |record| {
                result = match record.frame {
                    Ok(frame) => self.frame(&frame),
                    Err(cause) => Err(Failure::new(
                        Exit::Data,
                        format!("{} at byte {}: {cause}", segment.file.display(), record.offset),
                    )
                    .fix("sluice journal verify --dir DIR")),
                };
                matches!(result, Ok(true))
            })
            .map_err(|error| failed(&error))?;
            if !result? {
                break;
            }
        }
        Ok(())
    }

    /// Takes the next record; false when nobody wants more.
    fn frame(&mut self, frame: &Frame) -> Result<bool, Failure> {
        let header = &frame.header;
        let keeps = self.lineage.keeps(header.generation, &header.pointer);
        let digest = header.end.as_ref().map(|end| end.digest);
        match (header.kind, &header.record) {
            (Kind::Block, _) => {
                if header.part > 0 && !self.fold.continues(frame) {
                    // The begin was given up by a writer that came to its end.
                    return Ok(true);
                }
                let block = self.fold.frame(frame)?;
                Ok(block.filter(|_| keeps).is_none_or(|block| self.send(Step::Block(block))))
            }
            (Kind::Gap, Some(Record::Gap { from, to, cause })) => {
                self.fold.jump(&header.end_of_block(), digest);
                let cause = cause.clone();
                let heights = from.height().zip(to.height()).filter(|_| keeps);
                Ok(heights.is_none_or(|(from, to)| self.send(Step::Gap { from, to, cause })))
            }
            (Kind::Generation, _) => {
                self.fold.jump(&header.end_of_block(), digest);
                Ok(true)
            }
            _ => {
                // Another writer: what the one before left unfinished stays so.
                self.fold.abort();
                Ok(true)
            }
        }
    }

    fn send(&self, step: Step) -> bool {
        self.sender.blocking_send(Ok(step)).is_ok()
    }
}

/// The files with records, in the order in which they were written.
fn segments(found: &Found) -> Result<Vec<Segment>, Failure> {
    let mut segments = inspect::segments(&found.dir).map_err(|error| failed(&error))?;
    segments.retain(|segment| segment.header.is_ok());
    segments.sort_by_key(|segment| segment.header.as_ref().map(|header| header.incarnation).ok());
    Ok(segments)
}

/// Every rewind of the journal. Reads only the files in which a history may begin.
fn rewinds(found: &Found, segments: &[Segment]) -> Result<Lineage, Failure> {
    let mut lineage = Lineage::default();
    let base = |segment: &Segment| {
        let header = segment.header.as_ref().ok();
        header.and_then(|header| header.base.as_ref()).map_or(Generation(0), |head| head.generation)
    };
    for (at, segment) in segments.iter().enumerate() {
        let next = segments.get(at + 1).map(base);
        if next.is_some_and(|next| next == base(segment)) {
            continue;
        }
        inspect::records(&found.dir, segment.number, |record| {
            if let Ok(Frame { header, .. }) = &record.frame
                && let Some(Record::GenerationStart { generation, base_pointer, .. }) =
                    &header.record
            {
                lineage.rewound(*generation, base_pointer.clone());
            }
            true
        })
        .map_err(|error| failed(&error))?;
    }
    Ok(lineage)
}

fn failed(error: &JournalError) -> Failure {
    Failure::new(Exit::Data, error.to_string()).fix("sluice journal verify --dir DIR")
}
