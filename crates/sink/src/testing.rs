//! Blocks and batches for tests, made as the real ones are.

mod rig;

pub use rig::{Rig, Running, counts, eventually};

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use sluice_frame::{BlockBuilder, BlockStart, Frame};
use sluice_model::{
    Change, Checkpoint, Digest, Epoch, Generation, IngestorName, Op, Pointer, Position,
    StartPosition, TopicRules,
};

use crate::{
    batch::{Batch, Origin},
    batcher::{BatchError, Batcher},
    config::{BatchConfig, StreamConfig},
    dispatcher::BatchShape,
    retry::Retry,
};

/// The ingestor of every test block.
///
/// # Panics
/// Never: the name is one.
pub fn ingestor() -> IngestorName {
    "chain".parse().expect("a name")
}

/// A whole block of one frame: sets of these keys in these stores, the height as the value.
///
/// # Panics
/// If the changes do not fit into one frame.
pub fn block(height: u64, pairs: &[(&str, Vec<u8>)]) -> Frame {
    let value = height.to_string().into_bytes();
    let changes: Vec<Change<'_>> = pairs
        .iter()
        .map(|(store, key)| Change { store, op: Op::Set, key, value: &value })
        .collect();
    let mut frames = block_frames(height, &changes);
    assert_eq!(frames.len(), 1, "the block does not fit into one frame");
    frames.remove(0)
}

/// A whole block, cut into frames as a producer cuts it.
///
/// # Panics
/// If a change has no store or is too large.
pub fn block_frames(height: u64, changes: &[Change<'_>]) -> Vec<Frame> {
    let topics = TopicRules::default();
    let start = BlockStart {
        ingestor: ingestor(),
        generation: Generation(0),
        pointer: Pointer::from_height(height),
        parent: Pointer::from_height(height.saturating_sub(1)),
        height,
        time: Some(1_700_000_000_000_000_000 + i64::try_from(height).unwrap_or_default()),
        epoch: Epoch::from_u64(1),
    };
    let mut builder = BlockBuilder::new(start, &topics);
    for Change { store, op, key, value } in changes {
        builder.push_change(store, *op, key, value).expect("a change with a store");
    }
    let mut frames: Vec<Frame> =
        builder.finish("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").into();
    if let Some(end) = frames.last_mut().and_then(|frame| frame.header.end.as_mut()) {
        end.digest = digest(height);
    }
    frames
}

/// The digest that test blocks of a height have.
pub fn digest(height: u64) -> Digest {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&height.to_be_bytes());
    Digest::from_array(bytes)
}

/// The end of a block.
pub fn end_of(height: u64) -> Position {
    Position::end_of(Generation(0), Pointer::from_height(height))
}

/// The news that everything up to a height has come.
pub fn through(height: u64) -> (Checkpoint, u64) {
    (Checkpoint { position: end_of(height), digest: Some(digest(height)) }, height)
}

/// A batcher of a stream `test` that begins after block 0.
pub fn batcher(count: usize, wait: Duration) -> Batcher {
    let count = NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    shaped(BatchShape::Events { count, bytes: 1 << 20, wait })
}

/// The same in any shape.
pub fn shaped(shape: BatchShape) -> Batcher {
    let after = Checkpoint { position: end_of(0), digest: None };
    Batcher::new(origin(Epoch::from_u64(9)), shape, after.position.clone(), after)
}

/// What batches of the stream `test` share.
pub fn origin(epoch: Epoch) -> Arc<Origin> {
    Arc::new(Origin {
        stream: "test".into(),
        ingestor: ingestor(),
        filter: "0123456789abcdef".into(),
        reset_epoch: 0,
        epoch,
    })
}

/// The batches of blocks with one set of each key, cut by count: block n holds `keys[n - 1]`.
///
/// # Errors
/// Never for keys that fit into a frame.
pub fn batches(per_batch: usize, keys: &[Vec<Vec<u8>>]) -> Result<Vec<Batch>, BatchError> {
    let count = NonZeroUsize::new(per_batch).unwrap_or(NonZeroUsize::MIN);
    batches_shaped(BatchShape::Events { count, bytes: 1 << 20, wait: Duration::ZERO }, keys)
}

/// The same in any shape.
///
/// # Errors
/// Never for keys that fit into a frame.
pub fn batches_shaped(shape: BatchShape, keys: &[Vec<Vec<u8>>]) -> Result<Vec<Batch>, BatchError> {
    let mut batcher = shaped(shape);
    let now = Instant::now();
    for (i, keys) in keys.iter().enumerate() {
        let pairs: Vec<(&str, Vec<u8>)> = keys.iter().map(|key| ("bank", key.clone())).collect();
        batcher.push_frame(block(i as u64 + 1, &pairs), now)?;
    }
    let mut out = Vec::new();
    while let Some(batch) = batcher.drain()? {
        out.push(batch);
    }
    Ok(out)
}

/// A stream `test` with fast retries and a table of its destination's own.
pub fn stream_config(sink: &str, settings: toml::Table) -> StreamConfig {
    StreamConfig {
        name: "test".to_owned(),
        sink: sink.to_owned(),
        ingestor: ingestor(),
        start: StartPosition::Earliest,
        filter: Arc::new(sluice_model::Filter::all()),
        batch: BatchConfig { wait: Duration::from_millis(5), ..BatchConfig::default() },
        retry: Retry {
            first: Duration::from_millis(1),
            max: Duration::from_millis(5),
            for_: Duration::from_secs(60),
        },
        checkpoint: Duration::from_secs(1),
        encoding: sluice_model::event::Encoding::Base64,
        settings,
    }
}

#[cfg(test)]
pub(crate) fn reached(height: u64) -> crate::batch::Reached {
    crate::batch::Reached { at: Checkpoint { position: end_of(height), digest: None }, height }
}

#[cfg(test)]
pub(crate) type Flat = (u32, String, Vec<u8>, Vec<u8>);

#[cfg(test)]
pub(crate) fn changes_of(frame: &Frame) -> Vec<Flat> {
    frame
        .changes()
        .map(|change| {
            let (index, route, change) = change.expect("a verified frame");
            (index, route.store.to_string(), change.key.to_vec(), change.value.to_vec())
        })
        .collect()
}
