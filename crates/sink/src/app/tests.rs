use std::time::Duration;

use sluice_proto::v1::{self as pb, sink_server::Sink as _};
use sluice_service::transport;
use tonic::{Code, Request};

use super::*;
use crate::{Batch, DeliverError, Dispatcher, Receipt};

struct Accepting;

#[async_trait]
impl Dispatcher for Accepting {
    async fn deliver(&mut self, batch: &Batch) -> Result<Receipt, DeliverError> {
        Ok(batch.delivered())
    }
}

struct Factory;

impl DispatcherFactory for Factory {
    fn type_name(&self) -> &'static str {
        "memory"
    }
    fn destination(&self, _: &StreamConfig, _: &SinkConfig) -> String {
        "here".to_owned()
    }
    fn build(
        &self,
        stream: &StreamConfig,
        _: &SinkConfig,
    ) -> Result<Box<dyn Dispatcher>, ConfigError> {
        if stream.settings.contains_key("bad") {
            return Err(ConfigError::new(format!("{}.bad", stream.path("memory")), "it is bad"));
        }
        Ok(Box::new(Accepting))
    }
}

fn service(text: &str, sinks: &[&str]) -> Result<SinkService, ConfigError> {
    let table: toml::Table = text.parse().unwrap();
    let config: Config = sluice_config::section("", &table).unwrap();
    // Nobody answers there: what is tested here needs no router and no coordinator.
    let (nowhere, _slot) = transport::late();
    let options = SinkOptions {
        sinks: sinks.iter().map(ToString::to_string).collect(),
        registry: Registry::default().with(Factory),
        router: nowhere.clone(),
        coordination: Coordination::new(nowhere),
        session: SessionOptions::default(),
        shared: None,
    };
    SinkService::new(&config, options)
}

const STREAMS: &str = r#"
    [sinks.a]
    type = "memory"
    [streams.one]
    sink = "a"
    ingestor = "hub"
    filter = { stores = ["bank"] }
    [streams.two]
    sink = "memory"
    ingestor = "hub"
"#;

#[tokio::test]
async fn serves_the_streams_of_its_sinks() {
    let names = |sinks: &[&str]| {
        service(STREAMS, sinks).unwrap().streams().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["one", "two"]);
    assert_eq!(names(&["a"]), ["one"]);
    assert_eq!(names(&["memory"]), ["two"], "a sink that is not declared has its name as type");
}

#[tokio::test]
async fn mistakes_show_before_anything_runs() {
    let error = service("[streams.s]\nsink = 'kafka'\ningestor = 'hub'", &[]).unwrap_err();
    assert_eq!(error.key(), "sinks.kafka.type");
    let error = service("[sinks.lonely]\ntype = 'kafka'", &[]).unwrap_err();
    assert_eq!(error.key(), "sinks.lonely.type", "also without a stream");
    assert!(error.to_string().contains("this program has: memory"), "{error}");
    let bad = "[streams.s]\nsink = 'memory'\ningestor = 'hub'\nmemory = { bad = 1 }";
    assert_eq!(service(bad, &[]).unwrap_err().key(), "streams.s.memory.bad");
    let skip = "[streams.s]\nsink = 'memory'\ningestor = 'hub'\nretry = { then = 'skip' }";
    assert_eq!(service(skip, &[]).unwrap_err().key(), "streams.s.retry.then");
}

#[tokio::test]
async fn grpc_shows_every_stream_and_names_the_missing() {
    let service = service(STREAMS, &[]).unwrap();
    let grpc = SinkGrpc { streams: Arc::clone(&service.served) };
    let listed = grpc.list_streams(Request::new(pb::ListStreamsRequest {})).await.unwrap();
    let streams = listed.into_inner().streams;
    assert_eq!(streams.len(), 2);
    let one = &streams[0];
    assert_eq!((one.name.as_str(), one.sink.as_str(), one.r#type.as_str()), ("one", "a", "memory"));
    assert_eq!((one.state(), one.destination.as_str()), (pb::StreamState::Waiting, "here"));
    assert_eq!(one.filter.as_ref().unwrap().stores, ["bank"]);
    assert!(!one.cause.is_empty());
    let asked = pb::GetStreamRequest { name: "three".to_owned() };
    let status = grpc.get_stream(Request::new(asked)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("sluice streams list"));
}

#[tokio::test(start_paused = true)]
async fn stops_although_nobody_answers() {
    let service = service(STREAMS, &[]).unwrap();
    let shutdown = Shutdown::new(Duration::from_secs(10));
    let run = tokio::spawn(Box::new(service).run(shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    shutdown.stop();
    let ended = tokio::time::timeout(Duration::from_secs(1), run).await;
    ended.expect("it ends at once").unwrap().unwrap();
}
