//! Sends one batch as one request, and says what the answer means.

use std::{
    error::Error as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{
    Client, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER},
};
use sluice_model::event::Encoding;
use sluice_sink::{Batch, ConfigError, DeliverError, Dispatcher, Receipt, StreamConfig};

use crate::{
    body,
    config::{TYPE, Webhook, shown},
    egress::VettingResolver,
};

/// Most bytes of an answer that are read. The rest is left and the connection closed.
pub const MAX_ANSWER: usize = 64 << 10;

/// Most characters of an answer that an error quotes.
const QUOTED: usize = 200;

/// Longest wait for the rest of an accepted request's answer, only to use the connection again.
const REST_OF_ACCEPTED: Duration = Duration::from_secs(1);

/// Longest wait for a connection, within the request's own timeout.
const CONNECT: Duration = Duration::from_secs(5);

/// One stream's webhook. A request that did not end with a 2xx status is an error, whatever the
/// reason, and the runtime sends the same body again.
#[derive(Debug)]
pub struct WebhookDispatcher {
    client: Client,
    webhook: Webhook,
    encoding: Encoding,
    /// The body of the batch that was last tried, by its number.
    body: Option<(u64, Bytes)>,
}

impl WebhookDispatcher {
    pub(crate) fn new(stream: &StreamConfig, webhook: Webhook) -> Result<Self, ConfigError> {
        // Fails if one is installed already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::builder()
            .dns_resolver(VettingResolver(webhook.egress.clone()))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .retry(reqwest::retry::never())
            .timeout(webhook.timeout)
            .connect_timeout(webhook.timeout.min(CONNECT))
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ConfigError::new(stream.path(TYPE), explain(&error)))?;
        Ok(Self { client, webhook, encoding: stream.encoding, body: None })
    }

    fn body(&mut self, batch: &Batch) -> Result<Bytes, DeliverError> {
        match &self.body {
            Some((number, body)) if *number == batch.number() => Ok(body.clone()),
            _ => {
                let body = body::write(batch, self.encoding)
                    .map_err(|error| DeliverError::halt(format!("batch unreadable: {error}")))?;
                self.body = Some((batch.number(), body.clone()));
                Ok(body)
            }
        }
    }

    async fn send(&self, batch: &Batch, body: Bytes) -> Result<Response, DeliverError> {
        let id = batch.id();
        let timestamp = unix_seconds().to_string();
        let mut request = self
            .client
            .post(self.webhook.url.clone())
            .headers(self.webhook.headers.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id.as_str())
            .header("webhook-timestamp", &timestamp)
            .header("sluice-epoch", batch.epoch().as_u64());
        if let Some(signer) = &self.webhook.signer {
            let signature = signer.sign(id.as_str(), &timestamp, &body);
            request = request.header("webhook-signature", signature);
        }
        if let Some(traceparent) = batch.traceparent() {
            request = request.header("traceparent", traceparent);
        }
        request.body(body).send().await.map_err(|error| {
            DeliverError::retry(format!("POST {}: {}", shown(&self.webhook.url), explain(&error)))
        })
    }

    /// What a refusal says, read within bounds.
    async fn refused(&self, mut response: Response) -> DeliverError {
        let status = response.status();
        let wait = retry_after(response.headers(), SystemTime::now());
        let text = quote(&read_bounded(&mut response).await);
        let url = shown(&self.webhook.url);
        let mut message = format!("POST {url} was answered {status}");
        if status.is_redirection() {
            message.push_str("; redirects are not followed, name the final address");
        }
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            message.push_str("; lower batch.bytes or batch.events of the stream");
        }
        if !text.is_empty() {
            message.push_str(": ");
            message.push_str(&text);
        }
        let error = DeliverError::retry(message);
        match wait {
            Some(wait) => error.after(wait),
            None => error,
        }
    }
}

#[async_trait]
impl Dispatcher for WebhookDispatcher {
    async fn deliver(&mut self, batch: &Batch) -> Result<Receipt, DeliverError> {
        if batch.event_count() == 0 {
            // A gap or a rewind alone: the next batch's ids and bounds tell it.
            return Ok(batch.delivered());
        }
        let body = self.body(batch)?;
        let mut response = self.send(batch, body).await?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        // Accepted with the status; what the answer says beside it decides nothing.
        let rest = read_bounded(&mut response);
        drop(tokio::time::timeout(REST_OF_ACCEPTED, rest).await);
        self.body = None;
        Ok(batch.delivered())
    }
}

async fn read_bounded(response: &mut Response) -> Vec<u8> {
    let mut out = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = MAX_ANSWER - out.len();
        out.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if out.len() >= MAX_ANSWER {
            break;
        }
    }
    out
}

/// The begin of an answer on one line, without control characters.
fn quote(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer.get(..QUOTED * 4).unwrap_or(answer));
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// `Retry-After` in seconds or as a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let at = UNIX_EPOCH.checked_add(Duration::try_from(at.as_duration()).ok()?)?;
    Some(at.duration_since(now).unwrap_or_default())
}

/// An error and what caused it, without the URL, which may hold a secret.
fn explain(error: &reqwest::Error) -> String {
    let mut out = if error.is_timeout() { "timed out".to_owned() } else { String::new() };
    let mut cause = error.source();
    while let Some(error) = cause {
        if !out.is_empty() {
            out.push_str(": ");
        }
        out.push_str(&error.to_string());
        cause = error.source();
    }
    if out.is_empty() { "the request failed".to_owned() } else { out }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
