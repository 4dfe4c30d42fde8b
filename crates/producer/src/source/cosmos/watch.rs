//! Wakes the reader of a directory. Events are hints only: a lost one (the kernel's queue is
//! bounded) costs one rescan interval.

use std::{path::Path, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use inotify::{EventStream, Inotify, WatchMask};

/// Size of the buffer that events are read into, in bytes.
const BUFFER: usize = 4096;

/// A watched directory.
pub(super) struct Watch {
    events: Option<EventStream<Vec<u8>>>,
    every: Duration,
}

impl Watch {
    /// Watches a directory; without the kernel's help (its number of watches is bounded) it is
    /// looked at every so often.
    pub(super) fn new(dir: &Path, every: Duration) -> Self {
        let events = Self::events(dir)
            .inspect_err(|error| {
                tracing::warn!(dir = %dir.display(), %error, "no change notification; polling");
            })
            .ok();
        Self { events, every }
    }

    fn events(dir: &Path) -> std::io::Result<EventStream<Vec<u8>>> {
        let inotify = Inotify::init()?;
        // A name appears with the first byte; only a closed or renamed file can be whole.
        inotify.watches().add(dir, WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO)?;
        inotify.into_event_stream(vec![0; BUFFER])
    }

    /// Returns when something may have changed. Cancel safe.
    pub(super) async fn changed(&mut self) {
        let Some(events) = &mut self.events else {
            return tokio::time::sleep(self.every).await;
        };
        let alive = tokio::select! {
            event = events.next() => matches!(event, Some(Ok(_))),
            () = tokio::time::sleep(self.every) => true,
        };
        // One look serves all events that are there.
        while alive && matches!(events.next().now_or_never(), Some(Some(Ok(_)))) {}
        if !alive {
            self.events = None;
        }
    }
}
