use std::collections::HashMap;

use parking_lot::Mutex;
use sluice_journal::Writer;
use sluice_model::IngestorName;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::error;

/// The open writer of every ingestor. The journal's fence is the safety; this table only ends the
/// streams of writers that were overtaken, instead of letting them wait for their next frame.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    open: Mutex<HashMap<IngestorName, Slot>>,
}

#[derive(Debug)]
struct Slot {
    writer_id: u64,
    /// Gone once the append stream has it.
    writer: Option<Box<dyn Writer>>,
    fenced: CancellationToken,
}

/// A writer for one append stream.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) writer: Box<dyn Writer>,
    /// Cancelled when a newer writer opens the journal.
    pub(crate) fenced: CancellationToken,
}

impl Writers {
    /// Keeps a fresh writer for its stream and fences the one before. Opens that overtook each
    /// other on the way here are told apart by the writer's number.
    pub(crate) fn opened(&self, ingestor: &IngestorName, writer: Box<dyn Writer>) {
        let writer_id = writer.writer_id();
        let mut open = self.open.lock();
        if open.get(ingestor).is_some_and(|slot| slot.writer_id > writer_id) {
            return;
        }
        let slot = Slot { writer_id, writer: Some(writer), fenced: CancellationToken::new() };
        if let Some(before) = open.insert(ingestor.clone(), slot) {
            before.fenced.cancel();
        }
    }

    /// Gives the writer to its stream, once.
    pub(crate) fn claim(&self, ingestor: &IngestorName, writer_id: u64) -> Result<Claimed, Status> {
        let not_open = |why: &str| {
            // Without a reason: whoever asks may open again.
            Status::aborted(format!("{ingestor}: writer {writer_id} {why}; open the journal again"))
        };
        let mut open = self.open.lock();
        let slot = open.get_mut(ingestor).ok_or_else(|| not_open("is not open here"))?;
        if slot.writer_id > writer_id {
            return Err(error::fenced(ingestor));
        }
        if slot.writer_id < writer_id {
            return Err(not_open("is not open here"));
        }
        let writer = slot.writer.take().ok_or_else(|| not_open("already had its stream"))?;
        Ok(Claimed { writer, fenced: slot.fenced.clone() })
    }
}
