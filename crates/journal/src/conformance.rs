//! What every backend must do, as plain functions over a way to open it. Use [`conformance!`] to
//! make tests of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the suite reports what is wrong by panicking, as tests do"
)]

mod appending;
mod fencing;
mod history;
mod reading;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use sluice_frame::{BlockBuilder, BlockStart, Frame};
use sluice_model::{
    Digest, Epoch, Filter, FilterSpec, Generation, IngestorName, JournalId, Op, Pointer, TopicRules,
};

use crate::{AppendError, Item, Journal, Open, Opened, ReadFrom, Reader, Receipt, Select, Writer};

pub use appending::*;
pub use fencing::*;
pub use history::*;
pub use reading::*;

/// A way to open the backend under test.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Opens it. Each call finds what earlier ones left; the one before has been closed.
    async fn open(&self) -> Arc<dyn Journal>;
}

/// The journal's id in all tests.
pub const ID: JournalId = JournalId::from_array([0x5a; 16]);

/// The ingestor in all tests.
pub fn name() -> IngestorName {
    "chain".parse().unwrap()
}

/// An open of this epoch.
pub fn opening(epoch: u64) -> Open {
    Open {
        ingestor: name(),
        id: ID,
        epoch: Epoch::from_u64(epoch),
        nonce: Bytes::from(epoch.to_be_bytes().to_vec()),
        holder: "test".to_owned(),
    }
}

/// Creates the journal and opens it at epoch 1.
pub async fn fresh(journal: &dyn Journal) -> Opened {
    journal.create(&name(), ID).await.unwrap();
    journal.open(opening(1)).await.unwrap()
}

/// A store, a key and a value.
pub type Pair<'a> = (&'a str, Vec<u8>, Vec<u8>);

/// The frames of a block of a history.
pub fn block_of(generation: u32, height: u64, parent: Pointer, pairs: &[Pair<'_>]) -> Vec<Frame> {
    let start = BlockStart {
        ingestor: name(),
        generation: Generation(generation),
        pointer: Pointer::from_height(height),
        parent,
        height,
        time: Some(i64::try_from(height).unwrap() * 1_000_000_000),
        epoch: Epoch::ZERO,
    };
    let topics = TopicRules::default();
    let mut builder = BlockBuilder::new(start, &topics);
    for (store, key, value) in pairs {
        builder.push_change(store, Op::Set, key, value).unwrap();
    }
    builder.finish("").into()
}

/// The frames of the block of a height, which differs from every other.
pub fn block(height: u64) -> Vec<Frame> {
    let key = height.to_be_bytes().to_vec();
    block_of(
        0,
        height,
        parent_of(height),
        &[("bank", key.clone(), key.clone()), ("staking", key, vec![7])],
    )
}

/// The pointer before a height; heights begin at 1.
pub fn parent_of(height: u64) -> Pointer {
    if height <= 1 { Pointer::ORIGIN } else { Pointer::from_height(height - 1) }
}

/// Appends all frames and waits for the receipt.
pub async fn append(writer: &mut dyn Writer, frames: Vec<Frame>) -> Result<Receipt, AppendError> {
    let mut ticket = None;
    for frame in frames {
        ticket = writer.append(frame).await?;
    }
    ticket.expect("the last frame gives a ticket").await
}

/// Appends the blocks of these heights.
pub async fn fill(writer: &mut dyn Writer, heights: std::ops::RangeInclusive<u64>) -> Vec<Digest> {
    let mut digests = Vec::new();
    for height in heights {
        digests.push(append(writer, block(height)).await.unwrap().digest);
    }
    digests
}

/// A filter of these stores.
pub fn stores(names: &[&str]) -> Select {
    let stores = names.iter().map(ToString::to_string).collect();
    let spec = FilterSpec { stores, ..FilterSpec::default() };
    Select::from(Arc::new(Filter::compile(&spec).unwrap()))
}

/// A reader of everything.
pub async fn reader(journal: &dyn Journal, from: ReadFrom) -> Box<dyn Reader> {
    journal.read(&name(), from, stores(&[])).await.unwrap()
}

/// The next item, which must come soon.
pub async fn next(reader: &mut dyn Reader) -> Item {
    let item = tokio::time::timeout(Duration::from_secs(10), reader.next()).await;
    item.expect("an item comes").unwrap()
}

/// The heights of the blocks up to the tail; frames of one block count once.
pub async fn heights(reader: &mut dyn Reader) -> Vec<u64> {
    let mut heights: Vec<u64> = Vec::new();
    loop {
        let item = tokio::time::timeout(Duration::from_millis(300), reader.next()).await;
        match item {
            Err(_) => return heights,
            Ok(Ok(Item::Entry(stored))) => heights.push(stored.header.height),
            Ok(Ok(Item::Through(through))) => {
                assert!(!through.position.pointer.is_origin() || through.position.generation.0 > 0);
            }
            Ok(other) => panic!("unexpected {other:?}"),
        }
        heights.dedup();
    }
}

/// Makes a test of every function of the suite. `$backend` is an expression that gives a new,
/// empty [`Backend`].
#[macro_export]
macro_rules! conformance {
    ($backend:expr) => {
        $crate::conformance!(@each $backend;
            creates_once, opens_only_what_is_here, keeps_its_state_over_a_reopen,
            fences_earlier_writers, refuses_older_epochs, repeated_opens_fence_each_other,
            appends_and_reads_in_order, acknowledges_what_it_promises, refuses_a_wrong_parent,
            tells_duplicates_from_divergent_blocks, refuses_what_does_not_fit_its_table,
            refuses_going_back, computes_and_compares_digests, blocks_of_many_frames_are_whole,
            unfinished_blocks_are_never_seen, pipelines_blocks, control_records_are_chained,
            a_new_history_begins_at_its_base, starts_everywhere, refuses_foreign_positions,
            filters_by_route_and_tells_progress, starts_inside_a_block, waits_at_the_tail,
            giving_up_a_read_loses_nothing, verifies_as_sound, trims_behind_holds
        );
    };
    (@each $backend:expr; $($test:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let backend = $backend;
                $crate::conformance::$test(&backend).await;
            }
        )+
    };
}
