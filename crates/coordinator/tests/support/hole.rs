//! A way to a server that can swallow everything, as a pulled cable does: nobody is told.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What happens to connections.
#[derive(Clone, Copy, Debug, Default)]
struct Mode {
    /// None passes anything on; what was sent waits.
    swallow: bool,
    /// New ones are closed at once, present ones end.
    reject: bool,
    /// Those with a lower number never pass anything on any more.
    dead: u64,
}

/// A listening proxy; its connections end when it is dropped.
pub(crate) struct Hole {
    address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Hole {
    /// In front of this server.
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(watch::Sender::new(Mode::default()));
        let connections = Arc::<AtomicU64>::default();
        let (told, counted) = (Arc::clone(&mode), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(pass_on(client, server, number, told.subscribe()));
            }
        });
        Self { address, mode, connections, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Nothing comes through, or everything again with what was sent meanwhile.
    pub(crate) fn swallow(&self, swallow: bool) {
        self.mode.send_modify(|mode| mode.swallow = swallow);
    }

    /// Nobody listens, or somebody again.
    pub(crate) fn reject(&self, reject: bool) {
        self.mode.send_modify(|mode| mode.reject = reject);
    }

    /// The connections that there are die without a word; new ones live.
    pub(crate) fn bury(&self) {
        let dead = self.connections.load(Ordering::SeqCst);
        self.mode.send_modify(|mode| mode.dead = dead);
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        self.task.abort();
        self.reject(true);
    }
}

async fn pass_on(
    client: TcpStream,
    server: SocketAddr,
    number: u64,
    mut mode: watch::Receiver<Mode>,
) {
    if mode.borrow().reject {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let ((client_from, client_to), (server_from, server_to)) =
        (client.into_split(), server.into_split());
    tokio::select! {
        () = pipe(client_from, server_to, number, mode.clone()) => {}
        () = pipe(server_from, client_to, number, mode.clone()) => {}
        _ = mode.wait_for(|mode| mode.reject) => {}
    }
}

async fn pipe(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    number: u64,
    mut mode: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let open = mode.wait_for(|mode| !mode.swallow && number >= mode.dead).await.is_ok();
        if !open || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    // Also the end does not come through.
    mode.wait_for(|mode| !mode.swallow && number >= mode.dead).await.ok();
}
