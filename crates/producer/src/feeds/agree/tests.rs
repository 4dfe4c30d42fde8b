//! The gate over fakes: what it lets through, how far it looks ahead, and in which order.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::BytesMut;
use sluice_frame::{StateDigest, put_change};
use sluice_model::Op;
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

use super::{
    super::{
        FeedOptions,
        peers::{Answer, Frames, Owner, Peer, PeerError, Peers},
        tests::{World, at, end_of, feeds, feeds_of, ingestor, options},
    },
    *,
};

const SOON: Duration = Duration::from_secs(20);

/// What the gate says to a feed that gives these answers, one after the other.
async fn gate(answers: Vec<Answer>, ours: &BlockEnd) -> (bool, Vec<String>, Vec<String>) {
    let dir = TempDir::new().unwrap();
    let world = Arc::new(World { answers: Mutex::new(answers), ..World::default() });
    let feeds = feeds(&world, FeedOptions { agree: 2, ..options(dir.path()) });
    let mut gate = Gate::new(feeds.shared.clone());
    let block = Unconfirmed { place: (Generation(0), at(1)), end: ours.clone() };
    let confirmed = async {
        let said = gate.ask(block.place.clone()).await;
        gate.confirmed(&block, said).await
    };
    let confirmed = timeout(Duration::from_millis(300), confirmed).await.is_ok();
    let halts = world.halts.lock().clone();
    (confirmed, halts, feeds.shared.status.message().repairs)
}

#[tokio::test]
async fn the_gate_opens_for_the_same_waits_for_what_is_to_come_and_halts_for_another() {
    let ours = end_of(1, "bank", b"a");
    let same = || Answer::Captured(end_of(1, "bank", b"a"));
    let (confirmed, halts, notes) =
        gate(vec![Answer::Pending, Answer::Pending, same()], &ours).await;
    assert!(confirmed && halts.is_empty() && notes.is_empty(), "{halts:?} {notes:?}");
    let (confirmed, halts, notes) = gate(vec![Answer::Passed], &ours).await;
    assert!(!confirmed && halts.is_empty());
    assert!(notes[0].contains("http://peer.test does not have it"), "{notes:?}");
    let other = Answer::Captured(end_of(1, "bank", b"b"));
    let (confirmed, halts, _) = gate(vec![other], &ours).await;
    assert!(!confirmed);
    assert_eq!(halts.len(), 1, "told once");
    for part in ["block 1: store bank is ", "the owner, http://here.test", "http://peer.test"] {
        assert!(halts[0].contains(part), "{part}: {halts:?}");
    }
}

#[tokio::test]
async fn the_gate_takes_no_feed_for_a_second_one_that_captures_none_of_the_stores() {
    let elsewhere = Answer::Captured(BlockEnd {
        states: vec![StateDigest { store: "gov".to_owned(), digest: Digest::ZERO }],
        ..BlockEnd::default()
    });
    let (confirmed, halts, notes) = gate(vec![elsewhere], &end_of(1, "bank", b"a")).await;
    assert!(!confirmed && halts.is_empty());
    assert!(notes[0].contains("has none of its stores"), "{notes:?}");
}

/// A replica that answers about blocks, so many at a time, and only when so many are asked about.
#[derive(Default)]
struct Crowd {
    /// Questions that must be under way before one is answered.
    together: usize,
    asked: AtomicUsize,
    most: AtomicUsize,
    /// From this height on it differs.
    differs: u64,
    /// So many times that nobody is found to wait; each looking up takes a while then.
    absent: AtomicUsize,
}

struct Member(Arc<Crowd>);

#[async_trait]
impl Peers for Member {
    fn here(&self) -> &str {
        "http://here.test"
    }

    async fn standbys(&self, _: &IngestorName) -> Vec<Arc<dyn Peer>> {
        let fewer = |left: usize| left.checked_sub(1);
        if self.0.absent.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok() {
            let odd = self.0.absent.load(Ordering::SeqCst) % 2;
            tokio::time::sleep(Duration::from_millis(10 + 20 * odd as u64)).await;
            return Vec::new();
        }
        vec![Arc::new(Self(self.0.clone()))]
    }

    async fn owner(&self, _: &IngestorName) -> Option<Owner> {
        None
    }
}

#[async_trait]
impl Peer for Member {
    fn name(&self) -> &str {
        "http://crowd.test"
    }

    async fn digests(
        &self,
        _: &IngestorName,
        at: &Place,
        _: Duration,
    ) -> Result<Answer, PeerError> {
        let crowd = &self.0;
        let now = crowd.asked.fetch_add(1, Ordering::SeqCst) + 1;
        crowd.most.fetch_max(now, Ordering::SeqCst);
        while crowd.most.load(Ordering::SeqCst) < crowd.together {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let height = at.1.height().unwrap();
        // Later blocks are answered first.
        tokio::time::sleep(Duration::from_millis(20_u64.saturating_sub(height))).await;
        crowd.asked.fetch_sub(1, Ordering::SeqCst);
        let value: &[u8] = if height >= crowd.differs { b"other" } else { b"same" };
        Ok(Answer::Captured(end_of(height, "bank", value)))
    }

    async fn fetch(&self, _: &IngestorName, _: &Place) -> Result<Box<dyn Frames>, PeerError> {
        Err(PeerError("nothing to fetch".to_owned()))
    }
}

/// A journal that takes frames and acknowledges nothing.
struct Taken(mpsc::Sender<u64>);

#[async_trait]
impl FrameSink for Taken {
    async fn send(&mut self, frame: &Frame) -> Result<(), AppendError> {
        self.0.send(frame.header.height).await.map_err(|_| AppendError::Ended)
    }
}

struct Silent;

#[async_trait]
impl AckSource for Silent {
    async fn next(&mut self) -> Result<Option<Ack>, AppendError> {
        std::future::pending().await
    }
}

fn frame(height: u64, size: usize) -> Frame {
    let mut region = BytesMut::new();
    let value = if size == 0 { b"same".to_vec() } else { vec![1; size] };
    put_change("bank", Op::Set, b"key", &value, &mut region);
    let topics = sluice_model::TopicRules::default();
    let start = sluice_frame::BlockStart {
        ingestor: ingestor(),
        generation: Generation(0),
        pointer: at(height),
        parent: at(height - 1),
        height,
        time: None,
        epoch: Epoch::ZERO,
    };
    let mut builder = sluice_frame::BlockBuilder::new(start, &topics);
    builder.push_changes(&region).unwrap();
    let mut frames: Vec<Frame> = builder.finish("").into();
    assert_eq!(frames.len(), 1);
    frames.remove(0)
}

struct Rig {
    sink: Gated,
    acks: GatedAcks,
    taken: mpsc::Receiver<u64>,
    crowd: Arc<Crowd>,
    world: Arc<World>,
    _dir: TempDir,
}

/// The gate before such a journal, with such a replica behind it.
fn gated(ahead: Ahead, crowd: Crowd) -> Rig {
    let (dir, world, crowd) =
        (TempDir::new().unwrap(), Arc::new(World::default()), Arc::new(crowd));
    let options = FeedOptions { agree: 2, ahead, ..options(dir.path()) };
    let feeds = feeds_of(&world, Arc::new(Member(crowd.clone())), options);
    let (sender, taken) = mpsc::channel(64);
    let (line, entries) = line::line(ahead);
    let passing = Box::pin(entries.pass(Box::new(Taken(sender)), Gate::new(feeds.shared)));
    let sink = Gated { line, tail: Place::default(), digester: None };
    let acks = GatedAcks { inner: Box::new(Silent), passing: Mutex::new(Some(passing)) };
    Rig { sink, acks, taken, crowd, world, _dir: dir }
}

impl Rig {
    /// Sends blocks while acknowledgements are waited for, until so many came through.
    async fn run(&mut self, blocks: u64, until: usize) -> Vec<u64> {
        let Self { sink, acks, taken, .. } = self;
        let sending = async {
            for height in 1..=blocks {
                sink.send(&frame(height, 0)).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let through = async {
            let mut through = Vec::new();
            while through.len() < until {
                through.push(taken.recv().await.unwrap());
            }
            through
        };
        tokio::select! {
            () = sending => unreachable!(),
            _ = acks.next() => panic!("nothing is acknowledged here"),
            through = through => through,
        }
    }
}

#[tokio::test]
async fn blocks_are_asked_about_ahead_within_the_room_and_let_through_in_order() {
    let crowd = Crowd { together: 5, differs: u64::MAX, ..Crowd::default() };
    let mut gate = gated(Ahead { blocks: 5, ..Ahead::default() }, crowd);
    let through = timeout(SOON, gate.run(30, 30)).await.expect("five at a time are asked about");
    assert_eq!(through, (1..=30).collect::<Vec<_>>());
    assert_eq!(gate.crowd.most.load(Ordering::SeqCst), 5, "and never more");
}

#[tokio::test]
async fn questions_asked_ahead_do_not_keep_the_first_block_from_asking_again() {
    let crowd = Crowd { differs: u64::MAX, absent: AtomicUsize::new(40), ..Crowd::default() };
    let mut gate = gated(Ahead::default(), crowd);
    let through = timeout(SOON, gate.run(10, 10)).await.expect("the first is not locked out");
    assert_eq!(through, (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn room_is_bounded_in_bytes_too_and_one_large_frame_is_let_in() {
    let crowd = Crowd { together: 1, differs: u64::MAX, ..Crowd::default() };
    let mut gate = gated(Ahead { blocks: 100, bytes: 2_000 }, crowd);
    timeout(SOON, gate.run(30, 30)).await.expect("all come through");
    let most = gate.crowd.most.load(Ordering::SeqCst);
    assert!((1..=3).contains(&most), "{most} frames of more than 512 bytes each");
    let Rig { sink, .. } = &mut gate;
    timeout(SOON, sink.send(&frame(31, 100_000))).await.expect("it is let in").unwrap();
    let next = timeout(Duration::from_millis(50), sink.send(&frame(32, 0))).await;
    assert!(next.is_err(), "nothing beside it");
}

#[tokio::test]
async fn nothing_passes_a_block_that_differs_whatever_was_said_of_those_behind_it() {
    let crowd = Crowd { differs: 4, ..Crowd::default() };
    let mut gate = gated(Ahead::default(), crowd);
    assert_eq!(timeout(SOON, gate.run(10, 3)).await.unwrap(), [1, 2, 3]);
    let more = timeout(Duration::from_millis(200), async {
        tokio::select! {
            _ = gate.acks.next() => panic!("nothing is acknowledged here"),
            more = gate.taken.recv() => more,
        }
    });
    assert!(more.await.is_err(), "block 4 stays, and so does 5");
    let halts = gate.world.halts.lock().clone();
    assert_eq!(halts.len(), 1, "{halts:?}");
    assert!(halts[0].starts_with("block 4: store bank is "), "{halts:?}");
}

#[tokio::test]
async fn what_is_in_the_line_goes_with_who_waited_for_acknowledgements() {
    let crowd = Crowd { differs: 1, ..Crowd::default() };
    let mut gate = gated(Ahead { blocks: 1, ..Ahead::default() }, crowd);
    let full = timeout(Duration::from_millis(100), gate.run(3, 1)).await;
    assert!(full.is_err());
    let Rig { mut sink, acks, mut taken, .. } = gate;
    drop(acks);
    let ended = timeout(SOON, sink.send(&frame(9, 0))).await.unwrap();
    assert!(matches!(ended, Err(AppendError::Ended)), "{ended:?}");
    assert_eq!(taken.recv().await, None, "nothing went through");
}
