//! A webhook receiver that keeps what it accepts, and fails when it is told to.

use std::sync::Arc;

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

/// What arrived at a receiver.
#[derive(Clone, Debug, Default)]
pub struct Received(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    batches: Vec<Value>,
    refuse: usize,
}

impl Received {
    /// Every accepted batch, in order of arrival.
    pub fn batches(&self) -> Vec<Value> {
        self.0.lock().batches.clone()
    }

    /// Every accepted event, in order of arrival.
    pub fn events(&self) -> Vec<Value> {
        let inner = self.0.lock();
        let events = inner.batches.iter().filter_map(|batch| batch["events"].as_array());
        events.flatten().cloned().collect()
    }

    /// Ids of the accepted events, in order of arrival.
    pub fn ids(&self) -> Vec<String> {
        let text = |event: &Value| event["sequenceId"].as_str().unwrap().to_owned();
        self.events().iter().map(text).collect()
    }

    /// Answers the next batches with 503.
    pub fn refuse_next(&self, batches: usize) {
        self.0.lock().refuse = batches;
    }
}

/// Starts a receiver; gives its URL and what it receives.
pub async fn start() -> (String, Received) {
    let received = Received::default();
    let routes = Router::new().route("/hook", post(accept)).with_state(received.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (url, received)
}

async fn accept(State(received): State<Received>, body: Bytes) -> StatusCode {
    let mut inner = received.0.lock();
    if inner.refuse > 0 {
        inner.refuse -= 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    match serde_json::from_slice(&body) {
        Ok(batch) => inner.batches.push(batch),
        Err(_) => return StatusCode::BAD_REQUEST,
    }
    StatusCode::OK
}

/// What is left of a list after dropping ids that came before, and how many were dropped.
pub fn without_repeats(ids: &[String]) -> (Vec<String>, usize) {
    let mut seen = std::collections::HashSet::new();
    let first: Vec<String> = ids.iter().filter(|id| seen.insert(*id)).cloned().collect();
    let repeats = ids.len() - first.len();
    (first, repeats)
}
