//! A program that captures and does not give up, and three processes for it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sluice_client::{
    capture::{Acks, Begin, Blocks, CaptureError, Capturer},
    subscribe::{Item, SubscribeOptions, Subscriber},
};
use sluice_frame::put_change;
use sluice_model::{Digest, Op, StartPosition};
use sluice_service::transport;
use sluice_tests::{
    PATIENCE, eventually,
    process::{Process, run, run_behind},
};
use tokio::{sync::watch, task::JoinHandle};

pub(crate) const INGESTOR: &str = "app-1";
/// Bytes of changes in a block of the program, about.
pub(crate) const BLOCK: u64 = 32 << 10;

/// The changes of a block; told by its height alone.
pub(crate) fn changes(height: u64) -> Bytes {
    let mut region = BytesMut::new();
    for i in 0..8u64 {
        let value = blake3::hash(&(height * 8 + i).to_be_bytes());
        let value = value.as_bytes().repeat(128);
        put_change("bank", Op::Set, &i.to_be_bytes(), &value, &mut region);
    }
    put_change("gov", Op::Set, b"height", &height.to_be_bytes(), &mut region);
    region.freeze()
}

/// What the program was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Height and digest of every acknowledged block.
    pub(crate) acked: BTreeMap<u64, Digest>,
    /// Why a connection ended.
    pub(crate) refusals: Vec<String>,
}

impl Told {
    /// The last acknowledged height.
    pub(crate) fn last(&self) -> u64 {
        self.acked.last_key_value().map_or(0, |(height, _)| *height)
    }
}

/// Captures block after block up to a goal; after a failure it asks for the head and goes on.
#[derive(Debug)]
pub(crate) struct Program {
    goal: watch::Sender<u64>,
    told: Arc<Mutex<Told>>,
    task: JoinHandle<()>,
}

impl Program {
    /// Starts to capture up to a height.
    pub(crate) fn start(producer: &str, goal: u64) -> Self {
        let capturer =
            Capturer::new(transport::remote(producer).unwrap(), INGESTOR.parse().unwrap());
        let (goal, until) = watch::channel(goal);
        let told = Arc::<Mutex<Told>>::default();
        let task = tokio::spawn(capture(capturer, until, told.clone()));
        Self { goal, told, task }
    }

    /// What it was told so far.
    pub(crate) fn told(&self) -> Told {
        assert!(!self.task.is_finished(), "the program ended");
        self.told.lock().clone()
    }

    /// Lets it capture up to another height.
    pub(crate) fn go_on_to(&self, goal: u64) {
        self.goal.send_replace(goal);
    }

    /// Waits until everything up to its goal is durable.
    pub(crate) async fn done(&self) {
        let goal = *self.goal.borrow();
        eventually(&format!("block {goal} is acknowledged"), || {
            std::future::ready((self.told().last() >= goal).then_some(()))
        })
        .await;
    }

    /// Waits until it is told this, among what it is told while it tries again and again.
    pub(crate) async fn refused_with(&self, words: &str) {
        eventually("the program is told why", || {
            let told = self.told().refusals.iter().any(|why| why.contains(words));
            std::future::ready(told.then_some(()))
        })
        .await;
        self.told.lock().refusals.clear();
    }

    /// Waits until it is told of a failure that it was not told of when this was asked last.
    pub(crate) async fn refused(&self) -> String {
        let why = eventually("the program is told of the failure", || {
            std::future::ready(self.told().refusals.pop())
        })
        .await;
        self.told.lock().refusals.clear();
        why
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn capture(capturer: Capturer, mut goal: watch::Receiver<u64>, told: Arc<Mutex<Told>>) {
    loop {
        let (mut blocks, mut acks, head) = capturer.resume(PATIENCE).await.unwrap();
        let head = head.map_or(0, |head| head.height);
        let last = told.lock().last();
        assert!(head >= last, "block {last} was acknowledged, the head is {head}");
        let receiving = receive(&mut acks, &told);
        tokio::pin!(receiving);
        let why = tokio::select! {
            why = &mut receiving => why,
            // The acknowledgements tell why.
            _ = send(&mut blocks, head, &mut goal) => receiving.await,
        };
        assert!(why.is_transient(), "{why}");
        told.lock().refusals.push(why.to_string());
    }
}

async fn send(
    blocks: &mut Blocks,
    head: u64,
    goal: &mut watch::Receiver<u64>,
) -> Result<(), CaptureError> {
    for height in head + 1.. {
        // Fails when the test is over.
        if goal.wait_for(|goal| *goal >= height).await.is_err() {
            std::future::pending::<()>().await;
        }
        blocks.begin(Begin::at(height)).await?;
        blocks.changes(changes(height)).await?;
        blocks.end().await?;
    }
    Ok(())
}

async fn receive(acks: &mut Acks, told: &Mutex<Told>) -> CaptureError {
    loop {
        match acks.next().await {
            Ok(Some(ack)) => {
                let before = told.lock().acked.insert(ack.height, ack.digest);
                assert_eq!(before, None, "block {} was acknowledged twice", ack.height);
            }
            Ok(None) => return CaptureError::Ended,
            Err(why) => return why,
        }
    }
}

/// Reads everything up to a height from a router: every block is there once, in order and with
/// its content, and those that were acknowledged with the digest that was told.
pub(crate) async fn everything_is_there(router: &str, until: u64, acked: &BTreeMap<u64, Digest>) {
    let mut options = SubscribeOptions::new(INGESTOR.parse().unwrap(), StartPosition::Earliest);
    options.until = Some(until);
    options.give_up_after = Some(PATIENCE);
    let mut subscriber = Subscriber::new(transport::remote(router).unwrap(), options);
    let (mut height, mut content) = (1, BytesMut::new());
    while let Some(item) = subscriber.next().await.unwrap() {
        let frame = match item {
            Item::Frame(frame) => frame,
            Item::Gap(_) | Item::Rewind(_) => panic!("{item:?}"),
            _ => continue,
        };
        assert_eq!(frame.header.height, height, "lost, repeated or out of order");
        content.extend_from_slice(&frame.changes);
        if let Some(end) = &frame.header.end {
            assert!(content == changes(height), "block {height} has other content");
            if let Some(told) = acked.get(&height) {
                assert_eq!(end.digest, *told, "block {height}");
            }
            content.clear();
            height += 1;
        }
    }
    assert_eq!(height, until + 1, "blocks are missing");
}

/// Coordinator, router and producer with an ingestor of the kind `capture`.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) coordinator: Process,
    pub(crate) router: Process,
    pub(crate) producer: Process,
}

impl Site {
    /// Starts them; the router behind a launcher and with further settings.
    pub(crate) async fn start(dir: &Path, launcher: &[String], router: &[String]) -> Self {
        let config = config(dir, "").display().to_string();
        let service = |name: &str| Process::new(name, dir, &[name, "--config", &config]);
        let mut this = Self {
            coordinator: service("coordinator"),
            router: service("router").behind(launcher),
            producer: service("producer"),
        };
        let connect: Vec<String> = [("coordinator", &this.coordinator), ("router", &this.router)]
            .iter()
            .flat_map(|(peer, at)| ["--set".to_owned(), format!("connect.{peer}={}", at.url())])
            .collect();
        this.coordinator.start(&connect).await;
        this.router.start(&[&connect[..], router].concat()).await;
        this.producer.start(&connect).await;
        this
    }

    /// Stops them in the order of their dependency.
    pub(crate) async fn stop(&mut self) {
        for process in [&mut self.producer, &mut self.router, &mut self.coordinator] {
            assert_eq!(process.stop().await.code(), Some(0), "{}", process.log());
        }
    }
}

/// A configuration with the program's ingestor and more.
pub(crate) fn config(dir: &Path, more: &str) -> PathBuf {
    let text = format!(
        "data_dir = \"{}\"\n[ingestors.{INGESTOR}]\nsource = {{ type = \"capture\" }}\n{more}\n",
        dir.join("data").display()
    );
    let path = dir.join("sluice.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// What `sluice ingestors get` says of an ingestor, as JSON.
pub(crate) fn ingestor(producer: &Process, name: &str) -> serde_json::Value {
    let output = run(&["ingestors", "get", name, "-o", "json", "--server", &producer.url()]);
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// The exit code and the screen of `sluice status` against one process.
pub(crate) fn status(process: &Process) -> (Option<i32>, String) {
    let output = run(&["status", "--server", &process.url()]);
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// Waits until `sluice status` says something.
pub(crate) async fn status_says(process: &Process, code: i32, part: &str) -> String {
    eventually(&format!("sluice status says {part:?}"), || {
        let (got, screen) = status(process);
        std::future::ready((got == Some(code) && screen.contains(part)).then_some(screen))
    })
    .await
}

/// Waits until the ingestor has failed this often in a row, for a cause that says `part`.
pub(crate) async fn fails(producer: &Process, times: u64, part: &str) {
    eventually(&format!("{times} failures in a row: {part:?}"), || {
        let own = ingestor(producer, INGESTOR);
        let told = own["cause"].as_str().is_some_and(|cause| cause.contains(part));
        std::future::ready((told && own["failures"].as_u64() >= Some(times)).then_some(()))
    })
    .await;
}

/// `sluice journal verify` finds so many blocks of the program, and nothing wrong.
pub(crate) fn verified(launcher: &[String], journals: &Path, blocks: u64) {
    let journals = journals.display().to_string();
    let verify = run_behind(launcher, &["journal", "verify", "-o", "json", "--dir", &journals]);
    let text = String::from_utf8(verify.stdout).unwrap();
    assert_eq!(verify.status.code(), Some(0), "{text}");
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["sound"], &report["blocks"]), (&true.into(), &blocks.into()), "{text}");
}
