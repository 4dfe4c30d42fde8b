use proptest::prelude::*;
use sluice_model::{Generation, Pointer};

use super::*;
use crate::piece::{fit, split};
use crate::testing::{batcher, block, changes_of, digest, end_of, shaped, through};

const WAIT: Duration = Duration::from_millis(500);

fn keys(count: u8) -> Vec<(&'static str, Vec<u8>)> {
    (0..count).map(|n| ("bank", vec![n])).collect()
}

fn ids(batch: &Batch) -> Vec<String> {
    let mut ids = Vec::new();
    batch.for_each_event(|event| ids.push(event.id().to_string())).unwrap();
    ids
}

#[test]
fn cuts_by_count_inside_a_block_and_loses_nothing() {
    let now = Instant::now();
    let mut batcher = batcher(2, WAIT);
    batcher.push_frame(block(1, &keys(5)), now).unwrap();
    let first = batcher.take(now).unwrap().unwrap();
    let second = batcher.take(now).unwrap().unwrap();
    assert_eq!(batcher.take(now).unwrap().map(|batch| ids(&batch)), None, "one event is no batch");
    let third = batcher.take(now + WAIT).unwrap().unwrap();
    assert_eq!([ids(&first), ids(&second), ids(&third)].map(|ids| ids.len()), [2, 2, 1],);
    assert_eq!(first.after(), &end_of(0));
    assert_eq!(second.after(), &first.through().position);
    assert_eq!(second.through().position.index, 3);
    assert_eq!(second.through().digest, None, "inside a block no digest is known");
    assert_eq!(third.through(), &through(1).0);
    assert_eq!([first.number(), second.number(), third.number()], [1, 2, 3]);
    assert_eq!(third.first_id().unwrap().to_string(), "00000000000000000001-00000004");
    assert_eq!(third.last_id(), third.first_id());
    assert!(first.traceparent().is_none() && third.traceparent().is_some());
}

#[test]
fn the_first_events_wait_counts_and_later_ones_do_not_extend_it() {
    let now = Instant::now();
    let mut batcher = batcher(50, WAIT);
    assert_eq!(batcher.deadline(), None);
    batcher.push_frame(block(1, &keys(1)), now).unwrap();
    batcher.push_frame(block(2, &keys(1)), now + WAIT / 2).unwrap();
    assert_eq!(batcher.deadline(), Some(now + WAIT));
    assert!(batcher.take(now + WAIT - Duration::from_nanos(1)).unwrap().is_none());
    assert_eq!(batcher.take(now + WAIT).unwrap().unwrap().event_count(), 2);
    assert_eq!(batcher.deadline(), None);
}

#[test]
fn cuts_by_bytes_and_a_larger_change_goes_alone() {
    let now = Instant::now();
    let count = NonZeroUsize::new(50).unwrap();
    let mut batcher = shaped(BatchShape::Events { count, bytes: 400, wait: WAIT });
    let large = vec![9; 1000];
    let pairs = [("a", vec![1; 100]), ("a", vec![2; 100]), ("a", large), ("a", vec![4])];
    batcher.push_frame(block(1, &pairs), now).unwrap();
    assert!(!batcher.has_room());
    let sizes: Vec<usize> =
        std::iter::from_fn(|| batcher.drain().unwrap()).map(|batch| batch.event_count()).collect();
    assert_eq!(sizes, [2, 1, 1]);
    assert_eq!(batcher.waiting_bytes(), 0);
}

#[test]
fn a_stretch_without_matches_extends_what_waits_and_never_passes_it() {
    let now = Instant::now();
    let mut batcher = batcher(50, WAIT);
    batcher.push_frame(block(1, &keys(1)), now).unwrap();
    let (at, height) = through(300);
    batcher.push_through(at.clone(), height, now).unwrap();
    assert_eq!(batcher.progress(), None, "an event waits");
    let batch = batcher.take(now + WAIT).unwrap().unwrap();
    assert_eq!((batch.through(), batch.through_height()), (&at, 300));
    assert_eq!(batcher.progress(), None, "the batch told it");
    let (at, height) = through(400);
    batcher.push_through(at.clone(), height, now).unwrap();
    assert_eq!(batcher.progress().unwrap().0.at, at);
    assert_eq!(batcher.deadline(), None, "there are no empty batches");
    assert!(batcher.take(now + WAIT * 9).unwrap().is_none());
    batcher.push_frame(block(401, &keys(1)), now).unwrap();
    assert_eq!(batcher.drain().unwrap().unwrap().after(), &end_of(300), "no hole for the receiver");
}

#[test]
fn what_goes_backwards_or_does_not_verify_is_refused() {
    let now = Instant::now();
    let mut batcher = batcher(50, WAIT);
    batcher.push_frame(block(5, &keys(2)), now).unwrap();
    for frame in [block(5, &keys(2)), block(4, &keys(1))] {
        assert!(matches!(batcher.push_frame(frame, now), Err(BatchError::Order { .. })));
    }
    let (at, height) = through(4);
    assert!(matches!(batcher.push_through(at, height, now), Err(BatchError::Order { .. })));
    let mut broken = block(6, &keys(2));
    broken.header.runs[0].count = 1;
    assert!(matches!(batcher.push_frame(broken, now), Err(BatchError::Frame { .. })));
}

#[test]
fn the_end_of_a_block_may_come_without_changes() {
    let now = Instant::now();
    let mut batcher = batcher(50, WAIT);
    let mut part = block(1, &keys(2));
    let mut end = part.clone();
    part.header.end = None;
    end.header.runs.clear();
    end.changes.clear();
    end.header.first_index = 2;
    batcher.push_frame(part, now).unwrap();
    batcher.push_frame(end, now).unwrap();
    let batch = batcher.take(now + WAIT).unwrap().unwrap();
    assert_eq!(batch.through(), &through(1).0);
    assert_eq!(batch.frames().len(), 1);
}

#[test]
fn marks_stand_where_they_came_and_are_a_batch_of_their_own_if_need_be() {
    let now = Instant::now();
    let mut batcher = batcher(50, WAIT);
    let gap = MarkKind::Gap {
        from: Pointer::from_height(2),
        to: Pointer::from_height(3),
        cause: "pruned".to_owned(),
    };
    batcher.push_frame(block(1, &keys(1)), now).unwrap();
    batcher.push_mark(gap.clone(), Some(end_of(3)), now).unwrap();
    batcher.push_frame(block(4, &keys(1)), now).unwrap();
    let rewind = MarkKind::Rewind {
        generation: Generation(1),
        base_generation: Generation(0),
        base: Pointer::from_height(2),
        digest: digest(2),
        reason: "rollback".to_owned(),
    };
    let batch = batcher.drain().unwrap().unwrap();
    assert_eq!(batch.marks(), [Mark { before: 1, what: gap }]);
    batcher.push_mark(rewind.clone(), None, now).unwrap();
    assert_eq!(batcher.progress(), None, "a mark waits");
    let alone = batcher.take(now + WAIT).unwrap().unwrap();
    assert_eq!(alone.marks(), [Mark { before: 0, what: rewind }]);
    assert!(!alone.is_progress() && alone.event_count() == 0);
    let mut next = block(3, &keys(1));
    next.header.generation = Generation(1);
    batcher.push_frame(next, now).unwrap();
    let id = batcher.drain().unwrap().unwrap().first_id().unwrap().to_string();
    assert_eq!(id, "z0001-00000000000000000003-00000000");
}

#[test]
fn blocks_are_cut_at_their_ends() {
    let now = Instant::now();
    let size = block(1, &keys(2)).changes.len();
    let mut batcher = shaped(BatchShape::Blocks { bytes: size * 2 + 1, wait: WAIT });
    for height in 1..=3 {
        batcher.push_frame(block(height, &keys(2)), now).unwrap();
    }
    let batch = batcher.take(now).unwrap().unwrap();
    assert_eq!(batch.through().position, end_of(2));
    let mut part = block(4, &keys(2));
    part.header.end = None;
    batcher.push_frame(part, now).unwrap();
    let due = batcher.take(now + WAIT).unwrap().unwrap();
    assert_eq!(due.through().position, end_of(3), "the unfinished block waits");
    assert!(batcher.drain().unwrap().is_none());
    let (at, height) = through(4);
    batcher.push_through(at, height, now).unwrap();
    assert_eq!(batcher.drain().unwrap().unwrap().through().position, end_of(4));
}

#[test]
fn a_block_larger_than_a_batch_is_cut_between_frames() {
    let now = Instant::now();
    let mut batcher = shaped(BatchShape::Blocks { bytes: 10, wait: WAIT });
    let mut part = block(1, &keys(2));
    let mut rest = part.clone();
    part.header.end = None;
    rest.header.first_index = 2;
    batcher.push_frame(part, now).unwrap();
    let first = batcher.take(now).unwrap().unwrap();
    assert_eq!(first.through().position.index, 1);
    batcher.push_frame(rest, now).unwrap();
    let second = batcher.take(now).unwrap().unwrap();
    assert_eq!((first.frames().len(), second.frames().len()), (1, 1));
    assert_eq!(second.through().position, end_of(1));
}

#[test]
fn news_without_events_reach_block_batches() {
    let now = Instant::now();
    let mut batcher = shaped(BatchShape::Blocks { bytes: 1000, wait: WAIT });
    let (at, height) = through(500);
    batcher.push_through(at, height, now).unwrap();
    let (later, height) = through(900);
    batcher.push_through(later.clone(), height, now + WAIT / 2).unwrap();
    assert_eq!(batcher.progress(), None, "the destination hears it in a batch");
    assert_eq!(batcher.deadline(), Some(now + WAIT));
    let batch = batcher.take(now + WAIT).unwrap().unwrap();
    assert!(batch.is_progress() && batch.through() == &later && batch.after() == &end_of(0));
    assert!(batcher.take(now + WAIT * 3).unwrap().is_none() && batcher.deadline().is_none());
}

#[test]
fn receipts_of_a_part() {
    let now = Instant::now();
    let mut batcher = batcher(50, WAIT);
    for height in 1..=3 {
        batcher.push_frame(block(height, &keys(2)), now).unwrap();
    }
    let batch = batcher.drain().unwrap().unwrap();
    let part = batch.delivered_until(&end_of(2)).unwrap();
    assert_eq!(part.checkpoint(), Some(&through(2).0));
    assert_eq!(batch.delivered().checkpoint(), Some(&through(3).0));
    assert!(batch.held().checkpoint().is_none());
    assert!(batch.delivered_until(&end_of(0)).is_none());
    assert!(batch.delivered_until(&end_of(4)).is_none());
}

#[test]
fn ids_name_the_content_not_the_attempt() {
    let now = Instant::now();
    let cut = |count: usize| {
        let mut batcher = batcher(count, WAIT);
        batcher.push_frame(block(1, &keys(4)), now).unwrap();
        batcher.take(now).unwrap().unwrap().id()
    };
    assert_eq!(cut(2), cut(2));
    assert_ne!(cut(2), cut(3));
    assert_eq!(cut(2).as_str().len(), 32);
}

proptest! {
    /// Whatever the sizes, batches follow each other without a hole and hold every event once.
    #[test]
    fn batches_tile_the_stream(
        blocks in proptest::collection::vec(0u8..9, 1..20),
        count in 1usize..7, bytes in 1usize..200, take_every in 1usize..5,
    ) {
        let now = Instant::now();
        let count = NonZeroUsize::new(count).unwrap();
        let mut batcher = shaped(BatchShape::Events { count, bytes, wait: WAIT });
        let mut expected = Vec::new();
        let mut cut = Vec::new();
        for (i, size) in blocks.iter().enumerate() {
            let height = i as u64 + 1;
            if *size == 0 {
                let (at, height) = through(height);
                batcher.push_through(at, height, now).unwrap();
            } else {
                let frame = block(height, &keys(*size));
                expected.extend(changes_of(&frame).into_iter().map(|c| (height, c.0)));
                batcher.push_frame(frame, now).unwrap();
            }
            if i % take_every == 0 {
                cut.extend(batcher.take(now).unwrap());
            }
        }
        while let Some(batch) = batcher.drain().unwrap() {
            cut.push(batch);
        }
        let mut seen = Vec::new();
        let mut at = end_of(0);
        for batch in &cut {
            prop_assert_eq!(batch.after(), &at);
            at = batch.through().position.clone();
            prop_assert!(batch.event_count() <= count.get() && batch.event_count() > 0);
            prop_assert!(batch.bytes() <= bytes || batch.event_count() == 1);
            batch.for_each_event(|event| {
                assert!(event.position > batch.after() && *event.position <= at);
                seen.push((event.height, event.position.index));
            }).unwrap();
        }
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(batcher.waiting_bytes(), 0);
    }
}

#[test]
fn a_frame_cut_behind_the_start_goes_on_inside_its_block() {
    let now = Instant::now();
    let start = Checkpoint { position: Position { index: 1, ..end_of(7) }, digest: None };
    let resumed = || {
        let shape = shaped(BatchShape::Blocks { bytes: 1 << 20, wait: WAIT }).shape;
        let origin = crate::testing::origin(sluice_model::Epoch::from_u64(9));
        Batcher::new(origin, shape, start.position.clone(), start.clone())
    };
    let whole = block(7, &keys(4));
    let found = fit(&whole, 2, usize::MAX, false).unwrap();
    let (_, mut rest) = split(whole, found);
    // As the router sends it: the first index stays, the run skips what is done.
    rest.header.first_index = 0;
    rest.header.runs[0].skip = 2;
    let mut batcher = resumed();
    batcher.push_frame(rest.clone(), now).unwrap();
    assert_eq!(batcher.drain().unwrap().unwrap().event_count(), 2);
    rest.header.runs[0].skip = 1;
    assert!(matches!(resumed().push_frame(rest, now), Err(BatchError::Order { .. })));
}
