//! How a Sluice service lives: listeners, layers, transport, health, shutdown.
//!
//! ```text
//!   bind → NOT_SERVING → run → SERVING … stop → NOT_SERVING → runs end, last service first
//!        → open calls end → listeners close → exit
//! ```
//!
//! Invariants:
//! * A service is reached the same way over a socket and in its own process: [`Transport`].
//! * Whoever depends on a service stops before it, so that draining can still write.
//! * Shutdown has one deadline for all; what is still alive then is named and dropped.
//! * Nothing half works: a service or listener that ends takes the process with it.

mod admin;
mod error;
mod lanes;
mod messages;
mod observe;
mod serve;
mod shutdown;
mod tls;
pub mod transport;

pub use error::{BoxError, Error};
pub use messages::{Messages, Unread};
pub use serve::{Bound, Listen, Service, http2, serve};
pub use shutdown::Shutdown;
pub use sluice_proto::MAX_MESSAGE;
pub use tls::TlsFiles;
pub use transport::Transport;
