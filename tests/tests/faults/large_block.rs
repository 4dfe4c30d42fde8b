//! A block that is larger than anything may hold in memory.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use sluice_client::{
    capture::{Begin, Capturer},
    subscribe::{Item, SubscribeOptions, Subscriber},
};
use sluice_frame::put_change;
use sluice_model::{Op, StartPosition};
use sluice_service::transport;
use sluice_tests::PATIENCE;

use super::support::{INGESTOR, Site};

const LARGE: usize = 300_000_000;
/// What a process may have resident at most, whatever a block has.
const BOUND: u64 = 256 << 20;

/// Changes of about 1 MB, different for every piece.
fn piece(number: usize) -> Bytes {
    let mut region = BytesMut::new();
    for i in 0..1000 {
        let key = (number * 1000 + i).to_be_bytes();
        put_change("bank", Op::Set, &key, &[7; 1000], &mut region);
    }
    region.freeze()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_300_mb_passes_three_processes_in_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mut site = Site::start(dir.path(), &[], &[]).await;
    let began = Instant::now();
    let capturer =
        Capturer::new(transport::remote(&site.producer.url()).unwrap(), INGESTOR.parse().unwrap());
    let (mut blocks, mut acks, _) = capturer.resume(PATIENCE).await.unwrap();
    let mut sent = blake3::Hasher::new();
    let mut bytes = 0;
    blocks.begin(Begin::at(1)).await.unwrap();
    for number in 0.. {
        let piece = piece(number);
        sent.update(&piece);
        bytes += piece.len();
        blocks.changes(piece).await.unwrap();
        if bytes >= LARGE {
            break;
        }
    }
    blocks.end().await.unwrap();
    let ack = acks.next().await.unwrap().unwrap();
    assert_eq!((ack.height, ack.duplicate), (1, false));
    let captured = began.elapsed();

    let mut options = SubscribeOptions::new(INGESTOR.parse().unwrap(), StartPosition::Earliest);
    options.until = Some(1);
    options.give_up_after = Some(PATIENCE);
    let mut subscriber = Subscriber::new(transport::remote(&site.router.url()).unwrap(), options);
    let (mut received, mut left, mut end) = (blake3::Hasher::new(), bytes, None);
    while let Some(item) = subscriber.next().await.unwrap() {
        if let Item::Frame(frame) = item {
            received.update(&frame.changes);
            left -= frame.changes.len();
            end = frame.header.end.map(|end| end.digest);
        }
    }
    assert_eq!((left, end), (0, Some(ack.digest)));
    assert_eq!(received.finalize(), sent.finalize(), "the content differs");

    let (router, producer) = (site.router.memory().1, site.producer.memory().1);
    println!(
        "{} MB captured in {captured:?}, read after {:?}; at most {} MiB in the router, {} MiB in \
         the producer",
        bytes / 1_000_000,
        began.elapsed(),
        router >> 20,
        producer >> 20
    );
    assert!(router < BOUND, "the router had {} MiB", router >> 20);
    assert!(producer < BOUND, "the producer had {} MiB", producer >> 20);
    site.stop().await;
}
