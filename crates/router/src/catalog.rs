//! Answers about journals: heads, bounds, and what a filter would have matched.

mod block;
mod filter_test;

use sluice_journal::Status as JournalStatus;
use sluice_model::IngestorName;
use sluice_proto::v1 as pb;
use tonic::Status;

pub(crate) use block::block;
pub(crate) use filter_test::test_filter;

use crate::{app::Shared, error};

/// The figures of one journal.
pub(crate) async fn status(
    shared: &Shared,
    ingestor: &IngestorName,
) -> Result<pb::JournalStatus, Status> {
    let status = shared.journal.status(ingestor).await.map_err(|e| error::journal(&e))?;
    Ok(to_wire(&status, shared.metrics.subscribers(ingestor)))
}

/// The figures of every journal, in order of name.
pub(crate) async fn list(shared: &Shared) -> Result<Vec<pb::JournalStatus>, Status> {
    let ingestors = shared.journal.list().await.map_err(|e| error::journal(&e))?;
    let mut journals = Vec::with_capacity(ingestors.len());
    for ingestor in ingestors {
        journals.push(match shared.journal.status(&ingestor).await {
            Ok(status) => to_wire(&status, shared.metrics.subscribers(&ingestor)),
            // One journal that cannot be loaded must not hide the others, nor itself.
            Err(error) => pb::JournalStatus {
                ingestor: ingestor.to_string(),
                append_refused: error.to_string(),
                ..pb::JournalStatus::default()
            },
        });
    }
    Ok(journals)
}

fn to_wire(status: &JournalStatus, subscribers: u32) -> pb::JournalStatus {
    let oldest = status.oldest_block.as_ref();
    pb::JournalStatus {
        ingestor: status.ingestor.to_string(),
        journal_id: bytes::Bytes::copy_from_slice(status.id.as_bytes()),
        head: status.head.as_ref().map(Into::into),
        oldest_pointer: oldest.map(|oldest| oldest.pointer.to_bytes()).unwrap_or_default(),
        oldest_height: status.oldest_height,
        oldest_generation: oldest.map_or(0, |oldest| oldest.generation.0),
        fence_epoch: status.fence.as_u64(),
        writer_id: status.writer_id,
        holder: status.holder.clone(),
        blocks: status.blocks,
        changes: status.changes,
        bytes: status.bytes,
        segments: status.segments,
        quarantined_blocks: status.quarantined,
        aborted_parts: status.aborted_parts,
        subscribers,
        durability: pb::Durability::from(status.durability).into(),
        append_refused: status.append_refused.clone().unwrap_or_default(),
    }
}
