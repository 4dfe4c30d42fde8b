//! Recent changes, for watchers.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::kv::{Event, EventKind, KvError, Revision, Watch};

/// Changes kept at most.
const MAX_EVENTS: usize = 16_384;
/// Bytes of keys and values kept at most.
const MAX_BYTES: usize = 16 << 20;

/// The last durable changes. Watchers read it at their own pace; one that falls off its end is
/// told so. No watcher has a queue of its own.
pub(super) struct History {
    recent: Mutex<Recent>,
    head: watch::Sender<Option<Revision>>,
}

struct Recent {
    events: VecDeque<Event>,
    bytes: usize,
    /// Everything from this revision on is here.
    oldest: Revision,
}

impl History {
    /// Empty, at a revision whose past is not known.
    pub(super) fn new(revision: Revision) -> Self {
        let recent = Recent { events: VecDeque::new(), bytes: 0, oldest: revision + 1 };
        Self { recent: Mutex::new(recent), head: watch::Sender::new(Some(revision)) }
    }

    /// Adds durable changes and wakes the watchers.
    pub(super) fn publish(&self, events: Vec<Event>, head: Revision) {
        if events.is_empty() {
            return;
        }
        let mut recent = self.recent.lock();
        recent.bytes += events.iter().map(size).sum::<usize>();
        recent.events.extend(events);
        while recent.events.len() > MAX_EVENTS || recent.bytes > MAX_BYTES {
            let Some(oldest) = recent.events.front().map(|event| event.revision) else { break };
            recent.forget(oldest + 1);
        }
        drop(recent);
        self.head.send_replace(Some(head));
    }

    pub(super) fn compact(&self, revision: Revision) {
        let head = self.head.borrow().unwrap_or_default();
        self.recent.lock().forget(revision.min(head + 1));
        self.head.send_modify(|_| {});
    }

    /// Ends every watch.
    pub(super) fn close(&self) {
        self.head.send_replace(None);
    }

    pub(super) fn watch(self: Arc<Self>, key: String, from: Revision) -> Watch {
        let changes = self.head.subscribe();
        let cursor = Cursor { history: self, key, next: from, changes, ended: false };
        stream::unfold(cursor, |mut cursor| async move {
            if cursor.ended {
                return None;
            }
            let item = cursor.next().await;
            cursor.ended = item.is_err();
            Some((item, cursor))
        })
        .boxed()
    }
}

fn size(event: &Event) -> usize {
    let value = match &event.kind {
        EventKind::Put(value) => value.len(),
        EventKind::Deleted => 0,
    };
    event.key.len() + value + size_of::<Event>()
}

impl Recent {
    fn forget(&mut self, before: Revision) {
        while let Some(event) = self.events.front()
            && event.revision < before
        {
            self.bytes -= size(event);
            self.events.pop_front();
        }
        self.oldest = self.oldest.max(before);
    }
}

struct Cursor {
    history: Arc<History>,
    key: String,
    next: Revision,
    changes: watch::Receiver<Option<Revision>>,
    ended: bool,
}

impl Cursor {
    async fn next(&mut self) -> Result<Vec<Event>, KvError> {
        let closed = || KvError::Unavailable("the embedded store is closed".to_owned());
        loop {
            let head = self.changes.borrow_and_update().ok_or_else(closed)?;
            let events = self.read(head)?;
            if !events.is_empty() {
                return Ok(events);
            }
            self.changes.changed().await.map_err(|_| closed())?;
        }
    }

    /// Events of the key up to `head`, which is known to be complete.
    fn read(&mut self, head: Revision) -> Result<Vec<Event>, KvError> {
        let recent = self.history.recent.lock();
        if self.next < recent.oldest {
            return Err(KvError::Compacted { oldest: recent.oldest });
        }
        let from = recent.events.partition_point(|event| event.revision < self.next);
        let events = recent
            .events
            .range(from..)
            .take_while(|event| event.revision <= head)
            .filter(|event| event.key == self.key)
            .cloned()
            .collect();
        self.next = self.next.max(head + 1);
        Ok(events)
    }
}
