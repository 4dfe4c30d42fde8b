//! Where a client's calls go: over a socket, or to a service of the same process.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tonic::{
    body::Body,
    service::Routes,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};
use tower::{Service, ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::{BoxError, Error, serve::TlsFiles};

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
pub(crate) const FRAME_SIZE: u32 = 256 << 10;

/// A transport over a socket. Connects when it is first used, and again when the peer comes back.
pub fn remote(url: &str) -> Result<Transport, Error> {
    Ok(BoxCloneSyncService::new(endpoint(url)?.connect_lazy().map_err(TransportError::new)))
}

/// The same over TLS: trusts `client_ca` and shows our certificate.
pub fn remote_tls(url: &str, tls: &TlsFiles) -> Result<Transport, Error> {
    let mut config = ClientTlsConfig::new()
        .identity(Identity::from_pem(tls.read(&tls.cert)?, tls.read(&tls.key)?));
    if let Some(ca) = &tls.client_ca {
        config = config.ca_certificate(Certificate::from_pem(tls.read(ca)?));
    }
    let endpoint = endpoint(url)?
        .tls_config(config)
        .map_err(|error| Error::Tls { path: tls.cert.clone(), reason: error.to_string() })?;
    Ok(BoxCloneSyncService::new(endpoint.connect_lazy().map_err(TransportError::new)))
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

/// A transport to services of this process.
pub fn local(routes: Routes) -> Transport {
    let routes = routes.prepare().map_request(|request: http::Request<Body>| request);
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
