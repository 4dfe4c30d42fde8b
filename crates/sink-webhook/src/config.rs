//! `streams.NAME.webhook` and the sink's own table, checked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use sluice_config::{HumanDuration, Secret};
use sluice_sink::{ConfigError, SinkConfig, StreamConfig};
use url::Url;

use crate::{
    egress::{Egress, EgressSection},
    sign::Signer,
};

/// The type's name in configuration.
pub const TYPE: &str = "webhook";

/// Headers that the sink writes itself, or that frame the request.
const OWN_HEADERS: [&str; 10] = [
    "content-type",
    "content-length",
    "host",
    "connection",
    "transfer-encoding",
    "traceparent",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "sluice-epoch",
];

/// Headers that carry credentials and therefore need a reference.
const SECRET_HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-api-key"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookSection {
    url: String,
    #[serde(default)]
    secret: Option<Secret>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    secret_headers: BTreeMap<String, Secret>,
    #[serde(default = "timeout")]
    timeout: HumanDuration,
}

const fn timeout() -> HumanDuration {
    HumanDuration::secs(10)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SinkSection {
    egress: EgressSection,
}

/// A webhook, checked.
#[derive(Clone, Debug)]
pub(crate) struct Webhook {
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) timeout: Duration,
    pub(crate) signer: Option<Signer>,
    pub(crate) egress: Arc<Egress>,
}

impl Webhook {
    pub(crate) fn new(stream: &StreamConfig, sink: &SinkConfig) -> Result<Self, ConfigError> {
        let section: WebhookSection = stream.settings(TYPE)?;
        let own: SinkSection = sink.settings()?;
        let key = |last: &str| format!("{}.{last}", stream.path(TYPE));
        let egress = Egress::new(&own.egress)
            .map_err(|reason| ConfigError::new(format!("{}.egress.{reason}", sink.path()), ""))?;
        let url = parse_url(&section.url).map_err(|why| ConfigError::new(key("url"), why))?;
        egress
            .check_literal(&url)
            .map_err(|denied| ConfigError::new(key("url"), denied.to_string()))?;
        if section.timeout.get().is_zero() {
            return Err(ConfigError::new(key("timeout"), "it must be above 0"));
        }
        let signer = match &section.secret {
            None => None,
            Some(secret) => {
                Some(signer(secret).map_err(|why| ConfigError::new(key("secret"), why))?)
            }
        };
        let headers = headers(&section).map_err(|(name, why)| ConfigError::new(key(&name), why))?;
        Ok(Self { url, headers, timeout: section.timeout.get(), signer, egress: Arc::new(egress) })
    }
}

fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("it must begin with http:// or https:// and name a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not hold a user or password; put the header into \
                    `secret_headers = { authorization = \"file:…\" }`"
            .to_owned());
    }
    Ok(url)
}

fn signer(secret: &Secret) -> Result<Signer, String> {
    Signer::new(&secret.resolve().map_err(|error| error.to_string())?)
}

fn headers(section: &WebhookSection) -> Result<HeaderMap, (String, String)> {
    let mut out = HeaderMap::new();
    for (name, value) in &section.headers {
        let key = format!("headers.{name}");
        let name = header_name(name).map_err(|why| (key.clone(), why))?;
        if SECRET_HEADERS.contains(&name.as_str()) {
            let why = "it holds a secret; use secret_headers with file: or env:".to_owned();
            return Err((key, why));
        }
        let value = HeaderValue::from_str(value)
            .map_err(|_| (key, "it holds characters that a header cannot".to_owned()))?;
        out.insert(name, value);
    }
    for (name, secret) in &section.secret_headers {
        let key = format!("secret_headers.{name}");
        let name = header_name(name).map_err(|why| (key.clone(), why))?;
        let value = secret.resolve().map_err(|error| (key.clone(), error.to_string()))?;
        let mut value = HeaderValue::from_str(value.trim())
            .map_err(|_| (key, "it holds characters that a header cannot".to_owned()))?;
        value.set_sensitive(true);
        out.insert(name, value);
    }
    Ok(out)
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    let name: HeaderName = name.parse().map_err(|_| "not a header's name".to_owned())?;
    if OWN_HEADERS.contains(&name.as_str()) {
        return Err("the sink writes this header itself".to_owned());
    }
    Ok(name)
}

/// Longest path segment that is shown.
const SHOWN_SEGMENT: usize = 16;

/// The URL for people: without query and fragment, and without long path segments, which are
/// often what makes a URL a capability.
pub(crate) fn shown(url: &Url) -> String {
    let mut out = url.origin().ascii_serialization();
    for segment in url.path_segments().into_iter().flatten() {
        out.push('/');
        out.push_str(if segment.len() > SHOWN_SEGMENT { "…" } else { segment });
    }
    out
}

#[cfg(test)]
mod tests {
    use sluice_sink::testing::stream_config;

    use super::*;

    fn webhook(stream: &str, sink: &str) -> Result<Webhook, ConfigError> {
        let stream = stream_config("hooks", stream.parse().unwrap());
        let settings = sink.parse().unwrap();
        let sink = SinkConfig { name: "hooks".to_owned(), settings, ..SinkConfig::default() };
        Webhook::new(&stream, &sink)
    }

    #[test]
    fn mistakes_are_named_by_their_key_and_repeat_no_secret() {
        for (stream, sink, key, says) in [
            ("", "", "streams.test.webhook", "url"),
            ("url = 'ftp://x'", "", "streams.test.webhook.url", "http"),
            ("url = 'http://u:hunter2@x/'", "", "streams.test.webhook.url", "secret_headers"),
            (
                "url = 'http://x'\nsecret = 'hunter2'",
                "",
                "streams.test.webhook.secret",
                "file:PATH",
            ),
            ("url = 'http://x'\nurll = 'y'", "", "streams.test.webhook", "urll"),
            ("url = 'http://x'\ntimeout = '0s'", "", "streams.test.webhook.timeout", "above 0"),
            (
                "url = 'http://x'\nheaders = { Authorization = 'Bearer hunter2' }",
                "",
                "streams.test.webhook.headers.Authorization",
                "secret_headers",
            ),
            (
                "url = 'http://x'\nheaders = { webhook-id = '1' }",
                "",
                "streams.test.webhook.headers.webhook-id",
                "itself",
            ),
            ("url = 'http://10.0.0.1/'", "", "streams.test.webhook.url", "egress.allow"),
            (
                "url = 'http://0x7f.1/'",
                "egress = { deny_private = true }",
                "streams.test.webhook.url",
                "loopback",
            ),
            (
                "url = 'http://x'",
                "egress = { allow = ['1.2.3.4/64'] }",
                "sinks.hooks.egress.allow[0]",
                "",
            ),
        ] {
            let error = webhook(stream, sink).unwrap_err();
            assert!(error.key().starts_with(key), "{error}");
            let text = error.to_string();
            assert!(text.contains(says) && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn shows_urls_without_what_may_be_secret() {
        let shown = |url: &str| shown(&Url::parse(url).unwrap());
        assert_eq!(shown("https://x:8443/hook?token=hunter2#h"), "https://x:8443/hook");
        assert_eq!(shown("https://x/services/T012345678901234567/b"), "https://x/services/…/b");
        assert_eq!(shown("https://x"), "https://x/");
    }

    #[test]
    fn secrets_do_not_show_in_debug() {
        let dir = std::env::temp_dir().join(format!("sluice-webhook-{}", std::process::id()));
        std::fs::write(&dir, "hunter2hunter2hunter2\n").unwrap();
        let reference = format!("file:{}", dir.display());
        let stream = format!(
            "url = 'http://x'\nsecret = '{reference}'\nsecret_headers = {{ x-key = '{reference}' }}"
        );
        let webhook = webhook(&stream, "").unwrap();
        std::fs::remove_file(&dir).unwrap();
        assert!(!format!("{webhook:?}").contains("hunter2"));
        assert_eq!(webhook.headers["x-key"], "hunter2hunter2hunter2");
    }
}
