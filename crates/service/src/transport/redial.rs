//! Leaving a peer that is there and does not answer.
//!
//! A process that is stopped, or a network that swallows everything, keeps its connections: the
//! kernel accepts what is sent, and HTTP/2 finds out after half a minute. Whoever waits for an
//! answer knows earlier, and says so with its next call.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{Service, ServiceExt};

use super::TransportError;

/// Put into the extensions of a request: it, and all that follow, go over a new connection, to the
/// next address if there are several. Calls that are under way stay where they are.
/// Transports inside a process pay no attention to it.
#[derive(Clone, Copy, Debug)]
pub struct Redial;

/// One connection at a time, to one of several addresses.
#[derive(Clone, Debug)]
pub(super) struct Redialing(Arc<Line>);

#[derive(Debug)]
struct Line {
    endpoints: Vec<Endpoint>,
    dialled: Mutex<Option<Dialled>>,
}

#[derive(Clone, Debug)]
struct Dialled {
    /// Counts the connections.
    number: usize,
    channel: Channel,
}

impl Redialing {
    /// Connects when it is first used.
    pub(super) fn new(endpoints: Vec<Endpoint>) -> Self {
        Self(Arc::new(Line { endpoints, dialled: Mutex::default() }))
    }
}

impl Line {
    /// The connection to use, made first if there is none.
    fn dialled(&self) -> Option<Dialled> {
        let mut dialled = self.dialled.lock();
        if dialled.is_none() {
            *dialled = self.dial(0);
        }
        dialled.clone()
    }

    fn dial(&self, number: usize) -> Option<Dialled> {
        let endpoint = self.endpoints.get(number.checked_rem(self.endpoints.len())?)?;
        tracing::debug!(number, to = %endpoint.uri(), "dialling");
        Some(Dialled { number, channel: endpoint.connect_lazy() })
    }

    /// Leaves the connection with this number, unless somebody did already.
    fn leave(&self, number: usize) {
        let mut dialled = self.dialled.lock();
        if dialled.as_ref().is_some_and(|dialled| dialled.number == number) {
            *dialled = self.dial(number.wrapping_add(1));
        }
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, TransportError>> + Send>>;

impl Service<http::Request<Body>> for Redialing {
    type Response = http::Response<Body>;
    type Error = TransportError;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Answering {
        let line = self.0.clone();
        if request.extensions_mut().remove::<Redial>().is_some()
            && let Some(dialled) = line.dialled()
        {
            line.leave(dialled.number);
        }
        Box::pin(async move {
            let Some(Dialled { number, channel }) = line.dialled() else {
                return Err(TransportError::new("there is no address to connect to"));
            };
            let answer = channel.oneshot(request).await;
            if answer.is_err() && line.endpoints.len() > 1 {
                // It cannot be reached; another one may.
                line.leave(number);
            }
            answer.map_err(TransportError::new)
        })
    }
}
