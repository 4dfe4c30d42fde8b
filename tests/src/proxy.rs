//! A TCP proxy between two processes: passes on, drops, rejects, delays, in both directions or in
//! one, and keeps what a dead client has sent until it is let go.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

/// Pieces that wait in one direction of one connection.
const WAITING: usize = 1024;
const PIECE: usize = 16 << 10;
/// How long a server gets for requests that were held before their connection is closed.
const AFTER_HOLD: Duration = Duration::from_secs(1);

/// One direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Passes on.
    Open,
    /// Passes on later.
    Delayed(Duration),
    /// Keeps what comes, also the end of the connection, until it is opened.
    Closed,
}

/// What happens to connections, those there are and new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// From the client to the server.
    pub requests: Lane,
    /// From the server to the client.
    pub answers: Lane,
    /// Connections are closed, new ones at once.
    pub reject: bool,
}

impl Mode {
    /// Passes everything on.
    pub const PASS: Self = Self { requests: Lane::Open, answers: Lane::Open, reject: false };
    /// A cable is pulled: nobody is told anything.
    pub const DROP: Self = Self { requests: Lane::Closed, answers: Lane::Closed, reject: false };
    /// Nobody listens.
    pub const REJECT: Self = Self { reject: true, ..Self::PASS };
    /// Requests do not arrive; answers do.
    pub const NO_REQUESTS: Self = Self { requests: Lane::Closed, ..Self::PASS };
    /// Requests arrive; answers do not.
    pub const NO_ANSWERS: Self = Self { answers: Lane::Closed, ..Self::PASS };

    /// Everything takes longer.
    pub const fn delay(by: Duration) -> Self {
        Self { requests: Lane::Delayed(by), answers: Lane::Delayed(by), reject: false }
    }
}

/// A listening proxy. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    servers: Vec<u16>,
    in_use: AtomicUsize,
    mode: watch::Sender<Mode>,
    severed: watch::Sender<u64>,
    released: watch::Sender<u64>,
    cut: watch::Sender<u64>,
    /// Bytes of requests that were read and not passed on yet.
    held: AtomicU64,
    /// Pieces of requests of at least [`CALL`] bytes that were passed on.
    calls: watch::Sender<u64>,
}

/// A call is at least so long; what keeps a connection alive by itself is shorter.
const CALL: usize = 40;

impl Proxy {
    /// Listens; each connection goes to the first of these ports that answers.
    pub async fn start(servers: Vec<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            servers,
            in_use: AtomicUsize::new(0),
            mode: watch::Sender::new(Mode::PASS),
            severed: watch::Sender::new(0),
            released: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            held: AtomicU64::new(0),
            calls: watch::Sender::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self { port, shared, task }
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Changes what happens to all connections.
    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Ends every connection at once, in both directions.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|count| *count += 1);
    }

    /// Ends every connection for its client only. What the client had sent waits here, whatever
    /// the mode is, until it is released.
    pub fn sever(&self) {
        self.shared.severed.send_modify(|count| *count += 1);
    }

    /// Lets the server have what clients had sent whose connections were severed.
    pub fn release(&self) {
        self.shared.released.send_modify(|count| *count += 1);
    }

    /// Bytes of requests that wait here.
    pub fn held(&self) -> u64 {
        self.shared.held.load(Ordering::Acquire)
    }

    /// Waits until the next call of a client has been passed on.
    pub async fn next_call(&self) {
        let mut calls = self.shared.calls.subscribe();
        let before = *calls.borrow_and_update();
        calls.wait_for(|calls| *calls > before).await.unwrap();
    }

    /// Which of the servers was connected to last.
    pub fn in_use(&self) -> usize {
        self.shared.in_use.load(Ordering::Acquire)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if !shared.mode.borrow().reject {
            tokio::spawn(serve(client, Arc::clone(&shared)));
        }
    }
}

impl Shared {
    async fn connect(&self) -> Option<TcpStream> {
        for (at, port) in self.servers.iter().enumerate() {
            let address = SocketAddr::from(([127, 0, 0, 1], *port));
            let connecting = timeout(Duration::from_millis(500), TcpStream::connect(address));
            if let Ok(Ok(server)) = connecting.await {
                self.in_use.store(at, Ordering::Release);
                return Some(server);
            }
        }
        None
    }
}

async fn serve(client: TcpStream, shared: Arc<Shared>) {
    let (mut cut, mut mode) = (shared.cut.subscribe(), shared.mode.subscribe());
    let severed = shared.severed.subscribe();
    cut.borrow_and_update();
    let Some(server) = shared.connect().await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let (request, requests) = mpsc::channel(WAITING);
    let (answer, answers) = mpsc::channel(WAITING);
    let everything = async {
        tokio::join!(
            take(client_read, request, Some(&shared), Some(severed.clone())),
            give(requests, server_write, &shared, Direction::Requests(severed.clone())),
            take(server_read, answer, None, None),
            give(answers, client_write, &shared, Direction::Answers(severed)),
        )
    };
    tokio::select! {
        _ = everything => {}
        _ = cut.changed() => {}
        _ = mode.wait_for(|mode| mode.reject) => {}
    }
}

type Piece = (Instant, Vec<u8>);

/// Reads until the end; a severed client has ended.
async fn take(
    mut from: OwnedReadHalf,
    to: mpsc::Sender<Piece>,
    requests: Option<&Shared>,
    mut severed: Option<watch::Receiver<u64>>,
) {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = changed(severed.as_mut()) => return,
        };
        let Ok(read @ 1..) = read else { return };
        if let Some(shared) = requests {
            shared.held.fetch_add(read as u64, Ordering::AcqRel);
        }
        let piece = buffer.get(..read).unwrap_or_default().to_vec();
        if to.send((Instant::now(), piece)).await.is_err() {
            return;
        }
    }
}

async fn changed(receiver: Option<&mut watch::Receiver<u64>>) {
    match receiver {
        Some(receiver) => _ = receiver.changed().await,
        None => std::future::pending().await,
    }
}

/// With what tells whether the client was severed.
enum Direction {
    Requests(watch::Receiver<u64>),
    Answers(watch::Receiver<u64>),
}

impl Direction {
    fn is_severed(&self) -> bool {
        let (Self::Requests(severed) | Self::Answers(severed)) = self;
        severed.has_changed().unwrap_or(true)
    }

    const fn is_requests(&self) -> bool {
        matches!(self, Self::Requests(_))
    }
}

/// Writes what was read, as the mode allows.
async fn give(
    mut pieces: mpsc::Receiver<Piece>,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    direction: Direction,
) {
    let mut gate =
        Gate { mode: shared.mode.subscribe(), released: shared.released.subscribe(), direction };
    gate.released.borrow_and_update();
    let (mut held, mut gone) = (false, false);
    loop {
        let next = tokio::select! {
            next = pieces.recv() => next,
            () = gate.client_severed(), if !gone => {
                gone = true;
                to.shutdown().await.ok();
                continue;
            }
        };
        let Some((came, piece)) = next else { break };
        held |= gate.passes(came).await;
        if gate.direction.is_requests() {
            shared.held.fetch_sub(piece.len() as u64, Ordering::AcqRel);
        }
        // What cannot be given to anybody is still taken, or the other side would wait.
        gone = gone || to.write_all(&piece).await.is_err();
        if gate.direction.is_requests() && piece.len() >= CALL {
            shared.calls.send_modify(|calls| *calls += 1);
        }
    }
    held |= gate.passes(Instant::now()).await;
    if held && gate.direction.is_requests() {
        sleep(AFTER_HOLD).await;
    }
    to.shutdown().await.ok();
}

/// Decides when a piece may go.
struct Gate {
    mode: watch::Receiver<Mode>,
    released: watch::Receiver<u64>,
    direction: Direction,
}

impl Gate {
    /// Waits until the client that is given answers is severed; for ever in the other direction.
    async fn client_severed(&self) {
        match &self.direction {
            Direction::Answers(severed) => _ = severed.clone().changed().await,
            Direction::Requests(_) => std::future::pending().await,
        }
    }

    /// Waits until a piece that came then may go; true if it was held.
    async fn passes(&mut self, came: Instant) -> bool {
        let mut held = false;
        loop {
            let mode = *self.mode.borrow_and_update();
            let lane = if self.direction.is_requests() { mode.requests } else { mode.answers };
            let kept = self.direction.is_requests() && self.direction.is_severed();
            if kept && !self.released.has_changed().unwrap_or(true) {
                held = true;
            } else {
                match lane {
                    Lane::Open => return held,
                    Lane::Delayed(by) => {
                        sleep_until(came + by).await;
                        return held;
                    }
                    Lane::Closed => held = true,
                }
            }
            let (Direction::Requests(severed) | Direction::Answers(severed)) = &self.direction;
            // Looked at again and again: three things may have changed, and none is consumed.
            let mut severed = severed.clone();
            tokio::select! {
                changed = self.mode.changed() => if changed.is_err() { return held },
                _ = severed.changed(), if !kept => {}
                () = sleep(Duration::from_millis(20)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
