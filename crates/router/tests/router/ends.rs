//! How subscriptions are refused and how they end.

use sluice_client::{
    details,
    subscribe::{SubscribeError, Subscriber},
};
use sluice_model::{
    Checkpoint, Digest, FilterSpec, Generation, Pointer, Position, StartPosition, topic::KeyPrefix,
};
use sluice_proto::{
    reason,
    v1::{self as pb, subscribe_response::Message},
};
use tonic::{Code, Status};

use super::support::{Block, Rig, embedded, hub, next_frame, options, read, stores};

async fn filled(heights: u64) -> Rig {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    writer.heights(1..=heights, "bank").await;
    rig
}

fn request(change: impl FnOnce(&mut pb::SubscribeRequest)) -> pb::SubscribeRequest {
    let mut request = pb::SubscribeRequest {
        ingestor: "hub".into(),
        start: Some((&StartPosition::Earliest).into()),
        ..pb::SubscribeRequest::default()
    };
    change(&mut request);
    request
}

/// The messages and the refusal of a raw subscription.
async fn raw(rig: &Rig, request: pb::SubscribeRequest) -> (Vec<Message>, Option<Status>) {
    let mut stream = match rig.client().subscribe(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return (Vec::new(), Some(status)),
    };
    let mut messages = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => messages.extend(message.message),
            Ok(None) => return (messages, None),
            Err(status) => return (messages, Some(status)),
        }
    }
}

async fn after(rig: &Rig, height: u64, digest: Option<Digest>) -> Result<(), SubscribeError> {
    let position = Position::end_of(Generation(0), Pointer::from_height(height));
    let mut subscriber = rig.subscriber(|options| {
        options.start = Checkpoint { position, digest }.into();
    });
    first(&mut subscriber).await
}

async fn first(subscriber: &mut Subscriber) -> Result<(), SubscribeError> {
    subscriber.next().await.map(|_| ())
}

#[tokio::test]
async fn the_first_message_says_what_was_understood_and_the_last_that_it_is_complete() {
    let rig = filled(3).await;
    let (messages, refused) = raw(
        &rig,
        request(|request| {
            request.filter = Some((&stores(&["bank"])).into());
            request.until_height = Some(2);
        }),
    )
    .await;
    assert!(refused.is_none(), "{refused:?}");
    let [Message::Started(started), Message::Frame(_), Message::Frame(_), Message::Complete(end)] =
        messages.as_slice()
    else {
        panic!("{messages:?}");
    };
    let filter = sluice_model::Filter::compile(&stores(&["bank"])).unwrap();
    assert_eq!(started.filter, filter.hash());
    assert_eq!(started.head.as_ref().unwrap().height, 3);
    assert_eq!(started.after, Some((&Position::ORIGIN).into()));
    assert_eq!(end.through, Some((&Block::of(2, &[]).end()).into()));
    assert_eq!(end.digest.len(), 32);
}

#[tokio::test]
async fn filters_and_ranges_that_make_no_sense_name_their_clause() {
    let rig = filled(1).await;
    let wrong: [(&str, FilterSpec); 3] = [
        ("filter.topics", FilterSpec { topics: Some("(".into()), ..FilterSpec::default() }),
        ("filter.stores[1]", stores(&["bank", ""])),
        ("filter.buckets", FilterSpec { buckets: vec![(9, 3)], ..FilterSpec::default() }),
    ];
    for (clause, spec) in wrong {
        let filter = Some((&spec).into());
        let (_, refused) = raw(&rig, request(|request| request.filter = filter)).await;
        let refused = refused.unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(clause), "{clause}: {}", refused.message());
    }
    assert!("02".parse::<KeyPrefix>().is_err());
    let prefix = pb::Filter { prefixes: vec!["02".into()], ..pb::Filter::default() };
    let (_, refused) = raw(&rig, request(|request| request.filter = Some(prefix))).await;
    assert!(refused.unwrap().message().contains("filter.prefixes"));

    let mut backwards = rig.subscriber(|options| {
        options.start = StartPosition::Height(9).into();
        options.until = Some(8);
    });
    match first(&mut backwards).await {
        Err(SubscribeError::Invalid { message }) => {
            assert!(message.contains("until_height"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let (_, refused) = raw(&rig, request(|request| request.start = None)).await;
    assert!(refused.unwrap().message().contains("start"));
    let mut nowhere = rig.subscriber(|options| options.ingestor = "other".parse().unwrap());
    let not_here = first(&mut nowhere).await;
    assert!(matches!(not_here, Err(SubscribeError::NotHere { .. })), "{not_here:?}");
}

#[tokio::test]
async fn a_position_of_another_history_is_diverged() {
    let rig = filled(3).await;
    let head = rig.status().await.head.unwrap();
    for (height, digest) in [(2, Some(Digest::from_array([9; 32]))), (4, None), (3000, None)] {
        match after(&rig, height, digest).await {
            Err(SubscribeError::Diverged { head: Some(at), .. }) => assert_eq!(at, head),
            other => panic!("{height}: {other:?}"),
        }
    }
    after(&rig, 3, Some(head.digest)).await.unwrap();
}

#[tokio::test]
async fn a_position_that_retention_passed_is_out_of_range() {
    let rig = Rig::with(options(), |options| {
        options.segment_bytes = 256 << 10;
        options.retention.bytes = Some(1 << 20);
    })
    .await;
    let (mut writer, _) = rig.open(1).await;
    for height in 1..=40 {
        let mut block = Block::of(height, &["bank"]);
        block.changes[0].3 = vec![height as u8; 100 << 10];
        writer.block(&block).await;
    }
    // The round of the service has the same work to do; whoever is first.
    rig.journal.trim(&hub(), None, i64::MAX / 2).await.unwrap();
    let oldest = rig.status().await.oldest;
    assert!(oldest > Block::of(2, &[]).end(), "retention did something: {oldest}");
    match after(&rig, 1, None).await {
        Err(SubscribeError::OutOfRange { oldest: Some(told), .. }) => assert_eq!(told, oldest),
        other => panic!("{other:?}"),
    }
    let mut subscriber = rig.subscriber(|options| {
        options.start = Checkpoint { position: oldest.clone(), digest: None }.into();
        options.until = Some(40);
    });
    let rest = read(&mut subscriber).await.changes;
    assert_eq!(
        rest.first().unwrap().position.pointer.height(),
        oldest.pointer.height().map(|h| h + 1)
    );
    assert_eq!(rest.last().unwrap().position.pointer.height(), Some(40));
    let mut earliest = rig.subscriber(|_| {});
    assert!(next_frame(&mut earliest).await.header.height > 2);
}

#[tokio::test]
async fn a_frame_larger_than_the_subscriber_takes_is_refused_by_name() {
    let rig = filled(1).await;
    let (messages, refused) = raw(&rig, request(|request| request.max_frame_bytes = 10)).await;
    let refused = refused.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason::of(&refused), Some(reason::TOO_LARGE));
    assert!(matches!(messages.as_slice(), [Message::Started(_)]), "{messages:?}");
}

#[tokio::test]
async fn unreadable_blocks_are_reported_and_what_follows_can_be_read() {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(1).await;
    for height in 1..=9 {
        let mut block = Block::of(height, &["bank"]);
        block.changes[0].3 = format!("needle-{height}-{}", "x".repeat(5000)).into_bytes();
        writer.block(&block).await;
    }
    drop(writer);
    rig.shutdown.stop();
    rig.running.await.unwrap();
    // The last ones that know the journal, and with it the lock on its directory.
    drop((rig.journal, rig.transport));
    let damaged = damage(rig.dir.path(), b"needle-5-");
    let rig = Rig::over(rig.dir, embedded(damaged.root(), |_| {}), options());

    let mut subscriber = rig.subscriber(|options| options.until = Some(9));
    for height in 1..=4 {
        assert_eq!(next_frame(&mut subscriber).await.header.height, height);
    }
    let (through, message) = loop {
        match subscriber.next().await {
            Ok(Some(_)) => {}
            Err(SubscribeError::DataLoss { through, message }) => {
                break (through.unwrap(), message);
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(through, Block::of(5, &[]).end());
    let file = damaged.file.file_name().unwrap().to_str().unwrap();
    assert!(message.contains(file), "{message}");
    assert!(message.contains("sluice journal verify hub"), "{message}");
    let mut rest = rig.subscriber(|options| {
        options.start = Checkpoint { position: through, digest: None }.into();
        options.until = Some(9);
    });
    assert_eq!(read(&mut rest).await.changes.len(), 4);

    let (_, refused) = raw(&rig, request(|_| {})).await;
    assert!(details::position(&refused.unwrap(), details::THROUGH).is_some());
}

struct Damaged {
    root: std::path::PathBuf,
    file: std::path::PathBuf,
}

impl Damaged {
    fn root(&self) -> &std::path::Path {
        &self.root
    }
}

/// Flips a byte behind a needle in the one file that has it.
fn damage(root: &std::path::Path, needle: &[u8]) -> Damaged {
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let mut bytes = std::fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
                bytes[at + needle.len() + 100] ^= 1;
                std::fs::write(&path, bytes).unwrap();
                return Damaged { root: root.to_owned(), file: path };
            }
        }
    }
    panic!("the needle is nowhere");
}
