//! The consumer: subscribes once, and is there for everything. What it was delivered is the second
//! record of the history, beside the journal's files.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use parking_lot::Mutex;
use sluice_client::subscribe::{Item, SubscribeOptions, Subscriber};
use sluice_model::StartPosition;
use sluice_service::transport;
use tokio::task::JoinHandle;

use super::{INGESTOR, chain};

/// What was delivered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivered {
    /// The last whole block.
    pub(crate) last: u64,
    /// Blocks delivered again.
    pub(crate) duplicated: u64,
    /// Blocks with other content or another digest, and histories that begin anew.
    pub(crate) forked: u64,
    /// Blocks that were passed over.
    pub(crate) lost: u64,
    /// In words.
    pub(crate) wrong: Vec<String>,
}

/// The running consumer.
#[derive(Debug)]
pub(crate) struct Reader {
    delivered: Arc<Mutex<Delivered>>,
    task: JoinHandle<()>,
}

impl Reader {
    /// Reads from the first block on.
    pub(crate) fn start(router: &str, chain: chain::Chain) -> Self {
        let mut options = SubscribeOptions::new(INGESTOR.parse().unwrap(), StartPosition::Earliest);
        // A journal that nobody has made yet is waited for like any other outage.
        options.give_up_after = None;
        let transport = transport::remote(router).unwrap();
        let delivered = Arc::<Mutex<Delivered>>::default();
        let told = Arc::clone(&delivered);
        let task = tokio::spawn(async move {
            loop {
                let subscriber = Subscriber::new(transport.clone(), options.clone());
                let why = read(subscriber, &chain, &told).await;
                if told.lock().ended(&why) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { delivered, task }
    }

    /// What was delivered so far.
    pub(crate) fn delivered(&self) -> Delivered {
        self.delivered.lock().clone()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(mut subscriber: Subscriber, chain: &chain::Chain, told: &Mutex<Delivered>) -> String {
    let mut content = BytesMut::new();
    loop {
        let frame = match subscriber.next().await {
            Ok(Some(Item::Frame(frame))) => frame,
            Ok(Some(item @ (Item::Gap(_) | Item::Rewind(_)))) => {
                let mut told = told.lock();
                told.forked += 1;
                told.wrong.push(format!("nobody asked for it, and it was delivered: {item:?}"));
                continue;
            }
            Ok(Some(_)) => continue,
            Ok(None) => return "no more".to_owned(),
            Err(error) => return error.to_string(),
        };
        if frame.header.part == 0 {
            content.clear();
        }
        content.extend_from_slice(&frame.changes);
        if let Some(end) = &frame.header.end {
            let height = frame.header.height;
            let same =
                content == chain::changes(height) && *end.digest.as_bytes() == chain.digest(height);
            told.lock().take(height, same);
        }
    }
}

impl Delivered {
    /// True if that must not happen: only before the first block there may be no journal.
    fn ended(&mut self, why: &str) -> bool {
        let began = self.last > 0;
        if began {
            self.wrong.push(format!("the subscription ended: {why}"));
        }
        began
    }

    fn take(&mut self, height: u64, same: bool) {
        if height <= self.last {
            self.duplicated += 1;
            self.wrong.push(format!("block {height} was delivered behind {}", self.last));
        } else if height > self.last + 1 {
            self.lost += height - self.last - 1;
            self.wrong.push(format!("block {height} was delivered after {}", self.last));
        }
        if !same {
            self.forked += 1;
            self.wrong.push(format!("block {height} was delivered with foreign content"));
        }
        self.last = self.last.max(height);
    }
}
