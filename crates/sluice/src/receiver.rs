//! The bundled webhook receiver: keeps every event that it accepts in a file, and counts what
//! came twice, out of order, or with a hole in front of it.
//!
//! ```text
//!   POST /any/path   a batch; answered 200 when its lines are synced to the disk
//!   GET  /stats      the counts as JSON
//! ```
//!
//! The file holds, per batch, one line `{"batch":{…}}` and one line per event, as it was sent.

mod store;
mod tally;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::ReceiveArgs,
    exit::{Exit, Failure, Outcome},
    output::{Out, count, note},
};
use store::Store;
use tally::Batch;
pub(crate) use tally::Stats;

/// Largest body that is read, in bytes: a change of 32 MiB in base64 and what goes around it.
const MAX_BODY: usize = 96 << 20;
/// How often a receiver without a stop of its own looks at its counts.
const LOOK: Duration = Duration::from_millis(50);

/// A receiver over one file. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    store: Arc<Mutex<Store>>,
    fail_rate: f64,
    distinct: watch::Sender<u64>,
}

impl Receiver {
    /// Opens the file, takes over what is in it, and cuts off a batch that was written only in
    /// part (it was never acknowledged).
    pub(crate) fn open(file: &Path, fail_rate: f64) -> Result<Self, Failure> {
        let store = Store::open(file)?;
        let distinct = watch::Sender::new(store.stats().distinct);
        Ok(Self { store: Arc::new(Mutex::new(store)), fail_rate, distinct })
    }

    /// The counts.
    pub(crate) fn stats(&self) -> Stats {
        self.store.lock().stats()
    }

    /// Serves until the stop; what was accepted by then is in the file.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<(), Failure> {
        let routes = Router::new()
            .route("/stats", get(stats))
            .route("/", post(accept))
            .route("/{*path}", post(accept))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(self);
        axum::serve(listener, routes)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .map_err(|error| Failure::new(Exit::Failed, format!("the receiver failed: {error}")))
    }
}

/// Listens on a loopback address.
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    if !address.ip().is_loopback() {
        let message = format!("{address} is not a loopback address; the receiver has no TLS");
        return Err(
            Failure::usage(message).fix("sluice receive --listen 127.0.0.1:7402 --out FILE")
        );
    }
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot listen on {address}: {error}"))
            .fix("ss -ltnp   (shows who does)")
    })
}

/// `sluice receive`.
pub(crate) async fn run(out: &mut Out, args: &ReceiveArgs) -> Outcome {
    let receiver = Receiver::open(&args.out, args.fail_rate)?;
    let listener = listen(args.listen).await?;
    let address = listener.local_addr()?;
    note(format!("receiving at http://{address}/ into {}; GET /stats", args.out.display()));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(receiver.clone().serve(listener, stop.clone()));
    let complete = reached(&receiver, args.expect).await?;
    stop.cancel();
    // Idle connections of a sender that does not hang up would keep it for ever.
    if let Ok(Ok(served)) = tokio::time::timeout(LOOK * 20, serving).await {
        served?;
    }
    let stats = receiver.stats();
    if out.is_json() {
        out.json(&serde_json::to_value(&stats).unwrap_or_default())?;
    } else {
        out.line(format!(
            "{} events, {} repeated, {} out of order, {} holes, in {} batches",
            count(stats.distinct),
            count(stats.repeated),
            count(stats.disordered),
            count(stats.holes),
            count(stats.batches)
        ))?;
    }
    out.flush()?;
    Ok(if complete { Exit::Ok } else { Exit::Interrupted })
}

/// True when as many distinct events are there as were expected; false after a signal.
async fn reached(receiver: &Receiver, expect: Option<u64>) -> Result<bool, Failure> {
    let mut distinct = receiver.distinct.subscribe();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = distinct.wait_for(|now| expect.is_some_and(|expected| *now >= expected)) => Ok(true),
        interrupted = tokio::signal::ctrl_c() => { interrupted?; Ok(expect.is_none()) }
        _ = terminate.recv() => Ok(expect.is_none()),
    }
}

async fn stats(State(receiver): State<Receiver>) -> Json<Stats> {
    Json(receiver.stats())
}

async fn accept(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    let failing = receiver.fail_rate > 0.0 && rand::random::<f64>() < receiver.fail_rate;
    // Half of the failures lose the batch, the other half only the answer.
    if failing && rand::random::<bool>() {
        return unavailable();
    }
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let batch = match Batch::parse(&body, id) {
        Ok(batch) => batch,
        Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
    };
    let store = Arc::clone(&receiver.store);
    let kept = tokio::task::spawn_blocking(move || {
        let mut store = store.lock();
        store.keep(&batch).map(|()| store.stats().distinct)
    });
    match kept.await {
        Ok(Ok(distinct)) => {
            receiver.distinct.send_replace(distinct);
            if failing { unavailable() } else { Json(Value::Bool(true)).into_response() }
        }
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn unavailable() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "failing as asked by --fail-rate").into_response()
}
