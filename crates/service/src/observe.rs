//! A layer that counts and times every call, also those that are cancelled, and opens its span.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram},
};
use tower::{Layer, Service};
use tracing::Instrument;

#[derive(Clone, Debug)]
pub(crate) struct Observe(Arc<Instruments>);

#[derive(Debug)]
struct Instruments {
    calls: Counter<u64>,
    seconds: Histogram<f64>,
}

impl Observe {
    pub(crate) fn new() -> Self {
        let meter = sluice_telemetry::meter();
        Self(Arc::new(Instruments {
            calls: meter
                .u64_counter("sluice_rpc_calls")
                .with_description("Calls by method and outcome of their head")
                .build(),
            seconds: meter
                .f64_histogram("sluice_rpc_head_seconds")
                .with_description("Time until a call's answer began, in seconds")
                .build(),
        }))
    }
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;
    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, instruments: self.0.clone() }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Observed<S> {
    inner: S,
    instruments: Arc<Instruments>,
}

impl<S, B, R> Service<http::Request<B>> for Observed<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send,
    R: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = request.uri().path().to_owned();
        let span = tracing::debug_span!("rpc", otel.name = %method, otel.kind = "server");
        let headers = request.headers();
        sluice_telemetry::parent_from_headers(&span, |name| {
            headers.get(name).and_then(|value| value.to_str().ok())
        });
        let call = Call {
            instruments: self.instruments.clone(),
            method,
            began: Instant::now(),
            outcome: "cancelled",
        };
        let answer = self.inner.call(request);
        Box::pin(
            async move {
                // All of it moves in here, not the one field that is set.
                let mut call = call;
                let answer = answer.await;
                call.outcome = answer.as_ref().map_or("failed", outcome);
                answer
            }
            .instrument(span),
        )
    }
}

fn outcome<R>(response: &http::Response<R>) -> &'static str {
    // A refusal without a body carries its code in the head.
    match response.headers().get("grpc-status").map(http::HeaderValue::as_bytes) {
        None | Some(b"0") => "ok",
        Some(_) => "refused",
    }
}

/// Records when it is dropped, so that a cancelled call is counted too.
struct Call {
    instruments: Arc<Instruments>,
    method: String,
    began: Instant,
    outcome: &'static str,
}

impl Drop for Call {
    fn drop(&mut self) {
        let method = KeyValue::new("method", std::mem::take(&mut self.method));
        let outcome = KeyValue::new("outcome", self.outcome);
        let seconds = self.began.elapsed().as_secs_f64();
        self.instruments.seconds.record(seconds, std::slice::from_ref(&method));
        self.instruments.calls.add(1, &[method, outcome]);
    }
}
