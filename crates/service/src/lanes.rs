//! The threads that serve connections.
//!
//! A connection and all its calls stay on one thread: what their tasks tell each other wakes no
//! other thread, which would take as long as writing a small block. There are more threads than
//! processors, so that connections that work rarely share one; the system spreads the threads.

use std::{io, num::NonZero, thread, time::Duration};

use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Error;

/// Threads per processor, and at most.
const PER_PROCESSOR: usize = 4;
const MOST: usize = 64;
/// Threads for blocking work, of all together; one runtime may have as many by default.
const BLOCKING: usize = 512;
/// Connections that wait for a thread to take them up.
const WAITING: usize = 64;
/// How long nothing is accepted after the system could not, for lack of file descriptors mostly.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections for one thread.
type Incoming = std::pin::Pin<Box<dyn Stream<Item = io::Result<TcpStream>> + Send>>;

/// Threads with a runtime each. Dropping this drops their connections.
pub(crate) struct Lanes {
    lanes: Vec<mpsc::Sender<std::net::TcpStream>>,
    ended: FuturesUnordered<oneshot::Receiver<Result<(), Error>>>,
    next: usize,
    _abandoned: DropGuard,
}

impl Lanes {
    /// Starts the threads; each runs `serve` over its connections until that ends.
    pub(crate) fn start<F>(serve: impl Fn(Incoming) -> F) -> Result<Self, Error>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let abandoned = CancellationToken::new();
        let (mut lanes, ended) = (Vec::new(), FuturesUnordered::new());
        let count = (processors * PER_PROCESSOR).min(MOST);
        for number in 0..count {
            let (lane, connections) = mpsc::channel(WAITING);
            let serving = serve(ReceiverStream::new(connections).map(TcpStream::from_std).boxed());
            let (done, end) = oneshot::channel();
            let (runtime, abandoned) = (runtime(BLOCKING / count)?, abandoned.clone());
            let work = move || {
                let end = runtime.block_on(async {
                    tokio::select! {
                        end = serving => end,
                        () = abandoned.cancelled() => Ok(()),
                    }
                });
                runtime.shutdown_background();
                done.send(end).ok();
            };
            thread::Builder::new()
                .name(format!("lane-{number}"))
                .spawn(work)
                .map_err(|error| failed(&error))?;
            lanes.push(lane);
            ended.push(end);
        }
        Ok(Self { lanes, ended, next: 0, _abandoned: abandoned.drop_guard() })
    }

    /// Gives the threads what the listener accepts, in turn, until `closing`; then waits until
    /// they have ended. Ends at once with the first of them that ends before that.
    pub(crate) async fn accept(
        mut self,
        listener: TcpListener,
        closing: CancellationToken,
    ) -> Result<(), Error> {
        loop {
            let accepted = tokio::select! {
                biased;
                () = closing.cancelled() => break,
                Some(end) = self.ended.next() => return end.unwrap_or_else(died),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((connection, _)) => {
                    if let Err(error) = self.place(connection) {
                        tracing::debug!(%error, "a connection was dropped");
                    }
                }
                Err(error) if of_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connection was accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        self.lanes.clear();
        while let Some(end) = self.ended.next().await {
            end.unwrap_or_else(died)?;
        }
        Ok(())
    }

    /// The next thread that can take it up gets it.
    fn place(&mut self, connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let mut connection = connection.into_std()?;
        for _ in 0..self.lanes.len() {
            self.next = (self.next + 1) % self.lanes.len();
            let Some(lane) = self.lanes.get(self.next) else { continue };
            match lane.try_send(connection) {
                Ok(()) => return Ok(()),
                Err(refused) => connection = refused.into_inner(),
            }
        }
        Err(io::Error::other("no thread can take it up"))
    }
}

/// True if only the one connection failed, before it was taken up.
fn of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn runtime(blocking: usize) -> Result<Runtime, Error> {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(blocking).build().map_err(|error| failed(&error))
}

/// The end of a thread that did not say how it ended.
fn died(_: oneshot::error::RecvError) -> Result<(), Error> {
    Err(Error::Listener { door: "api", reason: "a thread that served it panicked".to_owned() })
}

fn failed(error: &io::Error) -> Error {
    Error::Listener { door: "api", reason: format!("a thread to serve it: {error}") }
}
