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
//! * Shutdown has a deadline; what is still alive then is named and dropped.

mod admin;
mod error;
mod observe;
mod serve;
mod shutdown;
pub mod transport;

pub use error::{BoxError, Error};
pub use serve::{Bound, Listen, Service, TlsFiles, serve};
pub use shutdown::Shutdown;
pub use sluice_proto::MAX_MESSAGE;
pub use transport::Transport;
