use sluice_frame::{BlockEnd, Header, Metadata, Route, RouteTable, Run};
use sluice_model::Kind;

use super::*;

fn digest(height: u64) -> Digest {
    Digest::from_array([height.to_le_bytes()[0]; 32])
}

fn end(height: u64) -> Position {
    Position::end_of(Generation(0), Pointer::from_height(height))
}

fn at(height: u64, index: u32) -> Position {
    Position { index, ..end(height) }
}

/// A frame with changes `first..first + count` of a block.
fn frame(height: u64, part: u32, (first, count): (u32, u32), last: bool) -> Frame {
    let pointer = Pointer::from_height(height);
    let mut header = Header::new(Kind::Block, "hub".parse().unwrap(), pointer, height);
    header.parent = Pointer::from_height(height - 1);
    header.part = part;
    header.first_index = first;
    header.routes = RouteTable::new(vec![Route { store: "bank".into(), topic: "".into() }]);
    header.runs = vec![Run { route: 0, count, bytes: 9 * count, skip: 0 }];
    if count == 0 {
        header.runs.clear();
    }
    header.end = last.then(|| BlockEnd {
        parts: part + 1,
        changes: first + count,
        digest: digest(height),
        parent_digest: digest(height - 1),
        ..BlockEnd::default()
    });
    Frame { header, changes: bytes::Bytes::new() }
}

fn tracker(start: impl Into<Start>, metadata: bool) -> Tracker {
    Tracker::new("hub".parse().unwrap(), start.into(), metadata)
}

fn after(position: Position, digest: Option<Digest>) -> Start {
    Start::After(Checkpoint { position, digest })
}

#[test]
fn resumes_after_what_was_delivered() {
    let mut tracker = tracker(StartPosition::Earliest, false);
    assert_eq!(tracker.resume(), Start::At(StartPosition::Earliest));
    tracker.started(&Position::ORIGIN).unwrap();
    assert_eq!(tracker.resume(), Start::At(StartPosition::Earliest), "nothing delivered yet");

    assert!(tracker.frame(frame(5, 0, (0, 3), false)).unwrap().is_some());
    assert_eq!(tracker.resume(), after(at(5, 2), None));
    assert_eq!(tracker.checkpoint().unwrap().position, at(5, 2));
    assert!(!tracker.reached(5), "the block is not complete");

    assert!(tracker.frame(frame(5, 1, (3, 1), true)).unwrap().is_some());
    assert_eq!(tracker.resume(), after(end(5), Some(digest(5))));
    assert!(tracker.reached(5));

    assert!(tracker.through(end(9), Some(digest(9)), Some(9)).unwrap());
    assert!(!tracker.through(end(9), Some(digest(9)), Some(9)).unwrap(), "nothing new");
    assert_eq!(tracker.resume(), after(end(9), Some(digest(9))));
}

#[test]
fn latest_is_decided_once() {
    let mut tracker = tracker(StartPosition::Latest, false);
    tracker.started(&end(7)).unwrap();
    assert_eq!(tracker.resume(), after(end(7), None));
    assert!(matches!(tracker.started(&end(9)), Err(Broken::StartedLate { .. })));
    tracker.started(&end(7)).unwrap();
}

#[test]
fn a_late_start_is_noticed() {
    let mut tracker = tracker(Checkpoint { position: end(5), digest: None }, false);
    assert!(matches!(tracker.started(&end(6)), Err(Broken::StartedLate { .. })));
    tracker.started(&end(5)).unwrap();
}

#[test]
fn order_is_checked() {
    let mut tracker = tracker(StartPosition::Earliest, false);
    tracker.frame(frame(5, 0, (0, 3), true)).unwrap();
    let again = tracker.frame(frame(5, 0, (0, 3), true));
    assert!(matches!(again, Err(Broken::Backwards { .. })), "{again:?}");
    assert!(matches!(tracker.through(end(4), None, None), Err(Broken::Backwards { .. })));
    tracker.frame(frame(6, 0, (0, 3), false)).unwrap();
    let overlap = tracker.frame(frame(6, 1, (2, 3), false));
    assert!(matches!(overlap, Err(Broken::Backwards { .. })), "{overlap:?}");
    let next = tracker.frame(frame(7, 0, (0, 1), true));
    assert!(matches!(next, Err(Broken::Unfinished { .. })), "{next:?}");
    assert!(matches!(tracker.through(end(5), None, None), Err(Broken::Backwards { .. })));
    assert!(tracker.through(end(6), None, None).unwrap());
}

#[test]
fn a_broken_chain_is_noticed() {
    let mut tracker = tracker(Checkpoint { position: end(5), digest: Some(digest(5)) }, false);
    assert!(tracker.frame(frame(6, 0, (0, 1), true)).is_ok());
    let mut other = frame(7, 0, (0, 1), true);
    other.header.end.as_mut().unwrap().parent_digest = digest(99);
    assert!(matches!(tracker.frame(other), Err(Broken::Digest { .. })));
    let named_anew = tracker.through(end(6), Some(digest(98)), None);
    assert!(matches!(named_anew, Err(Broken::Digest { .. })), "{named_anew:?}");
    // Blocks without a match lie between: the link cannot be seen, and is not guessed.
    let mut later = frame(9, 0, (0, 1), true);
    later.header.end.as_mut().unwrap().parent_digest = digest(99);
    assert!(tracker.frame(later).is_ok());
}

#[test]
fn with_metadata_the_block_comes_again_and_parts_are_dropped() {
    let mut tracker = tracker(StartPosition::Earliest, true);
    tracker.started(&end(4)).unwrap();
    let piece = |part, last| {
        let mut piece = frame(5, part, (3, 0), last);
        piece.header.metadata = Some(Metadata { type_url: "t".into(), value: "v".into() });
        piece
    };
    assert!(tracker.frame(frame(5, 0, (0, 3), false)).unwrap().is_some());
    assert!(tracker.frame(piece(1, false)).unwrap().is_some());
    assert_eq!(tracker.resume(), after(end(4), None), "from the block's begin");
    tracker.started(&end(4)).unwrap();
    assert!(tracker.frame(frame(5, 0, (0, 3), false)).unwrap().is_none(), "a repeat");
    assert!(tracker.frame(piece(1, false)).unwrap().is_none(), "a repeat");
    assert!(tracker.frame(piece(2, true)).unwrap().is_some());
    assert_eq!(tracker.resume(), after(end(5), Some(digest(5))));
}

#[test]
fn a_rewind_leads_to_the_next_generation() {
    let mut tracker = tracker(StartPosition::Earliest, false);
    tracker.frame(frame(9, 0, (0, 1), true)).unwrap();
    let base = Position::end_of(Generation(1), Pointer::from_height(7));
    let rewind = Rewind {
        through: base.clone(),
        base: end(7),
        base_digest: digest(7),
        reason: "rollback".into(),
        actor: "op".into(),
    };
    tracker.rewind(&rewind).unwrap();
    assert_eq!(tracker.resume(), after(base, Some(digest(7))));
    let mut next = frame(8, 0, (0, 1), true);
    next.header.generation = Generation(1);
    assert!(tracker.frame(next).unwrap().is_some());
    assert!(matches!(tracker.rewind(&rewind), Err(Broken::Backwards { .. })));
}
