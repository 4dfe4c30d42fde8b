//! A server on threads of its own, which tells what processor time it used.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use sluice_journal::Journal;
use sluice_proto::{MAX_MESSAGE, v1::router_server::RouterServer};
use sluice_router::{RouterOptions, RouterService};
use sluice_service::Service;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};
use tonic::{service::Routes, transport::server::TcpIncoming};

use super::{data, naive::Naive};

enum Ask {
    Cpu(oneshot::Sender<Duration>),
    DiskReads(oneshot::Sender<u64>),
}

pub(crate) struct Server {
    port: u16,
    ask: Option<mpsc::Sender<Ask>>,
    thread: Option<JoinHandle<()>>,
}

/// Processor time of the calling thread, user and kernel.
pub(crate) fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

impl Server {
    pub(crate) fn router(journal: &Arc<dyn Journal>) -> Self {
        let journal = Arc::clone(journal);
        let service = RouterService::new(Arc::clone(&journal), RouterOptions::default(), None);
        Self::start("router", runtime(), service.routes(), journal)
    }

    pub(crate) fn naive(journal: &Arc<dyn Journal>) -> Self {
        let journal = Arc::clone(journal);
        let server = RouterServer::new(Naive::new(Arc::clone(&journal)))
            .max_encoding_message_size(MAX_MESSAGE);
        Self::start("naive", runtime(), Routes::new(server), journal)
    }

    fn start(name: &str, runtime: Runtime, routes: Routes, journal: Arc<dyn Journal>) -> Self {
        let (ask, mut asked) = mpsc::channel(1);
        let (bound, port) = std::sync::mpsc::channel();
        let serve = move || {
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap().port()).unwrap();
                let serving = sluice_service::http2()
                    .add_routes(routes)
                    .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
                let answering = async {
                    while let Some(ask) = asked.recv().await {
                        match ask {
                            Ask::Cpu(to) => to.send(thread_cpu()).unwrap(),
                            Ask::DiskReads(to) => {
                                let status = journal.status(&data::ingestor()).await.unwrap();
                                to.send(status.disk_reads).unwrap();
                            }
                        }
                    }
                };
                tokio::select! {
                    served = serving => served.unwrap(),
                    () = answering => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(serve).unwrap();
        Self { port: port.recv().unwrap(), ask: Some(ask), thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Processor time that the server's thread has used. Asked from another thread or from a
    /// runtime of another thread; it does not matter that this waits.
    pub(crate) fn cpu(&self) -> Duration {
        let (to, answer) = oneshot::channel();
        self.send(Ask::Cpu(to));
        wait(answer)
    }

    pub(crate) fn disk_reads(&self) -> u64 {
        let (to, answer) = oneshot::channel();
        self.send(Ask::DiskReads(to));
        wait(answer)
    }

    fn send(&self, ask: Ask) {
        assert!(self.ask.as_ref().unwrap().try_send(ask).is_ok(), "one question at a time");
    }
}

/// One thread, so that its processor time is the server's.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Waits without a runtime: the server answers from its own thread.
fn wait<T>(mut answer: oneshot::Receiver<T>) -> T {
    loop {
        if let Ok(value) = answer.try_recv() {
            return value;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ask = None;
        self.thread.take().unwrap().join().unwrap();
    }
}
