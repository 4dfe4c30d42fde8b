//! A router that answers one journal, and the processes that tests run it in.

use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;
use sluice_proto::v1::{
    self as pb,
    router_server::{Router, RouterServer},
};
use sluice_service::{Bound, BoxError, Error, Listen, Service, Shutdown, serve};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, service::Routes};

/// Answers one journal, its thread as a head, and subscriptions that never end by themselves.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) stop: CancellationToken,
    /// Set for a service that drains until the test lets it end.
    pub(crate) drained: Option<CancellationToken>,
}

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl Router for Fake {
    type AppendStream = Answers<pb::AppendResponse>;
    type SubscribeStream = Answers<pb::SubscribeResponse>;
    type BlockDigestsStream = Answers<pb::BlockDigestsResponse>;

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

    async fn block_digests(
        &self,
        _: Request<pb::BlockDigestsRequest>,
    ) -> Result<Response<Self::BlockDigestsStream>, Status> {
        Err(Status::unimplemented("block_digests"))
    }

    async fn head(
        &self,
        _: Request<pb::HeadRequest>,
    ) -> Result<Response<pb::HeadResponse>, Status> {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let journal = pb::JournalStatus { ingestor: thread, ..Default::default() };
        Ok(Response::new(pb::HeadResponse { journal: Some(journal) }))
    }

    async fn block(
        &self,
        _: Request<pb::BlockRequest>,
    ) -> Result<Response<pb::BlockResponse>, Status> {
        Err(Status::unimplemented("block"))
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
        if let Some(drained) = &self.drained {
            drained.cancelled().await;
        }
        self.stop.cancel();
        Ok(())
    }
}

pub(crate) fn anywhere() -> Listen {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Listen { api: any, admin: any, tls: None }
}

pub(crate) type Task = tokio::task::JoinHandle<Result<(), Error>>;

/// A process with one service; nothing stops it for a while.
pub(crate) async fn start(fake: Fake, listen: Listen, grace: Duration) -> (Bound, Task, Shutdown) {
    // Metrics stay without the guard; there is no collector to lose anything to.
    drop(sluice_telemetry::init("test", &Default::default()).unwrap());
    let shutdown = Shutdown::new(grace);
    let (sender, bound) = oneshot::channel();
    let services: Vec<Box<dyn Service>> = vec![Box::new(fake)];
    let task = tokio::spawn(serve(services, listen, Some(sender), shutdown.clone()));
    (bound.await.unwrap(), task, shutdown)
}
