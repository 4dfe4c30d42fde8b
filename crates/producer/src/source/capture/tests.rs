use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sluice_frame::put_change;
use sluice_model::{Digest, Durability, Generation, Op, Pointer};
use tokio::time::timeout;

use super::*;
use crate::{
    source::{Begin, Item, Piece},
    tests::context,
};

const SOON: Duration = Duration::from_secs(20);

fn at(height: u64) -> Pointer {
    Pointer::from_height(height)
}

fn head(height: u64) -> Head {
    Head {
        generation: Generation(0),
        pointer: at(height),
        height,
        digest: Digest::from_array([1; 32]),
        time: None,
        appended: 0,
    }
}

fn ack(height: u64) -> Ack {
    Ack {
        pointer: at(height),
        height,
        generation: Generation(0),
        digest: Digest::from_array([2; 32]),
        time: None,
        durability: Durability::Fsynced,
        duplicate: false,
        unverifiable: false,
    }
}

fn height(height: u64) -> BeginCapture {
    BeginCapture { height, ..BeginCapture::default() }
}

fn region(keys: &[&str]) -> Bytes {
    let mut out = BytesMut::new();
    for key in keys {
        put_change("bank", Op::Set, key.as_bytes(), b"1", &mut out);
    }
    out.freeze()
}

/// A source whose journal is at this height, and its feed.
async fn opened(after: Option<u64>) -> (Box<dyn Source>, Arc<Door>, Feed) {
    let own = context("app");
    let mut source = build(&own, &toml::Table::new()).unwrap();
    let door = own.doors.get(&own.ingestor).unwrap();
    assert_eq!(door.head(), Err(Rejection::NotOwner), "shut until the loop asks for blocks");
    let feed = source.blocks(after.map(head).as_ref()).await.unwrap();
    (source, door, feed)
}

async fn next(feed: &mut Feed) -> Item {
    timeout(SOON, feed.next()).await.unwrap().unwrap().unwrap()
}

async fn hand_in(visit: &mut Visit, block: BeginCapture, keys: &[&str]) -> Result<(), Rejection> {
    visit.begin(block).await?;
    visit.changes(region(keys)).await?;
    visit.end(None).await
}

/// Skips to the end of a block; gives its begin and its changes.
async fn whole(feed: &mut Feed) -> (Begin, Vec<u8>) {
    let Item::Begin(mut begin) = next(feed).await else { panic!("no begin") };
    let mut changes = Vec::new();
    loop {
        match next(feed).await {
            Item::Begin(again) => (begin, changes) = (again, Vec::new()),
            Item::Changes(piece) => changes.extend_from_slice(&piece.bytes),
            Item::End { .. } => return (begin, changes),
            _ => {}
        }
    }
}

#[tokio::test]
async fn blocks_follow_the_head_and_are_answered_in_order() {
    let (mut source, door, mut feed) = opened(Some(4)).await;
    assert_eq!(door.head().unwrap().unwrap().height, 4);
    let (mut visit, mut answers) = door.visit(1).unwrap();
    hand_in(&mut visit, height(5), &["a", "b"]).await.unwrap();
    hand_in(&mut visit, BeginCapture { parent: Some(at(5)), time: Some(9), ..height(7) }, &[])
        .await
        .unwrap();
    let (begin, changes) = whole(&mut feed).await;
    assert_eq!((begin.pointer, begin.parent), (at(5), Some(at(4))));
    assert_eq!(changes, region(&["a", "b"]));
    let (begin, changes) = whole(&mut feed).await;
    assert_eq!((begin.parent, begin.time, changes.len()), (Some(at(5)), Some(9), 0));
    for height in [5, 7] {
        source.durable(&ack(height)).await.unwrap();
        assert_eq!(answers.recv().await.unwrap().result.unwrap().height, height);
    }
    assert_eq!((visit.sent(), door.head().unwrap().unwrap().height), (2, 7));
}

#[tokio::test]
async fn wrong_blocks_are_refused_with_their_reason_and_nothing_of_them_is_kept() {
    let (_source, door, mut feed) = opened(Some(4)).await;
    let (mut visit, _answers) = door.visit(1).unwrap();
    let parent = visit.begin(BeginCapture { parent: Some(at(3)), ..height(5) }).await.unwrap_err();
    let expected = Rejection::WrongParent { pointer: at(5), expected: at(4), got: at(3) };
    assert_eq!(parent, expected);
    let opaque = |bytes: &'static [u8], height| BeginCapture {
        pointer: Some(Pointer::new(bytes).unwrap()),
        ..self::height(height)
    };
    let lower = visit.begin(opaque(&[0xff; 8], 3)).await.unwrap_err();
    assert!(lower.to_string().contains("height 3, but the last block has 4"), "{lower}");
    let other = visit.begin(opaque(b"abc", 9)).await.unwrap_err();
    assert!(other.to_string().contains("3 bytes"), "{other}");
    let empty = visit.begin(opaque(b"", 9)).await.unwrap_err();
    assert!(empty.to_string().contains("begin.pointer is empty"), "{empty}");
    // The same connection may still hand in the right block.
    hand_in(&mut visit, height(5), &["a"]).await.unwrap();
    let (begin, _) = whole(&mut feed).await;
    assert_eq!(begin.height, 5, "nothing of the others came");
}

#[tokio::test]
async fn messages_out_of_order_are_refused() {
    let (_source, door, _feed) = opened(None).await;
    let (mut visit, _answers) = door.visit(1).unwrap();
    assert!(matches!(visit.changes(region(&["a"])).await, Err(Rejection::Invalid(_))));
    assert!(matches!(visit.end(None).await, Err(Rejection::Invalid(_))));
    assert!(matches!(visit.metadata("t", Bytes::new()).await, Err(Rejection::Invalid(_))));
    visit.begin(height(1)).await.unwrap();
    assert!(matches!(visit.begin(height(2)).await, Err(Rejection::Invalid(_))));
    visit.metadata("t", Bytes::from_static(b"x")).await.unwrap();
    assert!(matches!(visit.metadata("u", Bytes::new()).await, Err(Rejection::Invalid(_))));
}

#[tokio::test]
async fn a_wrong_count_drops_the_block() {
    let (_source, door, mut feed) = opened(None).await;
    let (mut visit, _answers) = door.visit(1).unwrap();
    visit.begin(height(1)).await.unwrap();
    visit.changes(region(&["a"])).await.unwrap();
    let wrong = visit.end(Some(2)).await.unwrap_err();
    assert_eq!(wrong, Rejection::Count { pointer: at(1), announced: 2, came: 1 });
    assert!(matches!(next(&mut feed).await, Item::Begin(_)));
    assert!(matches!(next(&mut feed).await, Item::Changes(_)));
    assert_eq!(next(&mut feed).await, Item::Abort);
    assert_eq!(door.tail().unwrap().pointer, Pointer::ORIGIN);
}

#[tokio::test]
async fn foreign_encodings_are_made_canonical_at_the_door() {
    let (_source, door, mut feed) = opened(None).await;
    let (mut visit, _answers) = door.visit(1).unwrap();
    visit.begin(height(1)).await.unwrap();
    let odd = hex::decode("7a0b1a016b0a0462616e6b1000").unwrap();
    visit.changes(odd.into()).await.unwrap();
    let mut canonical = BytesMut::new();
    put_change("bank", Op::Set, b"k", b"", &mut canonical);
    next(&mut feed).await;
    assert_eq!(next(&mut feed).await, Item::Changes(Piece::new(canonical.freeze())));
    let not_text = Bytes::from_static(&[0x7a, 0x04, 0x0a, 0x02, 0xff, 0xfe]);
    assert!(matches!(visit.changes(not_text).await, Err(Rejection::Invalid(_))));
    let no_store = Bytes::from_static(&[0x7a, 0x03, 0x1a, 0x01, 0x61]);
    assert!(matches!(visit.changes(no_store).await, Err(Rejection::Invalid(_))));
}

#[tokio::test]
async fn a_change_beyond_the_limit_is_too_large() {
    let (_source, door, _feed) = opened(None).await;
    let (mut visit, _answers) = door.visit(1).unwrap();
    visit.begin(height(1)).await.unwrap();
    let mut large = BytesMut::new();
    put_change("bank", Op::Set, b"k", &vec![0; sluice_frame::MAX_CHANGE], &mut large);
    let refused = visit.changes(large.freeze()).await.unwrap_err();
    assert!(matches!(refused, Rejection::TooLarge(_)), "{refused}");
}

#[tokio::test]
async fn a_block_sent_again_keeps_its_parent() {
    let (mut source, door, mut feed) = opened(None).await;
    let (mut visit, _answers) = door.visit(1).unwrap();
    hand_in(&mut visit, height(1), &["a"]).await.unwrap();
    hand_in(&mut visit, height(5), &["b"]).await.unwrap();
    for _ in 0..2 {
        whole(&mut feed).await;
    }
    source.durable(&ack(1)).await.unwrap();
    source.durable(&ack(5)).await.unwrap();
    for (again, parent) in [(1, Pointer::ORIGIN), (5, at(1))] {
        hand_in(&mut visit, height(again), &["x"]).await.unwrap();
        assert_eq!(whole(&mut feed).await.0.parent, Some(parent));
    }
    assert_eq!(door.tail().unwrap().pointer, at(5), "going back does not move the tail");
}

#[tokio::test]
async fn a_refused_block_is_told_to_its_sender_and_the_loop_goes_on() {
    let (mut source, door, mut feed) = opened(Some(4)).await;
    let (mut visit, mut answers) = door.visit(1).unwrap();
    hand_in(&mut visit, height(4), &["changed"]).await.unwrap();
    whole(&mut feed).await;
    let refusal = Refusal {
        pointer: Some(at(4)),
        reason: "DIVERGENT".into(),
        message: "block 4 differs in store bank".into(),
    };
    assert_eq!(source.refused(&refusal).await, Verdict::Continue);
    let told = answers.recv().await.unwrap().result.unwrap_err();
    assert!(matches!(&told, Rejection::Refused { reason, .. } if reason == "DIVERGENT"), "{told}");
    assert!(hand_in(&mut visit, height(5), &[]).await.is_err(), "the connection has ended");
}

#[tokio::test]
async fn a_new_connection_ends_the_one_before_and_never_mixes_with_it() {
    let (_source, door, mut feed) = opened(None).await;
    let (mut first, mut told) = door.visit(1).unwrap();
    first.begin(height(1)).await.unwrap();
    first.changes(region(&["first"])).await.unwrap();
    let (mut second, _answers) = door.visit(2).unwrap();
    assert_eq!(told.recv().await.unwrap().result, Err(Rejection::Superseded));
    let entering = tokio::spawn(async move {
        hand_in(&mut second, height(1), &["second"]).await.unwrap();
        second
    });
    assert_eq!(first.changes(region(&["late"])).await, Err(Rejection::Superseded));
    drop(first);
    // One that arrived before both and comes to the door only now changes nothing.
    assert!(matches!(door.visit(0), Err(Rejection::Superseded)));
    timeout(SOON, entering).await.unwrap().unwrap();
    assert_eq!(whole(&mut feed).await.1, region(&["second"]));
}

#[tokio::test]
async fn a_closed_feed_sends_everybody_away() {
    let (mut source, door, feed) = opened(None).await;
    let (mut visit, mut answers) = door.visit(1).unwrap();
    visit.begin(height(1)).await.unwrap();
    feed.close().await;
    assert_eq!(door.head(), Err(Rejection::NotOwner));
    assert_eq!(answers.recv().await.unwrap().result, Err(Rejection::Restarted));
    assert!(visit.changes(region(&["a"])).await.is_err());
    assert!(matches!(door.visit(1), Err(Rejection::NotOwner)));
    let _feed = source.blocks(None).await.unwrap();
    assert_eq!(door.head(), Ok(None));
}

#[tokio::test]
async fn unread_answers_are_bounded() {
    let most = u64::try_from(door::UNREAD).unwrap();
    let (mut source, door, mut feed) = opened(None).await;
    let (mut visit, mut answers) = door.visit(1).unwrap();
    for block in 1..=most {
        hand_in(&mut visit, height(block), &[]).await.unwrap();
        whole(&mut feed).await;
        source.durable(&ack(block)).await.unwrap();
    }
    let mut more = Box::pin(visit.begin(height(most + 1)));
    assert!(timeout(Duration::from_millis(30), more.as_mut()).await.is_err());
    drop(answers.recv().await.unwrap());
    timeout(SOON, more).await.unwrap().unwrap();
}
