use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes as AxumBytes},
    extract::State,
    http::{HeaderMap as AxumHeaders, Response as AxumResponse},
    routing::post,
};
use parking_lot::Mutex;
use sluice_sink::{
    DispatcherFactory as _, SinkConfig, State as StreamState,
    conformance::{self, Harness},
    testing::{Rig, batches, block, counts, end_of, eventually, stream_config},
};
use tokio::net::TcpListener;

use super::*;
use crate::WebhookFactory;

/// A receiver on loopback that answers as told and keeps what it accepted.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Received>>);

#[derive(Default)]
struct Received {
    /// Answers to come, before the usual one.
    script: VecDeque<Answer>,
    usual: Option<Answer>,
    requests: Vec<(AxumHeaders, serde_json::Value, Vec<u8>)>,
    accepted: Vec<String>,
    redirected: usize,
}

#[derive(Clone, Copy)]
enum Answer {
    Status(u16),
    RetryAfter(u16, &'static str),
    Hang,
    Redirect(u16),
    /// A refusal with this many bytes.
    Large(usize),
    /// A 200 whose body never ends.
    EndlessOk,
}

impl Receiver {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/hook", post(receive))
            .route("/elsewhere", post(elsewhere).get(elsewhere))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }

    fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.0.lock().script = answers.into_iter().collect();
    }

    fn accepted(&self) -> Vec<String> {
        self.0.lock().accepted.clone()
    }

    fn requests(&self) -> usize {
        self.0.lock().requests.len()
    }
}

async fn elsewhere(State(receiver): State<Receiver>) -> &'static str {
    receiver.0.lock().redirected += 1;
    "reached"
}

async fn receive(
    State(receiver): State<Receiver>,
    headers: AxumHeaders,
    body: AxumBytes,
) -> AxumResponse<Body> {
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let ids: Vec<String> = json["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["sequenceId"].as_str().unwrap().to_owned())
        .collect();
    let answer = {
        let mut own = receiver.0.lock();
        own.requests.push((headers, json, body.to_vec()));
        let answer = own.script.pop_front().or(own.usual).unwrap_or(Answer::Status(200));
        if matches!(answer, Answer::Status(200..=299) | Answer::EndlessOk) {
            own.accepted.extend(ids);
        }
        answer
    };
    let response = |status: u16| AxumResponse::builder().status(status);
    match answer {
        Answer::Status(status) => {
            response(status).body("{\"error\":\"out of\\n order\"}".into()).unwrap()
        }
        Answer::RetryAfter(status, value) => {
            response(status).header("retry-after", value).body(Body::empty()).unwrap()
        }
        Answer::Hang => std::future::pending().await,
        Answer::Redirect(status) => {
            response(status).header("location", "/elsewhere").body(Body::empty()).unwrap()
        }
        Answer::Large(bytes) => response(500).body(Body::from(vec![b'x'; bytes])).unwrap(),
        Answer::EndlessOk => {
            let (sender, receiver) = tokio::io::duplex(64);
            std::mem::forget(sender);
            let stream = tokio_stream(receiver);
            response(200).body(Body::from_stream(stream)).unwrap()
        }
    }
}

/// A body that never gives anything.
fn tokio_stream(
    reader: tokio::io::DuplexStream,
) -> impl futures_util::Stream<Item = Result<AxumBytes, std::io::Error>> {
    futures_util::stream::once(async move {
        let _reader = reader;
        std::future::pending().await
    })
}

fn settings(address: SocketAddr, more: &str) -> StreamConfig {
    let text = format!("url = 'http://{address}/hook?token=hunter2'\n{more}");
    stream_config("hooks", text.parse().unwrap())
}

fn dispatcher(address: SocketAddr, more: &str) -> Box<dyn Dispatcher> {
    WebhookFactory.build(&settings(address, more), &SinkConfig::default()).unwrap()
}

fn one_batch() -> Batch {
    batches(50, &[vec![vec![1], vec![2]]]).unwrap().remove(0)
}

async fn fails(answer: Answer, more: &str) -> (DeliverError, Receiver) {
    let receiver = Receiver::default();
    receiver.script([answer]);
    let address = receiver.start().await;
    let error = dispatcher(address, more).deliver(&one_batch()).await.unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
    (error, receiver)
}

#[tokio::test]
async fn headers_and_body_tell_what_it_is_and_retries_are_the_same() {
    let receiver = Receiver::default();
    receiver.script([Answer::Status(503)]);
    let address = receiver.start().await;
    let mut dispatcher = dispatcher(address, "headers = { x-team = 'ledger' }");
    let batch = one_batch();
    let error = dispatcher.deliver(&batch).await.unwrap_err();
    assert!(error.to_string().contains("503") && error.to_string().contains("out of\\n order"));
    let receipt = dispatcher.deliver(&batch).await.unwrap();
    assert_eq!(receipt.checkpoint(), Some(batch.through()));
    let own = receiver.0.lock();
    let [(first, _, before), (second, json, body)] = own.requests.as_slice() else { panic!() };
    assert_eq!(before, body);
    for header in ["webhook-id", "content-type", "sluice-epoch", "traceparent", "x-team"] {
        assert_eq!(first[header], second[header], "{header}");
    }
    assert_eq!(second["webhook-id"], batch.id().as_str());
    assert_eq!(second["content-type"], "application/json");
    assert_eq!(second["sluice-epoch"], "9");
    assert_eq!(second["x-team"], "ledger");
    assert!(second["traceparent"].to_str().unwrap().starts_with("00-"));
    assert!(!second.contains_key("webhook-signature"));
    assert_eq!((&json["stream"], &json["type"]), (&"test".into(), &"events".into()));
}

#[tokio::test]
async fn the_signature_verifies_over_id_timestamp_and_body() {
    let path = std::env::temp_dir().join(format!("sluice-whsec-{}", std::process::id()));
    std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
    let receiver = Receiver::default();
    let address = receiver.start().await;
    let more = format!("secret = 'file:{}'", path.display());
    dispatcher(address, &more).deliver(&one_batch()).await.map(drop).unwrap();
    std::fs::remove_file(&path).unwrap();
    let own = receiver.0.lock();
    let (headers, _, body) = &own.requests[0];
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    let signed = [text("webhook-id").as_bytes(), b".", text("webhook-timestamp").as_bytes(), b"."]
        .concat()
        .into_iter()
        .chain(body.iter().copied())
        .collect::<Vec<u8>>();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"0123456789abcdef0123456789abcdef");
    let signature = text("webhook-signature");
    let encoded = signature.strip_prefix("v1,").unwrap();
    use base64::Engine as _;
    let tag = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    ring::hmac::verify(&key, &signed, &tag).unwrap();
    let now = unix_seconds();
    assert!(text("webhook-timestamp").parse::<u64>().unwrap().abs_diff(now) < 60);
}

#[tokio::test]
async fn every_status_but_2xx_is_a_failure() {
    for status in [201, 202, 204, 299] {
        let receiver = Receiver::default();
        receiver.script([Answer::Status(status)]);
        let address = receiver.start().await;
        dispatcher(address, "").deliver(&one_batch()).await.map(drop).unwrap();
    }
    for status in [300, 304, 400, 401, 404, 410, 413, 429, 500] {
        let (error, _) = fails(Answer::Status(status), "").await;
        assert!(error.to_string().contains(&status.to_string()) && !error.is_halt(), "{error}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let (error, receiver) = fails(Answer::Redirect(status), "").await;
        assert!(error.to_string().contains("redirects are not followed"), "{error}");
        assert_eq!(receiver.0.lock().redirected, 0);
    }
}

#[tokio::test]
async fn a_hanging_receiver_times_out() {
    let (error, _) = fails(Answer::Hang, "timeout = '100ms'").await;
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = dispatcher(address, "").deliver(&one_batch()).await.unwrap_err();
    assert!(error.to_string().contains(&format!("POST http://{address}/hook: ")), "{error}");
}

#[tokio::test]
async fn answers_are_read_and_quoted_within_bounds() {
    let (error, _) = fails(Answer::Large(8 << 20), "").await;
    assert!(error.to_string().len() < 400, "{}", error.to_string().len());
    assert!(error.to_string().ends_with('…'));
}

#[tokio::test]
async fn an_accepted_batch_stays_accepted_whatever_its_answer_does() {
    let receiver = Receiver::default();
    receiver.script([Answer::EndlessOk]);
    let address = receiver.start().await;
    let batch = one_batch();
    let receipt = dispatcher(address, "timeout = '30s'").deliver(&batch).await.unwrap();
    assert_eq!(receipt.checkpoint(), Some(batch.through()));
}

#[tokio::test]
async fn retry_after_in_both_forms() {
    let (error, _) = fails(Answer::RetryAfter(429, "7"), "").await;
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    let (error, _) = fails(Answer::RetryAfter(503, "soon"), "").await;
    assert_eq!(error.retry_after(), None);
    let mut headers = HeaderMap::new();
    headers.insert(RETRY_AFTER, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
    let now = UNIX_EPOCH + Duration::from_secs(784_111_777 - 30);
    assert_eq!(retry_after(&headers, now), Some(Duration::from_secs(30)));
    assert_eq!(retry_after(&headers, now + Duration::from_secs(99)), Some(Duration::ZERO));
}

/// A name that stands for a forbidden address is refused when it is resolved, before anything is
/// sent.
#[tokio::test]
async fn names_are_vetted_when_they_are_resolved() {
    let receiver = Receiver::default();
    let address = receiver.start().await;
    let deliver = async |deny: &str| {
        let text = format!("url = 'http://localhost:{}/hook'", address.port());
        let stream = stream_config("hooks", text.parse().unwrap());
        let sink = SinkConfig { settings: deny.parse().unwrap(), ..SinkConfig::default() };
        WebhookFactory.build(&stream, &sink).unwrap().deliver(&one_batch()).await
    };
    let error = deliver("egress = { deny_private = true }").await.unwrap_err();
    assert!(error.to_string().contains("a loopback address"), "{error}");
    assert_eq!(receiver.requests(), 0);
    deliver("egress = { deny_private = true, allow = ['127.0.0.0/8', '::1'] }")
        .await
        .map(drop)
        .unwrap();
    deliver("").await.map(drop).unwrap();
    assert_eq!(receiver.requests(), 2);
}

fn push(rig: &Rig, heights: std::ops::RangeInclusive<u64>) {
    for height in heights {
        rig.push(block(height, &[("bank", vec![1])]));
    }
}

#[tokio::test]
async fn after_failures_everything_arrives_once_and_in_order_and_then_the_checkpoint() {
    let (rig, receiver) = (Rig::default(), Receiver::default());
    receiver.script([Answer::Status(500); 3]);
    let address = receiver.start().await;
    push(&rig, 1..=5);
    let running = rig.run(settings(address, ""), SinkConfig::default(), Arc::new(WebhookFactory));
    eventually("the checkpoint", || rig.checkpoint() == Some(end_of(5))).await;
    let accepted = receiver.accepted();
    assert!(accepted.is_sorted() && accepted.len() == 5, "{accepted:?}");
    assert!(counts(&accepted).values().all(|times| *times == 1));
    assert!(receiver.requests() >= 4);
    assert_eq!(running.status.snapshot().retries, 3);
    running.stop().await;
}

#[tokio::test]
async fn the_checkpoint_never_passes_a_receiver_that_refuses() {
    let (rig, receiver) = (Rig::default(), Receiver::default());
    receiver.0.lock().usual = Some(Answer::Status(500));
    let address = receiver.start().await;
    push(&rig, 1..=5);
    rig.push_through(900);
    let running = rig.run(settings(address, ""), SinkConfig::default(), Arc::new(WebhookFactory));
    eventually("attempts", || receiver.requests() >= 20).await;
    assert_eq!(rig.checkpoint(), Some(end_of(0)));
    assert_eq!(running.status.snapshot().state, StreamState::Retrying);
    assert_eq!(rig.puts().len(), 1, "only the start was stored");
    running.stop().await;
    assert_eq!(rig.checkpoint(), Some(end_of(0)));
}

#[tokio::test]
async fn a_receiver_that_hangs_once_gets_it_again() {
    let (rig, receiver) = (Rig::default(), Receiver::default());
    receiver.script([Answer::Hang]);
    let address = receiver.start().await;
    push(&rig, 1..=2);
    let stream = settings(address, "timeout = '100ms'");
    let running = rig.run(stream, SinkConfig::default(), Arc::new(WebhookFactory));
    eventually("the checkpoint", || rig.checkpoint() == Some(end_of(2))).await;
    assert_eq!(receiver.requests(), 2);
    let ids: Vec<_> =
        receiver.0.lock().requests.iter().map(|r| r.0["webhook-id"].clone()).collect();
    assert_eq!(ids[0], ids[1]);
    running.stop().await;
}

struct WebhookHarness {
    receiver: Receiver,
    address: SocketAddr,
}

impl WebhookHarness {
    async fn new() -> Self {
        let receiver = Receiver::default();
        let address = receiver.start().await;
        Self { receiver, address }
    }
}

#[async_trait]
impl Harness for WebhookHarness {
    async fn dispatcher(&mut self) -> Box<dyn Dispatcher> {
        dispatcher(self.address, "")
    }
    async fn refuse(&mut self, refuse: bool) {
        self.receiver.0.lock().usual = refuse.then_some(Answer::Status(503));
    }
    async fn arrived(&mut self) -> Vec<String> {
        self.receiver.accepted()
    }
    fn shape(&self) -> sluice_sink::BatchShape {
        stream_config("hooks", Default::default()).batch.events_shape()
    }
}

#[tokio::test]
async fn conforms() {
    conformance::delivers_in_order(&mut WebhookHarness::new().await).await;
    conformance::redelivers_after_failure(&mut WebhookHarness::new().await).await;
    conformance::receipt_only_after_acceptance(&mut WebhookHarness::new().await).await;
    conformance::flushes_on_drain(&mut WebhookHarness::new().await).await;
    conformance::resumes_without_gap(&mut WebhookHarness::new().await).await;
    conformance::repeats_have_the_same_ids(&mut WebhookHarness::new().await).await;
}
