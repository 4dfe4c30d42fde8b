//! A layer that counts and times every call, also those that are cancelled, and opens its span.

use std::{
    any::Any,
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
use tonic::{Code, Status};
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
                let code = answer.as_ref().map_or(Code::Unknown, code);
                if code == Code::Unimplemented {
                    // Whoever invents paths must not invent time series.
                    "unimplemented".clone_into(&mut call.method);
                }
                call.outcome = name(code);
                answer
            }
            .instrument(span),
        )
    }
}

/// A refusal without a body carries its code in the head; that of a stream comes behind it, and
/// is the business of the stream's owner.
fn code<R>(response: &http::Response<R>) -> Code {
    match response.headers().get(Status::GRPC_STATUS) {
        Some(code) => Code::from_bytes(code.as_bytes()),
        None if response.status().is_success() => Code::Ok,
        None => Code::Unknown,
    }
}

const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// The answer of a handler that panicked.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands the panic over")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> http::Response<tonic::body::Body> {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = said.unwrap_or("not a text"), "a call panicked; this is a bug");
    // What it said stays here: it may be about the data of others.
    Status::internal("the call failed because of a bug; the log of the service has more")
        .into_http()
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
