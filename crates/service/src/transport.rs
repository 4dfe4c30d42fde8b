//! Where a client's calls go: over a socket, or to a service of the same process.

mod redial;

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, header::HeaderName};
use tokio::sync::watch;
use tonic::{body::Body, service::Routes, transport::Endpoint};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    BoxError, Error,
    observe::{Observe, panicked},
    tls::TlsFiles,
};
pub use redial::Redial;
use redial::Redialing;

/// One erased way to a service. `XClient::new(transport)` is the same type over both kinds.
pub type Transport = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, TransportError>;

/// Why a call did not reach its service, or its answer not us. Clients see it as a
/// `tonic::Status`. A type of its own, because futures over a boxed error are not provably `Send`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(#[source] BoxError);

impl TransportError {
    fn new(error: impl Into<BoxError>) -> Self {
        Self(error.into())
    }
}

pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;
/// Larger HTTP/2 frames than the default 16 KiB double the throughput of large messages; the
/// receiver's setting counts.
pub(crate) const FRAME_SIZE: u32 = 1 << 20;

/// Carries the caller's span; see the W3C recommendation on trace context.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A transport over a socket, in plaintext. Connects when it is first used, and again when the
/// peer comes back.
///
/// Several addresses of one service, with commas between them, are replicas of which any may
/// answer: one is used until it cannot be reached or a call asks for another ([`Redial`]).
pub fn remote(urls: &str) -> Result<Transport, Error> {
    over_sockets(urls, |url| {
        let endpoint = endpoint(url)?;
        if endpoint.uri().scheme_str() == Some("https") {
            return Err(Error::Scheme {
                url: url.to_owned(),
                reason: "https needs certificates; set security.tls with cert, key and client_ca",
            });
        }
        Ok(endpoint)
    })
}

/// The same over TLS: trusts only `client_ca`, and shows our certificate.
pub fn remote_tls(urls: &str, tls: &TlsFiles) -> Result<Transport, Error> {
    over_sockets(urls, |url| {
        let endpoint = endpoint(url)?;
        if endpoint.uri().scheme_str() != Some("https") {
            return Err(Error::Scheme {
                url: url.to_owned(),
                reason: "security.tls is set, but this address is plaintext; write https://",
            });
        }
        endpoint
            .tls_config(tls.client()?)
            .map_err(|error| Error::Tls { path: tls.cert.clone(), reason: error.to_string() })
    })
}

fn over_sockets(
    urls: &str,
    endpoint: impl Fn(&str) -> Result<Endpoint, Error>,
) -> Result<Transport, Error> {
    let endpoints = urls.split(',').map(|url| endpoint(url.trim())).collect::<Result<_, _>>()?;
    let redialing = Redialing::new(endpoints).map_request(with_context);
    Ok(BoxCloneSyncService::new(redialing))
}

/// Tells the other side which span calls.
fn with_context(mut request: http::Request<Body>) -> http::Request<Body> {
    let traceparent = sluice_telemetry::current_traceparent();
    if !traceparent.is_empty()
        && let Ok(value) = HeaderValue::try_from(traceparent)
    {
        request.headers_mut().entry(TRACEPARENT).or_insert(value);
    }
    request
}

fn endpoint(url: &str) -> Result<Endpoint, Error> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|error| Error::Url { url: url.to_owned(), reason: error.to_string() })?;
    if !matches!(endpoint.uri().scheme_str(), Some("http" | "https")) {
        return Err(Error::Url { url: url.to_owned(), reason: "it has no scheme".to_owned() });
    }
    Ok(endpoint
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true))
}

/// A transport to services of this process, measured and guarded against panics as over a socket.
pub fn local(routes: Routes) -> Transport {
    let routes = ServiceBuilder::new()
        .map_request(with_context)
        .map_response(|response: http::Response<_>| response.map(Body::new))
        .layer(Observe::new())
        .layer(CatchPanicLayer::custom(panicked))
        .service(routes.prepare());
    BoxCloneSyncService::new(routes.map_err(TransportError::new))
}

/// A transport whose peer is built later, for services of one process that need each other.
/// Calls made before [`LateSlot::bind`] wait for it.
pub fn late() -> (Transport, LateSlot) {
    let (slot, bound) = watch::channel(None::<Transport>);
    let transport = service_fn(move |request: http::Request<Body>| {
        let mut bound = bound.clone();
        async move {
            let peer = bound.wait_for(Option::is_some).await.map(|peer| peer.clone());
            match peer {
                Ok(Some(mut peer)) => peer.ready().await?.call(request).await,
                _ => Err(TransportError::new("the peer of this process was never started")),
            }
        }
    });
    (BoxCloneSyncService::new(transport), LateSlot(Arc::new(slot)))
}

/// Gives a [`late`] transport its peer.
#[derive(Clone, Debug)]
pub struct LateSlot(Arc<watch::Sender<Option<Transport>>>);

impl LateSlot {
    /// From now on calls go to this peer.
    pub fn bind(&self, peer: Transport) {
        self.0.send_replace(Some(peer));
    }
}
