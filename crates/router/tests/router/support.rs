use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use sluice_client::{
    append::{Ack, Appender, Open},
    subscribe::{Item, SubscribeOptions, Subscriber},
};
use sluice_frame::{BlockEnd, Frame, Header, put_change, scan};
use sluice_journal::{Embedded, Journal, Options};
use sluice_model::{
    Checkpoint, Digest, Epoch, Filter, FilterSpec, Generation, Head, IngestorName, JournalId, Kind,
    Op, Pointer, Position, StartPosition, TopicRule, TopicRules,
};
use sluice_proto::v1::{self as pb, router_client::RouterClient};
use sluice_router::{RouterOptions, RouterService};
use sluice_service::{Service, Shutdown, Transport, transport};
use tonic::{Status, body::Body};
use tower::{ServiceExt, util::BoxCloneSyncService};

pub(crate) const ID: JournalId = JournalId::from_array([7; 16]);

pub(crate) fn hub() -> IngestorName {
    "hub".parse().unwrap()
}

/// A running router over a journal of its own.
pub(crate) struct Rig {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) transport: Transport,
    pub(crate) shutdown: Shutdown,
    pub(crate) running: tokio::task::JoinHandle<()>,
    pub(crate) dir: tempfile::TempDir,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(options(), |_| {}).await
    }

    pub(crate) async fn with(router: RouterOptions, journal: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = embedded(dir.path(), journal);
        journal.create(&hub(), ID).await.unwrap();
        Self::over(dir, journal, router)
    }

    pub(crate) fn over(
        dir: tempfile::TempDir,
        journal: Arc<dyn Journal>,
        options: RouterOptions,
    ) -> Self {
        let service = RouterService::new(Arc::clone(&journal), options, None);
        let transport = transport::local(service.routes());
        let shutdown = Shutdown::new(Duration::from_secs(10));
        let running = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { Box::new(service).run(shutdown).await.unwrap() }
        });
        Self { journal, transport, shutdown, running, dir }
    }

    pub(crate) fn client(&self) -> RouterClient<Transport> {
        RouterClient::new(self.transport.clone())
    }

    pub(crate) async fn open(&self, epoch: u64) -> (Writer, Option<Head>) {
        let (appender, head) = Appender::open(self.transport.clone(), open(epoch)).await.unwrap();
        (
            Writer {
                appender,
                parent: head.as_ref().map(|h| h.pointer.clone()).unwrap_or_default(),
            },
            head,
        )
    }

    pub(crate) fn subscriber(&self, change: impl FnOnce(&mut SubscribeOptions)) -> Subscriber {
        let mut options = SubscribeOptions::new(hub(), StartPosition::Earliest);
        change(&mut options);
        Subscriber::new(self.transport.clone(), options)
    }

    pub(crate) async fn status(&self) -> sluice_journal::Status {
        self.journal.status(&hub()).await.unwrap()
    }

    pub(crate) async fn subscribers(&self) -> u32 {
        let request = pb::HeadRequest { ingestor: "hub".into() };
        self.client().head(request).await.unwrap().into_inner().journal.unwrap().subscribers
    }
}

pub(crate) fn embedded(path: &Path, change: impl FnOnce(&mut Options)) -> Arc<dyn Journal> {
    let mut options = Options { prepare_spares: false, ..Options::default() };
    change(&mut options);
    Embedded::open_dir(path, options).unwrap()
}

/// Quick moments, so that tests that wait for them do not take long.
pub(crate) fn options() -> RouterOptions {
    RouterOptions { heartbeat: Duration::from_millis(50), ..RouterOptions::default() }
}

pub(crate) fn open(epoch: u64) -> Open {
    Open {
        ingestor: hub(),
        journal_id: ID,
        epoch: Epoch::from_u64(epoch),
        nonce: Bytes::from_static(b"nonce"),
        holder: "test".into(),
    }
}

/// Appends blocks one behind the other.
pub(crate) struct Writer {
    pub(crate) appender: Appender,
    pub(crate) parent: Pointer,
}

impl Writer {
    /// Appends a block and waits for its acknowledgement.
    pub(crate) async fn block(&mut self, block: &Block) -> Ack {
        self.send(block).await;
        self.appender.next_ack().await.unwrap().unwrap()
    }

    pub(crate) async fn send(&mut self, block: &Block) {
        for frame in block.frames(&self.parent) {
            self.appender.send(&frame).await.unwrap();
        }
        self.parent = Pointer::from_height(block.height);
    }

    /// Blocks of one change in `store`, through `to`.
    pub(crate) async fn heights(&mut self, heights: std::ops::RangeInclusive<u64>, store: &str) {
        for height in heights {
            self.block(&Block::of(height, &[store])).await;
        }
    }
}

/// A change as the tests compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) position: Position,
    pub(crate) store: String,
    pub(crate) topic: String,
    pub(crate) op: Op,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) height: u64,
    pub(crate) generation: u32,
    pub(crate) changes: Vec<(String, Op, Vec<u8>, Vec<u8>)>,
    /// A part ends after so many changes, again and again; 0: one part.
    pub(crate) part: usize,
}

impl Block {
    pub(crate) fn of(height: u64, stores: &[&str]) -> Self {
        let changes = stores
            .iter()
            .enumerate()
            .map(|(i, s)| ((*s).to_owned(), Op::Set, vec![i as u8], height.to_be_bytes().to_vec()))
            .collect();
        Self { height, generation: 0, changes, part: 0 }
    }

    pub(crate) fn parts_of(self, part: usize) -> Self {
        Self { part, ..self }
    }

    pub(crate) fn frames(&self, parent: &Pointer) -> Vec<Frame> {
        let size = if self.part == 0 { self.changes.len().max(1) } else { self.part };
        let mut pieces: Vec<_> = self.changes.chunks(size).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        let parts = pieces.len();
        let mut first_index = 0;
        let mut frames = Vec::new();
        for (part, piece) in pieces.into_iter().enumerate() {
            let mut region = BytesMut::new();
            for (store, op, key, value) in piece {
                put_change(store, *op, key, value, &mut region);
            }
            let changes = region.freeze();
            let table = scan(&changes, &topics()).unwrap();
            let pointer = Pointer::from_height(self.height);
            let mut header = Header::new(Kind::Block, hub(), pointer, self.height);
            header.generation = Generation(self.generation);
            header.parent = parent.clone();
            header.time = Some(self.height as i64 * 1_000_000_000);
            header.part = part as u32;
            header.first_index = first_index;
            header.routes = table.routes;
            header.runs = table.runs;
            first_index += piece.len() as u32;
            header.end = (part + 1 == parts).then(|| BlockEnd {
                parts: parts as u32,
                changes: self.changes.len() as u32,
                ..BlockEnd::default()
            });
            frames.push(Frame { header, changes });
        }
        frames
    }

    pub(crate) fn end(&self) -> Position {
        Position::end_of(Generation(self.generation), Pointer::from_height(self.height))
    }

    /// What a reader with this filter must see: every change decided on its own.
    pub(crate) fn expected(&self, filter: &Filter) -> Vec<Seen> {
        let rules = topics();
        self.changes
            .iter()
            .enumerate()
            .filter(|(_, (store, op, key, _))| {
                filter.matches_route(store, rules.topic(store, key))
                    && filter.matches_change(store, *op, key)
            })
            .map(|(index, (store, op, key, value))| Seen {
                position: Position { index: index as u32, ..self.end() },
                topic: Some(rules.topic(store, key))
                    .filter(|t| !t.is_empty())
                    .unwrap_or(store)
                    .into(),
                store: store.clone(),
                op: *op,
                key: key.clone(),
                value: value.clone(),
            })
            .collect()
    }
}

pub(crate) fn topics() -> TopicRules {
    let prefix = Some("hex:02".parse().unwrap());
    TopicRules::new(vec![TopicRule { store: "bank".into(), prefix, topic: "bank.two".into() }])
}

pub(crate) fn stores(stores: &[&str]) -> FilterSpec {
    FilterSpec { stores: stores.iter().map(ToString::to_string).collect(), ..FilterSpec::default() }
}

/// The changes of a frame.
pub(crate) fn seen(frame: &Frame) -> Vec<Seen> {
    frame.verify().unwrap();
    frame
        .changes()
        .map(|change| {
            let (index, route, change) = change.unwrap();
            Seen {
                position: frame.header.position(index),
                store: route.store.to_string(),
                topic: route.topic().to_owned(),
                op: change.op,
                key: change.key.to_vec(),
                value: change.value.to_vec(),
            }
        })
        .collect()
}

/// What a bounded subscription delivered.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) changes: Vec<Seen>,
    pub(crate) end: Checkpoint,
    /// Digest per complete block, as seen.
    pub(crate) digests: Vec<(Position, Digest)>,
}

/// Reads to the end of a bounded subscription.
pub(crate) async fn read(subscriber: &mut Subscriber) -> Read {
    let mut read = Read::default();
    while let Some(item) = next(subscriber).await {
        match item {
            Item::Frame(frame) => {
                read.changes.extend(seen(&frame));
                if let Some(end) = &frame.header.end {
                    read.digests.push((frame.header.end_of_block(), end.digest));
                }
            }
            Item::Complete(complete) => {
                read.end = Checkpoint { position: complete.position, digest: complete.digest };
            }
            Item::Through(through) => {
                read.digests.extend(through.digest.map(|d| (through.position, d)));
            }
            _ => {}
        }
    }
    read
}

/// The next item; a test that waits for ever fails instead.
pub(crate) async fn next(subscriber: &mut Subscriber) -> Option<Item> {
    tokio::time::timeout(Duration::from_secs(20), subscriber.next())
        .await
        .expect("an item in time")
        .unwrap()
}

/// The next frame, past heartbeats and progress.
pub(crate) async fn next_frame(subscriber: &mut Subscriber) -> Frame {
    loop {
        if let Some(Item::Frame(frame)) = next(subscriber).await {
            return frame;
        }
    }
}

/// Waits until a condition holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..2000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// A transport whose answers break after so many bytes, call by call; later ones do not break.
pub(crate) fn flaky(transport: Transport, cuts: Vec<usize>) -> Transport {
    let cuts = Arc::new((cuts, AtomicUsize::new(0)));
    BoxCloneSyncService::new(tower::service_fn(move |request: http::Request<Body>| {
        let (transport, cuts) = (transport.clone(), Arc::clone(&cuts));
        async move {
            let (parts, body) = transport.oneshot(request).await?.into_parts();
            let call = cuts.1.fetch_add(1, Ordering::Relaxed);
            let Some(cut) = cuts.0.get(call).copied() else {
                return Ok(http::Response::from_parts(parts, body));
            };
            // Small pieces, so that the cut also falls inside messages.
            let pieces =
                body.into_data_stream().map_ok(|data| {
                    stream::iter((0..data.len().div_ceil(16)).map(move |i| {
                        Ok::<_, Status>(data.slice(i * 16..data.len().min(i * 16 + 16)))
                    }))
                });
            let cut_off = pieces
                .try_flatten()
                .take(cut)
                .chain(stream::once(async { Err(Status::unavailable("cut")) }))
                .map_ok(hyper::body::Frame::data);
            Ok(http::Response::from_parts(parts, Body::new(StreamBody::new(cut_off))))
        }
    }))
}
