//! A trace goes through both transports. A process of its own, because tracing is global.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_proto::v1::{self as pb, router_client::RouterClient};
use sluice_service::{BoxError, Listen, Service, Shutdown, serve, transport};
use tonic::{Status, service::Routes};
use tracing::Instrument;

/// Keeps what a call came with, and the span that it was handled in.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Option<(String, String)>>>);

#[async_trait]
impl Service for Listener {
    fn name(&self) -> &'static str {
        "listener"
    }

    fn routes(&self) -> Routes {
        let heard = self.0.clone();
        let handler = move |headers: http::HeaderMap| async move {
            let came = headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned());
            let inside = sluice_telemetry::current_traceparent();
            *heard.lock() = came.map(|came| (came, inside));
            Status::not_found("heard").into_http::<axum::body::Body>()
        };
        let path = "/sluice.v1.Router/ListJournals";
        Routes::from(axum::Router::new().route(path, axum::routing::post(handler)))
    }

    fn grpc_names(&self) -> Vec<&'static str> {
        vec![]
    }

    async fn run(self: Box<Self>, shutdown: Shutdown) -> Result<(), BoxError> {
        shutdown.token().cancelled().await;
        Ok(())
    }
}

/// Takes what the exporter sends, so that nothing waits for it.
async fn collector() -> String {
    let taken = || async { [("content-type", "application/grpc"), ("grpc-status", "0")] };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(taken);
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_part_of_its_callers_trace() {
    let options =
        sluice_telemetry::TelemetryOptions { log: "error".to_owned(), otlp: collector().await };
    let guard = sluice_telemetry::init("test", &options).unwrap();
    let listener = Listener::default();
    let shutdown = Shutdown::new(Duration::from_secs(5));
    let (sender, bound) = tokio::sync::oneshot::channel();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let listen = Listen { api: any, admin: any, tls: None };
    let services: Vec<Box<dyn Service>> = vec![Box::new(listener.clone())];
    let task = tokio::spawn(serve(services, listen, Some(sender), shutdown.clone()));
    let url = format!("http://{}", bound.await.unwrap().api);

    for transport in [transport::remote(&url).unwrap(), transport::local(listener.routes())] {
        let call = async {
            let mut client = RouterClient::new(transport);
            let status = client.list_journals(pb::ListJournalsRequest {}).await.unwrap_err();
            assert_eq!(status.message(), "heard");
            sluice_telemetry::current_traceparent()
        };
        let own = call.instrument(tracing::info_span!(target: "sluice_test", "caller")).await;
        let (came, inside) = listener.0.lock().take().expect("the call carried its context");
        assert_eq!(came, own);
        assert_eq!(inside.get(..35), own.get(..35), "the same trace");
        assert_ne!(inside, own, "a span of its own");
    }
    shutdown.stop();
    task.await.unwrap().unwrap();
    tokio::task::spawn_blocking(|| guard.shutdown()).await.unwrap();
}
