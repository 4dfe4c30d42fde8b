//! The write side: order, refusals, fencing, limits.

use bytes::Bytes;
use sluice_client::append::{AppendError, Appender, Open};
use sluice_frame::{BlockEnd, Header, MAX_CHANGE, put_change};
use sluice_model::{Durability, Epoch, JournalId, Kind, Op, Pointer, TopicRules};
use sluice_proto::{MAX_MESSAGE, reason, v1 as pb};
use tonic::Code;

use super::support::{Block, ID, Rig, hub, open, read, stores, until};

#[tokio::test]
async fn acknowledges_in_order_while_more_is_sent() {
    let rig = Rig::start().await;
    let (mut writer, head) = rig.open(1).await;
    assert_eq!(head, None);
    let blocks: Vec<_> = (1..=50).map(|h| Block::of(h, &["bank", "gov"]).parts_of(1)).collect();
    for block in &blocks {
        writer.send(block).await;
    }
    for block in &blocks {
        let ack = writer.appender.next_ack().await.unwrap().unwrap();
        assert_eq!(ack.position(), block.end());
        assert_eq!(ack.durability, Durability::Fsynced);
        assert!(!ack.duplicate && !ack.unverifiable);
    }
    writer.appender.finish();
    assert_eq!(writer.appender.next_ack().await.unwrap(), None, "an orderly end");

    let (mut writer, head) = rig.open(1).await;
    assert_eq!(head.unwrap().height, 50);
    writer.parent = Pointer::from_height(49);
    let again = writer.block(&blocks[49]).await;
    assert!(again.duplicate, "the same bytes again");
    assert_eq!(again.digest, rig.status().await.head.unwrap().digest);
}

#[tokio::test]
async fn a_refusal_comes_after_what_was_accepted() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    for height in 1..=3 {
        writer.send(&Block::of(height, &["bank"])).await;
    }
    writer.parent = Pointer::from_height(77);
    writer.send(&Block::of(78, &["bank"])).await;
    for height in 1..=3 {
        let ack = writer.appender.next_ack().await.unwrap().unwrap();
        assert_eq!(ack.pointer, Pointer::from_height(height));
    }
    match writer.appender.next_ack().await {
        Err(AppendError::WrongParent { message, .. }) => {
            assert!(message.contains("78") && message.contains("77"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(writer.appender.next_ack().await, Err(AppendError::Ended)));
    assert_eq!(rig.status().await.head.unwrap().height, 3, "nothing accepted was lost");
}

#[tokio::test]
async fn other_state_at_the_same_place_is_divergent() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    writer.heights(1..=2, "bank").await;
    let mut other = Block::of(2, &["bank"]);
    other.changes[0].3 = b"other".to_vec();
    writer.parent = Pointer::from_height(1);
    writer.send(&other).await;
    match writer.appender.next_ack().await {
        Err(AppendError::Divergent { at, store, .. }) => {
            assert_eq!(at.unwrap().pointer, Pointer::from_height(2));
            assert_eq!(store.as_deref(), Some("bank"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_fenced_writers_stream_ends_although_it_is_idle() {
    let rig = Rig::start().await;
    let (mut old, _) = rig.open(5).await;
    old.heights(1..=1, "bank").await;
    let (mut new, head) = rig.open(5).await;
    assert_eq!(head.unwrap().height, 1);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), old.appender.next_ack())
        .await
        .expect("the old stream ends without a frame of its own");
    assert!(matches!(ended, Err(AppendError::Fenced(_))), "{ended:?}");
    new.heights(2..=2, "bank").await;

    let older = Appender::open(rig.transport.clone(), open(4)).await;
    assert!(matches!(older, Err(AppendError::Fenced(_))), "{older:?}");
    let start = pb::AppendStart { ingestor: "hub".into(), writer_id: old.appender.writer_id() };
    let requests = pb::AppendRequest::from(pb::append_request::Message::Start(start));
    let refused = rig.client().append(tokio_stream::once(requests)).await.unwrap_err();
    assert_eq!(reason::of(&refused), Some(reason::FENCED));
    new.heights(3..=3, "bank").await;
}

#[tokio::test]
async fn a_journal_that_is_not_here_is_never_made_by_opening() {
    let rig = Rig::start().await;
    for open in [
        Open { ingestor: "other".parse().unwrap(), ..open(1) },
        Open { journal_id: JournalId::from_array([8; 16]), ..open(1) },
    ] {
        let refused = Appender::open(rig.transport.clone(), open).await;
        assert!(matches!(refused, Err(AppendError::NotHere(_))), "{refused:?}");
    }
    let create = |name: &str, id: JournalId| pb::CreateRequest {
        ingestor: name.into(),
        journal_id: Bytes::copy_from_slice(id.as_bytes()),
    };
    rig.client().create(create("hub", ID)).await.unwrap();
    let other = rig.client().create(create("hub", JournalId::from_array([8; 16]))).await;
    assert_eq!(other.unwrap_err().code(), Code::AlreadyExists);
    let nameless = rig.client().create(create("", ID)).await.unwrap_err();
    assert_eq!((nameless.code(), reason::of(&nameless)), (Code::InvalidArgument, Some("INVALID")));
}

/// One change of so many bytes, as a frame that is a whole block.
fn large(height: u64, value: usize) -> sluice_frame::Frame {
    let mut changes = bytes::BytesMut::new();
    put_change("bank", Op::Set, b"k", &vec![7; value], &mut changes);
    let changes = changes.freeze();
    let mut header = Header::new(Kind::Block, hub(), Pointer::from_height(height), height);
    header.parent = if height == 1 { Pointer::ORIGIN } else { Pointer::from_height(height - 1) };
    if let Ok(table) = sluice_frame::scan(&changes, &TopicRules::default()) {
        header.routes = table.routes;
        header.runs = table.runs;
    }
    header.end = Some(BlockEnd { parts: 1, changes: 1, ..BlockEnd::default() });
    sluice_frame::Frame { header, changes }
}

#[tokio::test]
async fn a_large_change_passes_and_a_too_large_one_is_refused_by_name() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    assert_eq!(writer.appender.max_change(), MAX_CHANGE as u64);
    writer.appender.send(&large(1, 9 << 20)).await.unwrap();
    writer.appender.next_ack().await.unwrap().unwrap();
    let mut subscriber = rig.subscriber(|options| options.until = Some(1));
    assert_eq!(read(&mut subscriber).await.changes[0].value.len(), 9 << 20);

    let local = writer.appender.send(&large(2, MAX_MESSAGE)).await;
    assert!(matches!(local, Err(AppendError::Invalid(_))), "{local:?}");

    // A client that does not check is refused by the router, in the same words for programs.
    let request = pb::OpenRequest {
        ingestor: "hub".into(),
        journal_id: Bytes::copy_from_slice(ID.as_bytes()),
        epoch: 1,
        ..pb::OpenRequest::default()
    };
    let writer_id = rig.client().open(request).await.unwrap().into_inner().writer_id;
    let start = pb::AppendStart { ingestor: "hub".into(), writer_id };
    let messages = [
        pb::append_request::Message::Start(start),
        pb::append_request::Message::Frame(Bytes::from(vec![0; MAX_MESSAGE + 1]).into()),
    ]
    .map(pb::AppendRequest::from);
    let mut acks = rig.client().append(tokio_stream::iter(messages)).await.unwrap().into_inner();
    let refused = acks.message().await.unwrap_err();
    assert_eq!(reason::of(&refused), Some(reason::TOO_LARGE), "{refused:?}");
    assert_eq!(rig.status().await.head.unwrap().height, 1);
}

#[tokio::test]
async fn what_is_not_a_frame_is_refused() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    let mut foreign = large(1, 3);
    foreign.header.ingestor = "other".parse().unwrap();
    writer.appender.send(&foreign).await.unwrap();
    let refused = writer.appender.next_ack().await;
    assert!(matches!(refused, Err(AppendError::Invalid(_))), "{refused:?}");

    let (mut writer, _) = rig.open(1).await;
    let mut poison = large(1, 3);
    poison.changes = Bytes::from_static(&[0x7a, 2, 0x08, 1]);
    writer.appender.send(&poison).await.unwrap();
    let refused = writer.appender.next_ack().await;
    assert!(matches!(refused, Err(AppendError::Invalid(_))), "{refused:?}");
}

#[tokio::test]
async fn a_vanished_client_frees_its_writer_and_keeps_what_it_sent() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    writer.heights(1..=5, "bank").await;
    drop(writer);
    let (mut writer, head) = rig.open(Epoch::from_u64(2).as_u64()).await;
    assert_eq!(head.unwrap().height, 5);
    writer.heights(6..=6, "bank").await;
}

#[tokio::test]
async fn a_stop_acknowledges_what_was_taken_and_says_so() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    writer.heights(1..=3, "bank").await;
    let mut raw = rig
        .client()
        .subscribe(pb::SubscribeRequest {
            ingestor: "hub".into(),
            filter: Some((&stores(&[])).into()),
            start: Some((&sluice_model::StartPosition::Latest).into()),
            ..pb::SubscribeRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    rig.shutdown.stop();
    match writer.appender.next_ack().await {
        Err(AppendError::Unknown(status)) => {
            assert_eq!(reason::of(&status), Some(reason::STOPPING));
        }
        other => panic!("{other:?}"),
    }
    let ended = loop {
        match raw.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable);
    assert_eq!(reason::of(&ended), Some(reason::STOPPING));
    drop((writer, raw));
    let running = rig.running;
    until("the service has ended", || std::future::ready(running.is_finished())).await;
}
