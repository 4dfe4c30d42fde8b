//! A collector really gets what the process does, and the trace crosses processes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failure here is a failed test")]

use std::time::Duration;

use opentelemetry::trace::TraceContextExt;
use tokio::sync::mpsc;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Listens as a collector would and tells which of its methods are called.
async fn collector() -> (String, mpsc::Receiver<String>) {
    let (sender, receiver) = mpsc::channel(100);
    let app = axum::Router::new().fallback(move |uri: axum::http::Uri| {
        let sender = sender.clone();
        async move {
            sender.send(uri.path().to_owned()).await.ok();
            let head = [("content-type", "application/grpc"), ("grpc-status", "0")];
            (head, axum::body::Body::empty())
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, receiver)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_and_metrics_arrive_although_little_is_logged() {
    let (otlp, mut calls) = collector().await;
    let options = sluice_telemetry::TelemetryOptions { log: "error".to_owned(), otlp };
    let guard = sluice_telemetry::init("test", &options).unwrap();
    assert_eq!(sluice_telemetry::current_traceparent(), "", "nothing is traced yet");

    let traceparent = tracing::debug_span!(target: "sluice_test", "work")
        .in_scope(sluice_telemetry::current_traceparent);
    assert_eq!(traceparent.len(), 55, "{traceparent}");
    let foreign = tracing::info_span!(target: "h2", "connection");
    assert_eq!(foreign.in_scope(sluice_telemetry::current_traceparent), "", "not ours");

    // The other side of a call, and of the journal.
    let child = tracing::debug_span!(target: "sluice_test", "child");
    sluice_telemetry::parent_from_headers(&child, |_| Some(traceparent.as_str()));
    let inside = child.in_scope(sluice_telemetry::current_traceparent);
    assert_eq!(inside.get(..35), traceparent.get(..35), "the same trace");
    assert_ne!(inside, traceparent, "another span");
    for nothing in ["", "garbage", "00-0-0-00"] {
        let alone = tracing::debug_span!(target: "sluice_test", "alone");
        alone.in_scope(|| sluice_telemetry::link_traceparent(nothing));
        sluice_telemetry::parent_from_headers(&alone, |_| Some(nothing));
        let context = alone.context();
        assert!(context.span().span_context().is_valid(), "{nothing:?} does not stop a trace");
    }
    drop((child, foreign));

    sluice_telemetry::meter().u64_counter("blocks_seen").build().add(1, &[]);
    tokio::task::spawn_blocking(|| guard.shutdown()).await.unwrap();
    let mut missing = vec!["TraceService/Export", "MetricsService/Export"];
    while !missing.is_empty() {
        let call = tokio::time::timeout(Duration::from_secs(20), calls.recv()).await;
        let call = call.unwrap_or_else(|_| panic!("never called: {missing:?}")).unwrap();
        missing.retain(|path| !call.ends_with(path));
    }
}
