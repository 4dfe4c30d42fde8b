use std::time::Duration;

use super::{
    Backend, append, block_of, fill, fresh, heights, large, name, next, parent_of, reader, stores,
};
use crate::{Item, ReadError, ReadFrom, Select, Writer};
use sluice_frame::{BlockEnd, Frame};
use sluice_model::{Digest, END_OF_BLOCK, Generation, Pointer, Position};

fn at(height: u64) -> Position {
    Position::end_of(Generation(0), Pointer::from_height(height))
}

/// Every way to begin.
pub async fn starts_everywhere(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    let digests = fill(writer.as_mut(), 1..=6).await;
    for (from, expected) in [
        (ReadFrom::Earliest, 1..=6),
        (ReadFrom::After(Position::ORIGIN, None), 1..=6),
        (ReadFrom::After(at(2), None), 3..=6),
        (ReadFrom::After(at(2), Some(digests[1])), 3..=6),
        (ReadFrom::Height(4), 4..=6),
        (ReadFrom::Time(4_500_000_000), 5..=6),
        (ReadFrom::Last(2), 5..=6),
        (ReadFrom::Last(99), 1..=6),
    ] {
        let mut some = reader(journal.as_ref(), from.clone()).await;
        assert_eq!(heights(some.as_mut()).await, expected.collect::<Vec<_>>(), "{from:?}");
    }
    for from in [ReadFrom::Latest, ReadFrom::After(at(6), Some(digests[5])), ReadFrom::Height(7)] {
        let mut none = reader(journal.as_ref(), from.clone()).await;
        assert_eq!(none.started().head.as_ref().unwrap().height, 6);
        assert_eq!(none.started().after, at(6));
        assert!(heights(none.as_mut()).await.is_empty(), "{from:?}");
    }
    journal.close().await;
}

/// A position that the journal does not have is an error, never a wait.
pub async fn refuses_foreign_positions(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    let name = name();
    let after =
        |position, digest| journal.read(&name, ReadFrom::After(position, digest), stores(&[]));
    let error = after(at(1), None).await.unwrap_err();
    assert!(matches!(error, ReadError::Diverged { head: None }), "{error}");
    fill(writer.as_mut(), 1..=3).await;
    let unknown = Position { generation: Generation(1), ..at(2) };
    for (position, digest) in
        [(at(4), None), (unknown, None), (at(2), Some(Digest::from_array([1; 32])))]
    {
        let error = after(position, digest).await.unwrap_err();
        assert!(matches!(error, ReadError::Diverged { head: Some(_) }), "{error}");
    }
    journal.close().await;
}

/// Only frames with a matching route come, and progress for the rest.
pub async fn filters_by_route_and_tells_progress(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    let mut digests = Vec::new();
    for height in 1..=40 {
        let store = if height % 10 == 0 { "gov" } else { "bank" };
        let pairs = [(store, vec![1], vec![2])];
        let block = block_of(0, height, parent_of(height), &pairs);
        digests.push(append(writer.as_mut(), block).await.unwrap().digest);
    }
    let mut some = journal.read(&name(), ReadFrom::Earliest, stores(&["gov"])).await.unwrap();
    for height in [10, 20, 30, 40] {
        let stored = loop {
            match next(some.as_mut()).await {
                Item::Entry(stored) => break stored,
                Item::Through(through) => assert!(through.height < height),
                other => panic!("unexpected {other:?}"),
            }
        };
        assert_eq!(stored.header.height, height);
    }
    let mut none = journal.read(&name(), ReadFrom::Earliest, stores(&["mint"])).await.unwrap();
    let Item::Through(through) = next(none.as_mut()).await else { panic!("progress") };
    assert_eq!((through.position, through.digest, through.height), (at(40), digests[39], 40));
    assert_eq!(through.head.unwrap().height, 40);
    let select = Select { headers_only: true, ..stores(&["gov"]) };
    let mut headers = journal.read(&name(), ReadFrom::Earliest, select).await.unwrap();
    let Item::Entry(stored) = next(headers.as_mut()).await else { panic!("a frame") };
    assert!(stored.changes.is_empty() && stored.header.changes() == 1);
    // Both frames of staking's two in a block of five; its last frame holds bank.
    fill(writer.as_mut(), 41..=41).await;
    append(writer.as_mut(), large(42)).await.unwrap();
    let mut part =
        journal.read(&name(), ReadFrom::After(at(41), None), stores(&["staking"])).await.unwrap();
    let mut parts = 0;
    let through = loop {
        match next(part.as_mut()).await {
            Item::Entry(stored) => {
                assert!(stored.header.end.is_none() && stored.header.height == 42);
                parts += 1;
            }
            Item::Through(through) => break through,
            other => panic!("unexpected {other:?}"),
        }
    };
    assert!(parts > 0 && through.position == at(42), "progress follows the last frame");
    tells_the_end_of_every_block(journal.as_ref(), writer.as_mut()).await;
    journal.close().await;
}

/// A small block of two frames: one of staking, and a last one of bank.
fn in_two(height: u64) -> Vec<Frame> {
    let part = |number: u32, store| {
        let pairs = [(store, vec![1], height.to_be_bytes().to_vec())];
        let mut frame = block_of(0, height, parent_of(height), &pairs).remove(0);
        (frame.header.part, frame.header.first_index) = (number, number);
        let end = BlockEnd { parts: 2, changes: 2, ..BlockEnd::default() };
        frame.header.end = (number == 1).then_some(end);
        frame
    };
    vec![part(0, "staking"), part(1, "bank")]
}

/// Behind block 42 of [`filters_by_route_and_tells_progress`]: the end of a block is told right
/// behind its last frame that matches, also where more blocks are there already.
async fn tells_the_end_of_every_block(journal: &dyn crate::Journal, writer: &mut dyn Writer) {
    let mut digests = Vec::new();
    for height in 43..=50 {
        digests.push(append(writer, in_two(height)).await.unwrap().digest);
    }
    let from = ReadFrom::After(at(42), None);
    let mut some = journal.read(&name(), from, stores(&["staking"])).await.unwrap();
    for (height, digest) in (43..).zip(digests) {
        let Item::Entry(stored) = next(some.as_mut()).await else { panic!("a frame") };
        assert!(stored.header.height == height && stored.header.end.is_none());
        let Item::Through(through) = next(some.as_mut()).await else { panic!("the end") };
        assert_eq!((through.position, through.digest), (at(height), digest));
    }
}

/// Frames that end at or before the index are left out.
pub async fn starts_inside_a_block(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    append(writer.as_mut(), large(1)).await.unwrap();
    let frames = large(1);
    let second = frames[1].header.first_index;
    let inside = Position { index: second - 1, ..at(1) };
    assert_ne!(inside.index, END_OF_BLOCK);
    let mut rest = reader(journal.as_ref(), ReadFrom::After(inside.clone(), None)).await;
    assert_eq!(rest.started().after, inside);
    let Item::Entry(stored) = next(rest.as_mut()).await else { panic!("a frame") };
    assert_eq!(stored.header.part, 1);
    let inside = Position { index: second, ..at(1) };
    let mut rest = reader(journal.as_ref(), ReadFrom::After(inside, None)).await;
    let Item::Entry(stored) = next(rest.as_mut()).await else { panic!("a frame") };
    assert_eq!(stored.header.part, if frames[1].header.next_index() > second + 1 { 1 } else { 2 });
    journal.close().await;
}

/// A reader at the tail gets what comes, soon and without polling.
pub async fn waits_at_the_tail(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    let mut live = reader(journal.as_ref(), ReadFrom::Latest).await;
    let appending = tokio::spawn(async move {
        fill(writer.as_mut(), 1..=100).await;
    });
    let mut expected = 1;
    while expected <= 100 {
        if let Item::Entry(stored) = next(live.as_mut()).await {
            assert_eq!(stored.header.height, expected);
            expected += 1;
        }
    }
    appending.await.unwrap();
    journal.close().await;
    let end = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Err(error) = live.next().await {
                return error;
            }
        }
    });
    assert!(matches!(end.await.unwrap(), ReadError::Closed));
}

/// `next` is cancel safe.
pub async fn giving_up_a_read_loses_nothing(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    fill(writer.as_mut(), 1..=200).await;
    let mut all = reader(journal.as_ref(), ReadFrom::Earliest).await;
    let mut seen = Vec::new();
    for round in 0u64.. {
        // Gives up after a few polls, at a point that differs from round to round.
        let patience = Duration::from_micros(round % 7 * 30);
        match tokio::time::timeout(patience, all.next()).await {
            Ok(Ok(Item::Entry(stored))) => seen.push(stored.header.height),
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => panic!("{error}"),
        }
        if seen.len() >= 200 || round > 100_000 {
            break;
        }
    }
    assert_eq!(seen, (1..=200).collect::<Vec<_>>());
    journal.close().await;
}

/// A journal that was only appended to is sound.
pub async fn verifies_as_sound(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    fill(writer.as_mut(), 1..=30).await;
    append(writer.as_mut(), large(31)).await.unwrap();
    let report = journal.verify(&name(), Box::new(|_| ())).await.unwrap();
    assert!(report.is_sound(), "{:?}", report.corruptions);
    assert_eq!((report.blocks, report.changes), (31, 65));
    assert_eq!(report.head.unwrap().height, 31);
    journal.close().await;
}

/// Retention keeps what is held, and the head block always. Asks for a backend whose retention
/// keeps one block.
pub async fn trims_behind_holds(backend: &dyn Backend) {
    let journal = backend.open().await;
    let mut writer = fresh(journal.as_ref()).await.writer;
    fill(writer.as_mut(), 1..=200).await;
    let now = i64::MAX;
    assert_eq!(journal.trim(&name(), None, now).await.unwrap().blocks, 0, "no list of holds");
    journal.trim(&name(), Some(&[at(100)]), now).await.unwrap();
    let status = journal.status(&name()).await.unwrap();
    assert!(status.oldest_height > 1 && status.oldest <= at(100), "{status:?}");
    let mut held = reader(journal.as_ref(), ReadFrom::After(at(100), None)).await;
    assert_eq!(heights(held.as_mut()).await, (101..=200).collect::<Vec<_>>());
    let error = journal.read(&name(), ReadFrom::After(at(1), None), stores(&[])).await.unwrap_err();
    assert!(matches!(error, ReadError::OutOfRange { oldest } if oldest == status.oldest));
    reader(journal.as_ref(), ReadFrom::After(status.oldest, None)).await;
    journal.trim(&name(), Some(&[]), now).await.unwrap();
    let status = journal.status(&name()).await.unwrap();
    assert!(status.blocks >= 1 && status.oldest > at(100));
    assert_eq!(status.head.unwrap().height, 200);
    let receipt = append(writer.as_mut(), super::block(1)).await.unwrap();
    assert!(receipt.unverifiable && receipt.duplicate);
    fill(writer.as_mut(), 201..=201).await;
    journal.close().await;
}
