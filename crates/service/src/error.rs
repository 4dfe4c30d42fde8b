use std::{net::SocketAddr, path::PathBuf};

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What goes wrong before or while services run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A peer's address cannot be used.
    #[error("{url:?} is not an address of a service: {reason}; write http://host:port")]
    Url {
        /// As given.
        url: String,
        /// Why.
        reason: String,
    },
    /// A peer's address does not go with the certificates that there are.
    #[error("{url:?}: {reason}")]
    Scheme {
        /// As given.
        url: String,
        /// Why, and what to write.
        reason: &'static str,
    },
    /// An address cannot be listened on.
    #[error("listen.{door} = {address}: {reason}; is another process using it? (ss -ltnp)")]
    Bind {
        /// `api` or `admin`.
        door: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// A certificate or key cannot be used.
    #[error("security.tls: {path}: {reason}")]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A listener failed while serving.
    #[error("the {door} listener failed: {reason}")]
    Listener {
        /// `api` or `admin`.
        door: &'static str,
        /// Why.
        reason: String,
    },
    /// A service ended with an error.
    #[error("{service} failed: {error}")]
    Service {
        /// Which.
        service: &'static str,
        /// Why.
        error: BoxError,
    },
}
