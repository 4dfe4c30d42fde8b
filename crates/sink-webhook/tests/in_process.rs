//! A webhook over the real router, journal and coordinator, all in one process.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failure is a failed test")]

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use bytes::Bytes;
use parking_lot::Mutex;
use sluice_client::{
    append::{Appender, Open},
    coordination::{Coordination, SessionOptions},
};
use sluice_config::Config;
use sluice_coordinator::{Coordinator, CoordinatorOptions, StoreOptions};
use sluice_journal::{Embedded, Journal, Options};
use sluice_model::{Digest, Epoch, JournalId, Pointer};
use sluice_router::{RouterOptions, RouterService};
use sluice_service::{Service, Shutdown, Transport, transport};
use sluice_sink::{
    Registry, SinkOptions, SinkService, State as StreamState,
    testing::{block, end_of, eventually, ingestor},
};
use sluice_sink_webhook::WebhookFactory;
use tokio::{net::TcpListener, task::JoinHandle};

/// Everything but the sink.
struct Site {
    coordinator: Transport,
    router: Transport,
    appender: Appender,
    shutdown: Shutdown,
    _dir: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { prepare_spares: false, ..Options::default() };
        let journal = Embedded::open_dir(dir.path(), options).unwrap();
        let id = JournalId::from_array([7; 16]);
        journal.create(&ingestor(), id).await.unwrap();
        let router = RouterService::new(journal, RouterOptions::default(), None);
        let coordinator =
            Coordinator::build(CoordinatorOptions::new(StoreOptions::Memory)).await.unwrap();
        let (at, router_at) =
            (transport::local(coordinator.routes()), transport::local(router.routes()));
        let shutdown = Shutdown::new(Duration::from_secs(5));
        for service in [Box::new(coordinator) as Box<dyn Service>, Box::new(router)] {
            let shutdown = shutdown.clone();
            tokio::spawn(async move { service.run(shutdown).await.unwrap() });
        }
        let open = Open {
            ingestor: ingestor(),
            journal_id: id,
            epoch: Epoch::from_u64(1),
            nonce: Bytes::from_static(b"nonce"),
            holder: "test".to_owned(),
        };
        let (appender, _) = Appender::open(router_at.clone(), open).await.unwrap();
        Self { coordinator: at, router: router_at, appender, shutdown, _dir: dir }
    }

    /// Appends blocks of two changes: one of the store `bank`, one of `staking`.
    async fn append(&mut self, heights: std::ops::RangeInclusive<u64>) {
        for height in heights {
            let mut frame = block(height, &[("bank", vec![1]), ("staking", vec![2])]);
            if height == 1 {
                frame.header.parent = Pointer::ORIGIN;
            }
            frame.header.end.as_mut().unwrap().digest = Digest::ZERO;
            self.appender.send(&frame).await.unwrap();
            self.appender.next_ack().await.unwrap().unwrap();
        }
    }

    fn sink(&self, url: &str) -> Sink {
        let text = format!(
            "[streams.ledger]\nsink = 'webhook'\ningestor = 'chain'\nfrom = 'earliest'\n\
             filter = {{ stores = ['bank'] }}\nwebhook = {{ url = '{url}' }}\n\
             batch = {{ events = 3, wait = '20ms' }}\nretry = {{ first = '5ms', max = '20ms' }}"
        );
        let config: Config =
            sluice_config::section("", &text.parse().unwrap()).expect("a good configuration");
        let options = SinkOptions {
            sinks: Vec::new(),
            registry: Registry::default().with(WebhookFactory),
            router: self.router.clone(),
            coordination: Coordination::new(self.coordinator.clone()),
            session: SessionOptions { ttl: Duration::from_secs(3), ..SessionOptions::default() },
            shared: None,
        };
        let service = SinkService::new(&config, options).unwrap();
        let status = service.status("ledger").unwrap();
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { Box::new(service).run(stop).await.unwrap() });
        Sink { status, shutdown, task }
    }

    async fn checkpoint(&self) -> Option<sluice_model::Position> {
        let coordination = Coordination::new(self.coordinator.clone());
        let state = coordination.get_checkpoint("ledger").await.unwrap();
        state.checkpoint.map(|stored| stored.checkpoint.position)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

struct Sink {
    status: Arc<sluice_sink::Status>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Sink {
    async fn stop(self) {
        self.shutdown.stop();
        tokio::time::timeout(Duration::from_secs(10), self.task).await.expect("it stops").unwrap();
    }
}

#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Received>>);

#[derive(Default)]
struct Received {
    refuse: bool,
    requests: usize,
    batches: Vec<serde_json::Value>,
}

impl Receiver {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let routes = Router::new().route("/hook", post(receive)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        url
    }

    fn heights(&self) -> Vec<u64> {
        let own = self.0.lock();
        let events = own.batches.iter().flat_map(|batch| batch["events"].as_array().unwrap());
        events
            .map(|event| {
                assert_eq!(event["store"], "bank");
                event["height"].as_u64().unwrap()
            })
            .collect()
    }
}

async fn receive(State(receiver): State<Receiver>, body: Bytes) -> StatusCode {
    let mut own = receiver.0.lock();
    own.requests += 1;
    if own.refuse {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    own.batches.push(serde_json::from_slice(&body).unwrap());
    StatusCode::OK
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivers_survives_refusals_and_restarts_and_leaves_no_hole() {
    let (mut site, receiver) = (Site::new().await, Receiver::default());
    let url = receiver.start().await;
    site.append(1..=10).await;
    let sink = site.sink(&url);
    eventually("the first ten", || receiver.heights().len() == 10).await;

    receiver.0.lock().refuse = true;
    site.append(11..=12).await;
    let before = receiver.0.lock().requests;
    eventually("refusals", || receiver.0.lock().requests > before + 5).await;
    assert_eq!(sink.status.snapshot().state, StreamState::Retrying);
    sink.stop().await;
    assert_eq!(site.checkpoint().await, Some(end_of(10)), "a refused batch is not passed");

    receiver.0.lock().refuse = false;
    let sink = site.sink(&url);
    eventually("the refused two", || receiver.heights().len() == 12).await;
    site.append(13..=40).await;
    eventually("the rest", || receiver.heights().len() == 40).await;
    sink.stop().await;
    assert_eq!(receiver.heights(), (1..=40).collect::<Vec<_>>());
    assert_eq!(site.checkpoint().await, Some(end_of(40)));
    let own = receiver.0.lock();
    for pair in own.batches.windows(2) {
        assert_eq!(pair[1]["after"], pair[0]["through"], "each batch begins where one ended");
        assert!(pair[1]["epoch"].as_u64() >= pair[0]["epoch"].as_u64());
    }
}
