//! The webhook sink: batches of events as JSON to an HTTP receiver, in order, at least once.
//!
//! A batch is accepted exactly when the receiver answers 2xx; everything else is sent again, the
//! same bytes under the same `webhook-id`, before any later batch. Redirects are not followed,
//! proxies not used, and addresses vetted when they are dialled ([`egress`]).
//!
//! ```text
//! POST <url>
//! content-type: application/json
//! webhook-id: <hash of stream, reset epoch, first and last id, count>
//! webhook-timestamp: <seconds since 1970>
//! webhook-signature: v1,<HMAC-SHA256 of id.timestamp.body>     one per key, if a secret is set
//! sluice-epoch: <epoch of the stream's lock>
//! traceparent: <of the capture, if it had one>
//!
//! {"stream","type":"events","batchNumber","after","through","epoch","events":[…]}
//! ```

mod body;
mod config;
mod dispatcher;
pub mod egress;
mod sign;

use sluice_sink::{ConfigError, Dispatcher, DispatcherFactory, SinkConfig, StreamConfig};

pub use config::TYPE;
pub use dispatcher::{MAX_ANSWER, WebhookDispatcher};

/// Makes webhook dispatchers.
#[derive(Clone, Copy, Debug, Default)]
pub struct WebhookFactory;

impl DispatcherFactory for WebhookFactory {
    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn destination(&self, stream: &StreamConfig, _: &SinkConfig) -> String {
        let url = stream.settings.get("url").and_then(|url| url.as_str());
        url.and_then(|url| url::Url::parse(url).ok())
            .map_or_else(String::new, |url| config::shown(&url))
    }

    fn build(
        &self,
        stream: &StreamConfig,
        sink: &SinkConfig,
    ) -> Result<Box<dyn Dispatcher>, ConfigError> {
        let webhook = config::Webhook::new(stream, sink)?;
        Ok(Box::new(WebhookDispatcher::new(stream, webhook)?))
    }
}
