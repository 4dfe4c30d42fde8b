//! Replicas that serve something else than they were asked for.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use sluice_frame::{BlockBuilder, BlockStart, Digester, Frame, put_change};
use sluice_model::{Digest, Epoch, Generation, Op, Pointer, TopicRules};
use sluice_producer::status::State;
use sluice_proto::v1 as pb;
use sluice_service::transport;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, service::Routes};

use super::{reaches, replica, write};
use crate::{
    site::{Site, beside},
    support::name,
};

/// Says that it has every block and serves what it was given.
struct Liar(Arc<Serve>);

type Serve = dyn Fn(&Pointer) -> Vec<Bytes> + Send + Sync;

#[tonic::async_trait]
impl pb::spool_server::Spool for Liar {
    async fn spool_state(
        &self,
        _: Request<pb::SpoolStateRequest>,
    ) -> Result<Response<pb::SpoolStateResponse>, Status> {
        Ok(Response::new(pb::SpoolStateResponse::default()))
    }

    async fn spool_digests(
        &self,
        request: Request<pb::SpoolDigestsRequest>,
    ) -> Result<Response<pb::SpoolDigestsResponse>, Status> {
        let request = request.into_inner();
        let (generation, pointer) = (request.generation, request.pointer);
        let block = pb::BlockDigest { generation, pointer, ..pb::BlockDigest::default() };
        Ok(Response::new(pb::SpoolDigestsResponse {
            answer: pb::SpoolAnswer::Captured.into(),
            block: Some(block),
        }))
    }

    type SpoolFetchStream =
        Pin<Box<dyn Stream<Item = Result<pb::SpoolFetchResponse, Status>> + Send>>;

    async fn spool_fetch(
        &self,
        request: Request<pb::SpoolFetchRequest>,
    ) -> Result<Response<Self::SpoolFetchStream>, Status> {
        let pointer = Pointer::new(request.into_inner().pointer).unwrap();
        let frames = (self.0)(&pointer);
        let frames = tokio_stream::iter(frames).map(|frame| Ok(pb::SpoolFetchResponse { frame }));
        Ok(Response::new(Box::pin(frames)))
    }
}

/// A block as an honest replica serves it.
fn block(height: u64, parent: u64, size: usize) -> Vec<Frame> {
    let (generation, pointer) = (Generation(0), Pointer::from_height(height));
    let start = BlockStart {
        ingestor: name(),
        generation,
        pointer: pointer.clone(),
        parent: Pointer::from_height(parent),
        height,
        time: None,
        epoch: Epoch::ZERO,
    };
    let topics = TopicRules::default();
    let mut builder = BlockBuilder::new(start, &topics);
    let mut region = BytesMut::new();
    put_change("bank", Op::Set, b"key", &vec![1; size], &mut region);
    builder.push_changes(&region).unwrap();
    let mut frames: Vec<Frame> = std::iter::from_fn(|| builder.take()).collect();
    frames.extend(builder.finish(""));
    let mut digester = Digester::new(Digest::ZERO, generation, pointer, height);
    frames.iter().for_each(|frame| digester.add(frame).unwrap());
    let end = frames.last_mut().unwrap().header.end.as_mut().unwrap();
    digester.finish().fill(Digest::ZERO, end);
    frames
}

fn encoded(frames: &[Frame]) -> Vec<Bytes> {
    frames.iter().map(Frame::encode).collect()
}

/// The owner lacks block 2 and asks a replica that serves this; the cause it is blocked with.
async fn asked(serves: impl Fn(&Pointer) -> Vec<Bytes> + Send + Sync + 'static) -> String {
    let site = Site::new().await;
    let address = "http://liar.test:7400";
    let feeds = sluice_producer::feeds::FeedOptions { spool_bytes: 1 << 20, ..beside() };
    let owner = replica(&site, "one", &feeds);
    owner.state(State::Active).await;
    let liar = pb::spool_server::SpoolServer::new(Liar(Arc::new(serves)))
        .max_encoding_message_size(sluice_proto::MAX_MESSAGE);
    site.redirect(address, transport::local(Routes::new(liar)));
    let waiter = site.waiter(address).await;
    super::until("waiting", async || site.standbys().await.len() == 1, async || String::new())
        .await;
    write(&site.dir("one-blocks"), [1, 3]);
    owner.state(State::Blocked).await;
    let cause = owner.ingestor.get().cause;
    assert_eq!(site.height().await, 1, "nothing of it is in the journal");
    // An honest word later mends it.
    waiter.abort();
    write(&site.dir("one-blocks"), [2]);
    reaches(&site, 3, &owner).await;
    owner.stop().await;
    cause
}

#[track_caller]
fn says(cause: &str, what: &str) {
    assert!(cause.contains("http://liar.test:7400: what it sent is refused"), "{cause}");
    assert!(cause.contains(what), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_block_is_refused() {
    let cause = asked(|_| encoded(&block(3, 2, 10))).await;
    says(&cause, "it is block 3 of generation 0, but 2 of generation 0 was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_parent_is_refused() {
    let cause = asked(|_| encoded(&block(2, 0, 10))).await;
    says(&cause, "it has the parent 0, but the last block is 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused() {
    let cause = asked(|_| encoded(&block(2, 1, 3 << 20))).await;
    says(&cause, "the block has more than 1048576 bytes; raise spool_bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_block_and_false_digests_are_refused() {
    let cause = asked(|_| {
        let mut frames = block(2, 1, 700_000);
        let other = block(2, 1, 10);
        frames.truncate(1);
        frames[0].header.end = None;
        assert_eq!(other.len(), 1);
        encoded(&frames)
    })
    .await;
    says(&cause, "it ended in the middle of the block");
    let cause = asked(|_| {
        let (mut frames, other) = (block(2, 1, 10), block(2, 1, 11));
        frames[0].header.end = other[0].header.end.clone();
        encoded(&frames)
    })
    .await;
    says(&cause, "its digests are not those of its changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_is_refused() {
    let cause = asked(|_| vec![Bytes::from_static(b"\xff\xff\xff\xff")]).await;
    assert!(cause.contains("what it sent is refused"), "{cause}");
}

/// A replica that cannot be reached costs nothing but the asking.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_gone_is_passed_over() {
    let site = Site::new().await;
    let owner = replica(&site, "one", &beside());
    owner.state(State::Active).await;
    let _waiter = site.waiter("http://gone.test:7400").await;
    let standby = replica(&site, "two", &beside());
    standby.spooled("capturing beside", |spool| spool.beside).await;
    write(&site.dir("two-blocks"), 1..=3);
    standby.spooled("three blocks", |spool| spool.blocks == 3).await;
    let began = std::time::Instant::now();
    write(&site.dir("one-blocks"), [1, 3]);
    reaches(&site, 3, &owner).await;
    assert!(began.elapsed() < Duration::from_secs(20));
    owner.noted("block 2 was filled from http://two.test:7400").await;
    assert_eq!(owner.ingestor.get().failures, 0);
    standby.stop().await;
    owner.stop().await;
}
