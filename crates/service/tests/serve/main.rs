//! Services as processes run them: one client over two transports, readiness, graceful stop.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a failure here is a failed test"
)]

mod fake;
mod tls;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use fake::{Fake, anywhere, start};
use sluice_proto::v1::{self as pb, router_client::RouterClient};
use sluice_service::{Bound, Listen, Service, Shutdown, Transport, serve, transport};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const GRACE: Duration = Duration::from_secs(5);

fn api(bound: &Bound) -> Transport {
    transport::remote(&format!("http://{}", bound.api)).unwrap()
}

/// One answer of the admin door.
async fn get(address: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn health(transport: Transport, service: &str) -> i32 {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(transport).check(request).await.unwrap().into_inner().status
}

#[tokio::test]
async fn one_client_two_transports() {
    let (bound, task, shutdown) = start(Fake::default(), anywhere(), GRACE).await;
    let (late, slot) = transport::late();
    for transport in [api(&bound), transport::local(Fake::default().routes())] {
        let mut client = RouterClient::new(transport);
        let answer = client.list_journals(pb::ListJournalsRequest {}).await;
        assert_eq!(answer.unwrap().into_inner().journals[0].ingestor, "chain-1");
        // A bug in a handler is an answer, and does not end anything.
        let status = client.create(pb::CreateRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status}");
        assert!(!status.message().contains("a bug in a handler"), "{status}");
        client.list_journals(pb::ListJournalsRequest {}).await.unwrap();
    }
    let waiting = tokio::spawn(async move {
        RouterClient::new(late).list_journals(pb::ListJournalsRequest {}).await
    });
    slot.bind(transport::local(Fake::default().routes()));
    waiting.await.unwrap().unwrap();
    shutdown.stop();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_late_transport_without_a_peer_fails_instead_of_hanging() {
    let (late, slot) = transport::late();
    drop(slot);
    let answer = RouterClient::new(late).list_journals(pb::ListJournalsRequest {}).await;
    assert!(answer.unwrap_err().message().contains("never started"));
}

#[tokio::test]
async fn ready_from_start_to_stop_and_alive_to_the_end() {
    let drained = CancellationToken::new();
    let fake = Fake { drained: Some(drained.clone()), ..Fake::default() };
    let (bound, task, shutdown) = start(fake, anywhere(), GRACE).await;
    let admin = transport::remote(&format!("http://{}", bound.admin)).unwrap();
    assert!(get(bound.admin, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(get(bound.admin, "/readyz").await.starts_with("HTTP/1.1 200"));
    for transport in [api(&bound), admin.clone()] {
        for service in ["", "sluice.v1.Router"] {
            assert_eq!(health(transport.clone(), service).await, 1, "{service:?} is serving");
        }
    }
    shutdown.stop();
    let began = Instant::now();
    while !get(bound.admin, "/readyz").await.starts_with("HTTP/1.1 503") {
        assert!(began.elapsed() < GRACE, "still ready");
    }
    while health(admin.clone(), "sluice.v1.Router").await != 2 {
        assert!(began.elapsed() < GRACE, "still serving");
    }
    // Draining: no new work is wanted, but what comes is answered.
    assert!(get(bound.admin, "/livez").await.starts_with("HTTP/1.1 200"));
    RouterClient::new(api(&bound)).list_journals(pb::ListJournalsRequest {}).await.unwrap();
    drained.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn calls_are_counted_by_method_and_outcome() {
    let (bound, task, shutdown) = start(Fake::default(), anywhere(), GRACE).await;
    let mut client = RouterClient::new(api(&bound));
    client.list_journals(pb::ListJournalsRequest {}).await.unwrap();
    client.create(pb::CreateRequest::default()).await.unwrap_err();
    let mut unknown = tonic::client::Grpc::new(api(&bound));
    unknown.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/made.up/By-4711");
    let codec = tonic_prost::ProstCodec::<pb::HeadRequest, pb::HeadResponse>::default();
    let request = tonic::Request::new(pb::HeadRequest::default());
    let status = unknown.unary(request, path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let text = get(bound.admin, "/metrics").await;
    for (method, outcome) in [
        ("/sluice.v1.Router/ListJournals", "ok"),
        ("/sluice.v1.Router/Create", "internal"),
        ("unimplemented", "unimplemented"),
    ] {
        let found = text.lines().any(|line| {
            line.starts_with("sluice_rpc_calls_total")
                && line.contains(&format!("method=\"{method}\""))
                && line.contains(&format!("outcome=\"{outcome}\""))
        });
        assert!(found, "{method} {outcome}: {text}");
    }
    assert!(!text.contains("4711"), "invented paths are no time series: {text}");
    shutdown.stop();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_open_stream_ends_with_the_service() {
    let (bound, task, shutdown) = start(Fake::default(), anywhere(), GRACE).await;
    let answer = RouterClient::new(api(&bound)).subscribe(pb::SubscribeRequest::default()).await;
    let mut stream = answer.unwrap().into_inner();
    shutdown.stop();
    let ended = stream.next().await.unwrap().unwrap_err();
    assert_eq!(ended.message(), "stopping");
    tokio::time::timeout(GRACE, task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn one_connection_carries_many_streams() {
    let (bound, task, shutdown) = start(Fake::default(), anywhere(), GRACE).await;
    let client = RouterClient::new(api(&bound));
    let mut open = Vec::new();
    for number in 0..300 {
        let mut client = client.clone();
        let answer = client.subscribe(pb::SubscribeRequest::default());
        let answer = tokio::time::timeout(GRACE, answer).await;
        open.push(answer.unwrap_or_else(|_| panic!("stream {number} waits")).unwrap());
    }
    shutdown.stop();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_stays_on_its_thread_and_the_next_has_another() {
    let (bound, task, shutdown) = start(Fake::default(), anywhere(), GRACE).await;
    let mut threads = Vec::new();
    for _ in 0..3 {
        let client = RouterClient::new(api(&bound));
        let calls = (0..20).map(|_| {
            let mut client = client.clone();
            async move {
                let head = client.head(pb::HeadRequest::default()).await.unwrap().into_inner();
                head.journal.unwrap().ingestor
            }
        });
        let mut of_connection = futures_util::future::join_all(calls).await;
        of_connection.dedup();
        assert_eq!(of_connection.len(), 1, "{of_connection:?}");
        assert!(of_connection[0].starts_with("lane-"), "{of_connection:?}");
        threads.append(&mut of_connection);
    }
    threads.sort();
    threads.dedup();
    assert_eq!(threads.len(), 3, "{threads:?}");
    shutdown.stop();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_service_that_does_not_stop_is_named_and_dropped() {
    let fake = Fake { drained: Some(CancellationToken::new()), ..Fake::default() };
    let grace = Duration::from_millis(1500);
    let (_, task, shutdown) = start(fake, anywhere(), grace).await;
    let began = Instant::now();
    shutdown.stop();
    let error = task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("fake") && error.contains("within the grace"), "{error}");
    assert!(began.elapsed() >= grace, "it had its time: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_service_that_ends_takes_the_process_with_it() {
    struct Short;
    #[async_trait::async_trait]
    impl Service for Short {
        fn name(&self) -> &'static str {
            "short"
        }
        fn routes(&self) -> tonic::service::Routes {
            tonic::service::Routes::default()
        }
        fn grpc_names(&self) -> Vec<&'static str> {
            vec![]
        }
        async fn run(self: Box<Self>, _: Shutdown) -> Result<(), sluice_service::BoxError> {
            panic!("a bug in a loop");
        }
    }
    let services: Vec<Box<dyn Service>> = vec![Box::<Fake>::default(), Box::new(Short)];
    let ended =
        tokio::time::timeout(GRACE, serve(services, anywhere(), None, Shutdown::new(GRACE)));
    let error = ended.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("short") && error.contains("panicked"), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (door, listen) in [
        ("api", Listen { api: address, ..anywhere() }),
        ("admin", Listen { admin: address, ..anywhere() }),
    ] {
        let error =
            serve(vec![], listen, None, Shutdown::new(GRACE)).await.unwrap_err().to_string();
        assert!(error.contains(&format!("listen.{door} = {address}")), "{error}");
    }
}

#[tokio::test]
async fn a_bad_address_says_what_to_write() {
    for url in ["", "localhost", "http://", "not a url"] {
        let error = transport::remote(url).unwrap_err().to_string();
        assert!(error.contains("http://host:port"), "{url}: {error}");
    }
}
