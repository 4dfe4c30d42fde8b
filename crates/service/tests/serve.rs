//! Services as processes run them: one client over two transports, readiness, graceful stop.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a failure here is a failed test"
)]

use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;
use sluice_proto::v1::{
    self as pb,
    router_client::RouterClient,
    router_server::{Router, RouterServer},
};
use sluice_service::{Bound, BoxError, Error, Listen, Service, Shutdown, serve, transport};
use tokio::sync::oneshot;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, service::Routes};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// Answers one journal, and subscriptions that never end by themselves.
#[derive(Clone, Default)]
struct Fake {
    stop: CancellationToken,
}

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl Router for Fake {
    type AppendStream = Answers<pb::AppendResponse>;
    type SubscribeStream = Answers<pb::SubscribeResponse>;

    async fn list_journals(
        &self,
        _: Request<pb::ListJournalsRequest>,
    ) -> Result<Response<pb::ListJournalsResponse>, Status> {
        let journal = pb::JournalStatus { ingestor: "chain-1".into(), ..Default::default() };
        Ok(Response::new(pb::ListJournalsResponse { journals: vec![journal] }))
    }

    async fn subscribe(
        &self,
        _: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let stop = self.stop.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            stop.cancelled().await;
            sender.send(Err(Status::unavailable("stopping"))).await.ok();
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn create(
        &self,
        _: Request<pb::CreateRequest>,
    ) -> Result<Response<pb::CreateResponse>, Status> {
        panic!("a bug in a handler");
    }

    async fn open(
        &self,
        _: Request<pb::OpenRequest>,
    ) -> Result<Response<pb::OpenResponse>, Status> {
        Err(Status::unimplemented("open"))
    }

    async fn append(
        &self,
        _: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        Err(Status::unimplemented("append"))
    }

    async fn head(
        &self,
        _: Request<pb::HeadRequest>,
    ) -> Result<Response<pb::HeadResponse>, Status> {
        Err(Status::unimplemented("head"))
    }

    async fn test_filter(
        &self,
        _: Request<pb::TestFilterRequest>,
    ) -> Result<Response<pb::TestFilterResponse>, Status> {
        Err(Status::unimplemented("test_filter"))
    }
}

#[async_trait]
impl Service for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn routes(&self) -> Routes {
        Routes::new(RouterServer::new(self.clone()))
    }

    fn grpc_names(&self) -> Vec<&'static str> {
        vec!["sluice.v1.Router"]
    }

    async fn run(self: Box<Self>, shutdown: Shutdown) -> Result<(), BoxError> {
        shutdown.token().cancelled().await;
        self.stop.cancel();
        Ok(())
    }
}

fn anywhere() -> Listen {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Listen { api: any, admin: any, tls: None }
}

async fn start(shutdown: &Shutdown) -> (Bound, tokio::task::JoinHandle<Result<(), Error>>) {
    let (sender, bound) = oneshot::channel();
    let services: Vec<Box<dyn Service>> = vec![Box::<Fake>::default()];
    let task = tokio::spawn(serve(services, anywhere(), Some(sender), shutdown.clone()));
    (bound.await.unwrap(), task)
}

async fn get(address: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn one_client_two_transports() {
    let shutdown = Shutdown::new(Duration::from_secs(5));
    let (bound, task) = start(&shutdown).await;
    let remote = transport::remote(&format!("http://{}", bound.api)).unwrap();
    let (late, slot) = transport::late();
    for transport in [remote, transport::local(Fake::default().routes())] {
        let answer = RouterClient::new(transport).list_journals(pb::ListJournalsRequest {}).await;
        assert_eq!(answer.unwrap().into_inner().journals[0].ingestor, "chain-1");
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
async fn health_metrics_and_panics() {
    let shutdown = Shutdown::new(Duration::from_secs(5));
    let (bound, task) = start(&shutdown).await;
    assert!(get(bound.admin, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(get(bound.admin, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get(bound.admin, "/metrics").await.starts_with("HTTP/1.1 200"));
    for address in [bound.api, bound.admin] {
        let transport = transport::remote(&format!("http://{address}")).unwrap();
        for service in ["", "sluice.v1.Router"] {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = HealthClient::new(transport.clone()).check(request).await.unwrap();
            assert_eq!(answer.into_inner().status, 1, "{service} is serving");
        }
    }
    let transport = transport::remote(&format!("http://{}", bound.api)).unwrap();
    let mut client = RouterClient::new(transport);
    assert!(client.create(pb::CreateRequest::default()).await.is_err(), "a panic is an answer");
    client.list_journals(pb::ListJournalsRequest {}).await.unwrap();
    shutdown.stop();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_open_stream_ends_with_the_service() {
    let shutdown = Shutdown::new(Duration::from_secs(5));
    let (bound, task) = start(&shutdown).await;
    let transport = transport::remote(&format!("http://{}", bound.api)).unwrap();
    let answer = RouterClient::new(transport).subscribe(pb::SubscribeRequest::default()).await;
    let mut stream = answer.unwrap().into_inner();
    shutdown.stop();
    let ended = stream.next().await.unwrap().unwrap_err();
    assert_eq!(ended.message(), "stopping");
    tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listen = Listen { api: address, ..anywhere() };
    let error = serve(vec![], listen, None, Shutdown::new(Duration::from_secs(1))).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("listen.api") && error.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn a_bad_address_says_what_to_write() {
    for url in ["", "localhost", "http://", "not a url"] {
        let error = transport::remote(url).unwrap_err().to_string();
        assert!(error.contains("http://host:port"), "{url}: {error}");
    }
}
