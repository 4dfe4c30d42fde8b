//! What stands at a pointer.

use std::sync::Arc;

use sluice_frame::Header;
use sluice_journal::{GapNotice, Item, ReadError, ReadFrom, Select};
use sluice_model::{Filter, Generation, IngestorName, Pointer, Position};
use sluice_proto::{convert, v1 as pb};
use tonic::Status;

use crate::{app::Shared, error};

/// The block or control record at a pointer, as the history leading to `newest` (the head's, if
/// absent) has it. Reads headers only.
pub(crate) async fn block(
    shared: &Shared,
    ingestor: &IngestorName,
    pointer: &Pointer,
    newest: Option<Generation>,
) -> Result<Option<pb::StoredBlock>, Status> {
    let status = shared.journal.status(ingestor).await.map_err(|e| error::journal(&e))?;
    let Some(head) = status.head else { return Ok(None) };
    let mut generation = newest.map_or(head.generation, |newest| newest.min(head.generation));
    if (generation, pointer) > (head.generation, &head.pointer) {
        return Ok(None);
    }
    loop {
        let looked = look(shared, ingestor, generation, pointer).await;
        match looked.map_err(|refused| error::read(ingestor, &refused))? {
            Look::Found(block) => return Ok(Some(*block)),
            Look::Nothing => return Ok(None),
            // At or below the base: the history before has it.
            Look::Below => match generation.0.checked_sub(1) {
                Some(before) => generation = Generation(before),
                None => return Ok(None),
            },
        }
    }
}

enum Look {
    Found(Box<pb::StoredBlock>),
    /// The pointer lies between two blocks of this history.
    Nothing,
    /// This history begins behind the pointer.
    Below,
}

async fn look(
    shared: &Shared,
    ingestor: &IngestorName,
    generation: Generation,
    pointer: &Pointer,
) -> Result<Look, ReadError> {
    let wanted = Position::end_of(generation, pointer.clone());
    let after = Position::end_of(generation, before(pointer));
    let select =
        Select { headers_only: true, every: true, ..Select::from(Arc::new(Filter::all())) };
    let reading = shared.journal.read(ingestor, ReadFrom::After(after, None), select).await;
    let mut reader = match reading {
        // That history ended before it.
        Err(ReadError::Diverged { .. }) => return Ok(Look::Nothing),
        reading => reading?,
    };
    loop {
        let (position, found) = match reader.next().await? {
            Item::Entry(stored) if stored.header.end.is_none() => continue,
            Item::Entry(stored) => (stored.header.end_of_block(), of_block(&stored.header)),
            Item::Gap(gap) => (gap.through.clone(), Some(of_gap(&gap))),
            Item::Generation(start) if start.through.generation == generation => {
                return Ok(Look::Below);
            }
            Item::Generation(start) => (start.through, None),
            Item::Through(through) => (through.position, None),
            Item::Corrupt(corruption) => return Err(ReadError::Corrupt(Box::new(corruption))),
        };
        if position == wanted
            && let Some(found) = found
        {
            return Ok(Look::Found(Box::new(found)));
        }
        if position >= wanted {
            return Ok(Look::Nothing);
        }
    }
}

/// The last pointer before this one among those of its length.
fn before(pointer: &Pointer) -> Pointer {
    let mut bytes = pointer.as_bytes().to_vec();
    for byte in bytes.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            return Pointer::new(bytes).unwrap_or_default();
        }
    }
    Pointer::ORIGIN
}

fn of_block(header: &Header) -> Option<pb::StoredBlock> {
    let end = header.end.as_ref()?;
    Some(pb::StoredBlock {
        kind: pb::Kind::Block.into(),
        generation: header.generation.0,
        pointer: header.pointer.to_bytes(),
        parent: header.parent.to_bytes(),
        height: header.height,
        time: header.time.map(convert::timestamp),
        digest: convert::digest_bytes(&end.digest),
        parent_digest: convert::digest_bytes(&end.parent_digest),
        states: convert::state_digests(&end.states),
        gap: None,
    })
}

fn of_gap(gap: &GapNotice) -> pb::StoredBlock {
    let record =
        pb::Gap { from: gap.from.to_bytes(), to: gap.to.to_bytes(), cause: gap.cause.clone() };
    pb::StoredBlock {
        kind: pb::Kind::Gap.into(),
        generation: gap.through.generation.0,
        pointer: gap.through.pointer.to_bytes(),
        height: gap.to.height().unwrap_or_default(),
        digest: convert::digest_bytes(&gap.digest),
        gap: Some(record),
        ..pb::StoredBlock::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pointer_before() {
        assert_eq!(before(&Pointer::from_height(256)), Pointer::from_height(255));
        assert_eq!(before(&Pointer::from_height(0)), Pointer::ORIGIN);
        assert_eq!(before(&Pointer::ORIGIN), Pointer::ORIGIN);
    }
}
