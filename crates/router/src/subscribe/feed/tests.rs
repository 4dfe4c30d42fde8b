use std::time::Duration;

use bytes::BytesMut;
use sluice_frame::{BlockEnd, Header, put_change, scan};
use sluice_journal::{Corruption, ReadFrom};
use sluice_model::{Filter, FilterSpec, Generation, Kind, Op, Pointer, TopicRules};

use super::*;

const NOW: fn() -> Instant = Instant::now;

fn end_of(height: u64) -> Position {
    Position::end_of(Generation(0), Pointer::from_height(height))
}

fn digest(height: u64) -> Digest {
    Digest::from_array([height.to_le_bytes()[0]; 32])
}

fn stored(height: u64, part: u32, stores: &[&str], last: bool) -> Item {
    let mut changes = BytesMut::new();
    for (i, store) in (0u8..).zip(stores) {
        put_change(store, Op::Set, &[i], b"v", &mut changes);
    }
    let changes = changes.freeze();
    let table = scan(&changes, &TopicRules::default()).unwrap();
    let pointer = Pointer::from_height(height);
    let mut header = Header::new(Kind::Block, "hub".parse().unwrap(), pointer, height);
    header.part = part;
    header.routes = table.routes;
    header.runs = table.runs;
    header.end = last.then(|| BlockEnd { digest: digest(height), ..BlockEnd::default() });
    Item::Entry(Arc::new(Stored { header: Arc::new(header), changes }))
}

fn through(height: u64) -> Item {
    Item::Through(Through { position: end_of(height), digest: digest(height), height, head: None })
}

struct Setup {
    request: Request,
    options: RouterOptions,
    after: Position,
}

impl Setup {
    fn bank() -> Self {
        let spec = FilterSpec { stores: vec!["bank".into()], ..FilterSpec::default() };
        let request = Request {
            ingestor: "hub".parse().unwrap(),
            filter: Arc::new(Filter::compile(&spec).unwrap()),
            from: ReadFrom::Earliest,
            until: None,
            metadata: false,
            max_frame: None,
        };
        Self { request, options: RouterOptions::default(), after: end_of(0) }
    }

    fn feed(&self, now: Instant) -> Feed {
        let started = Started { after: self.after.clone(), head: None };
        let mut feed = Feed::new(&self.request, &started, &self.options, now);
        assert!(matches!(feed.pop(), Some(Message::Started(_))), "first message");
        feed
    }
}

/// Short words for what is queued.
fn said(feed: &mut Feed) -> Vec<String> {
    std::iter::from_fn(|| feed.pop())
        .map(|message| match message {
            Message::Frame(wire) => {
                let frame = wire.parse().unwrap();
                let end = if frame.header.end.is_some() { " end" } else { "" };
                format!("{}.{}{end}", frame.header.height, frame.header.part)
            }
            Message::Progress(progress) => format!("through {}", progress.height),
            Message::Complete(complete) => {
                let position = Position::try_from(complete.through.unwrap()).unwrap();
                format!("complete {position} {}", complete.digest.len())
            }
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_block_whose_last_part_does_not_match_is_closed_at_once() {
    let now = NOW();
    let mut feed = Setup::bank().feed(now);
    feed.item(stored(1, 0, &["bank"], false), now).unwrap();
    feed.item(stored(1, 1, &["gov"], true), now).unwrap();
    assert_eq!(said(&mut feed), ["1.0", "through 1"]);
    // The same where the reader left the last part out.
    feed.item(stored(2, 0, &["bank"], false), now).unwrap();
    feed.item(through(2), now).unwrap();
    assert_eq!(said(&mut feed), ["2.0", "through 2"]);
    feed.item(stored(3, 0, &["bank"], true), now).unwrap();
    assert_eq!(said(&mut feed), ["3.0 end"], "nothing to add");
}

#[test]
fn a_block_is_closed_before_the_next_even_if_its_end_never_shows() {
    let now = NOW();
    let mut feed = Setup::bank().feed(now);
    feed.item(stored(1, 0, &["bank"], false), now).unwrap();
    feed.item(stored(2, 0, &["bank"], true), now).unwrap();
    assert_eq!(said(&mut feed), ["1.0", "through 1", "2.0 end"]);
}

#[test]
fn progress_is_bounded_in_blocks_and_time() {
    let now = NOW();
    let mut feed = Setup::bank().feed(now);
    for height in 1..=600 {
        feed.item(stored(height, 0, &["gov"], true), now).unwrap();
    }
    assert_eq!(said(&mut feed), ["through 256", "through 512"]);
    assert_eq!(feed.due(), Some(now + Duration::from_millis(20)));
    let later = now + Duration::from_millis(200);
    feed.item(stored(601, 0, &["gov"], true), later).unwrap();
    assert_eq!(said(&mut feed), ["through 601"]);
    assert_eq!(feed.due(), None);
    feed.item(through(602), later).unwrap();
    assert_eq!(said(&mut feed), [""; 0]);
    feed.flush(later);
    assert_eq!(said(&mut feed), ["through 602"]);
}

#[test]
fn a_match_covers_the_progress_before_it() {
    let now = NOW();
    let mut feed = Setup::bank().feed(now);
    feed.item(through(1), now).unwrap();
    feed.item(stored(2, 0, &["bank"], true), now).unwrap();
    feed.flush(now);
    assert_eq!(said(&mut feed), ["2.0 end"]);
}

#[test]
fn a_bounded_read_completes_at_its_last_height() {
    let now = NOW();
    let mut setup = Setup::bank();
    setup.request.until = Some(3);
    for last in [stored(3, 0, &["bank"], true), stored(3, 0, &["gov"], true), through(3)] {
        let mut feed = setup.feed(now);
        feed.item(stored(2, 0, &["bank"], true), now).unwrap();
        feed.item(last, now).unwrap();
        assert_eq!(feed.end(), End::Complete);
        assert_eq!(said(&mut feed).last().unwrap(), "complete 3 32");
    }
    // A height that does not exist, and a stretch that jumps over it.
    for beyond in [stored(5, 0, &["bank"], true), through(5)] {
        let mut feed = setup.feed(now);
        feed.item(stored(1, 0, &["bank"], true), now).unwrap();
        feed.item(beyond, now).unwrap();
        assert_eq!(feed.end(), End::Passed);
        feed.complete(end_of(2));
        assert_eq!(said(&mut feed), ["1.0 end", "complete 2 0"]);
    }
    setup.after = end_of(3);
    assert_eq!(setup.feed(now).end(), End::Complete, "nothing left to read");
}

#[test]
fn a_start_inside_a_block_sends_only_what_follows() {
    let now = NOW();
    let mut setup = Setup::bank();
    setup.after = Position { index: 1, ..end_of(1) };
    let mut feed = setup.feed(now);
    feed.item(stored(1, 0, &["bank", "bank", "gov", "bank"], true), now).unwrap();
    feed.item(stored(2, 0, &["bank", "bank"], true), now).unwrap();
    let indices: Vec<Vec<u32>> = std::iter::from_fn(|| feed.pop())
        .map(|message| {
            let Message::Frame(wire) = message else { panic!("{message:?}") };
            let frame = wire.parse().unwrap();
            frame.verify().unwrap();
            frame.changes().map(|change| change.unwrap().0).collect()
        })
        .collect();
    assert_eq!(indices, [vec![3], vec![0, 1]]);
}

#[test]
fn the_block_of_a_start_inside_it_is_closed_although_nothing_of_it_is_left() {
    let now = NOW();
    let mut setup = Setup::bank();
    setup.after = Position { index: 0, ..end_of(1) };
    for rest in [Some(stored(1, 1, &["gov"], true)), Some(through(1)), None] {
        let mut feed = setup.feed(now);
        rest.map(|rest| feed.item(rest, now)).transpose().unwrap();
        feed.item(stored(2, 0, &["bank"], true), now).unwrap();
        assert_eq!(said(&mut feed), ["through 1", "2.0 end"]);
    }
}

#[test]
fn too_large_and_corrupt_end_the_stream_after_what_is_decided() {
    let now = NOW();
    let mut setup = Setup::bank();
    setup.request.max_frame = Some(8);
    let mut feed = setup.feed(now);
    feed.item(through(1), now).unwrap();
    let refused = feed.item(stored(2, 0, &["bank"], true), now).unwrap_err();
    assert_eq!(reason::of(&refused), Some(reason::TOO_LARGE));
    assert_eq!(said(&mut feed), ["through 1"]);

    let mut feed = Setup::bank().feed(now);
    feed.item(through(1), now).unwrap();
    let corruption = Corruption {
        after: end_of(1),
        through: None,
        digest: None,
        file: "f".into(),
        offset: 0,
        cause: "c".into(),
    };
    let refused = feed.item(Item::Corrupt(corruption), now).unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss);
    assert_eq!(said(&mut feed), ["through 1"]);
}
