use std::{sync::Arc, time::Instant};

use futures_util::{Stream, stream};
use sluice_journal::{ReadFrom, Reader, Select};
use sluice_model::Position;
use sluice_proto::v1 as pb;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;

use super::{
    Request,
    feed::{End, Feed},
};
use crate::{
    app::Shared,
    error,
    metrics::{Delivered, Subscribed},
};

/// Items of the reader after which the runtime gets its turn although nothing was sent.
const YIELD_EVERY: u32 = 256;

/// Opens the journal where the request says and streams what matches.
///
/// The stream is pulled: nothing is read ahead of the connection's window, so a slow subscriber
/// holds one frame, and one that is gone holds nothing.
pub(crate) async fn open(
    shared: Arc<Shared>,
    request: Request,
) -> Result<impl Stream<Item = Result<pb::SubscribeResponse, Status>> + Send, Status> {
    let select = Select {
        filter: Arc::clone(&request.filter),
        metadata: request.metadata,
        headers_only: false,
        every: false,
    };
    let reader = shared
        .journal
        .read(&request.ingestor, request.from.clone(), select)
        .await
        .map_err(|refused| error::read(&request.ingestor, &refused))?;
    let now = Instant::now();
    let subscription = Subscription {
        feed: Feed::new(&request, reader.started(), &shared.options, now),
        delivered: shared.metrics.delivered(&request.ingestor),
        _subscribed: shared.metrics.subscribed(&request.ingestor),
        _open: shared.streams.token(),
        reader,
        request,
        shared,
        sent_at: now,
        silent: 0,
        failed: None,
        ended: false,
    };
    Ok(stream::unfold(subscription, |mut subscription| async move {
        let message = subscription.next().await?;
        Some((message, subscription))
    }))
}

struct Subscription {
    shared: Arc<Shared>,
    request: Request,
    reader: Box<dyn Reader>,
    feed: Feed,
    delivered: Delivered,
    sent_at: Instant,
    /// Items since the last message.
    silent: u32,
    /// Ends the stream once the queue is empty.
    failed: Option<Status>,
    ended: bool,
    _subscribed: Subscribed,
    /// Holds the shutdown until the stream has ended.
    _open: TaskTrackerToken,
}

impl Subscription {
    async fn next(&mut self) -> Option<Result<pb::SubscribeResponse, Status>> {
        loop {
            if let Some(message) = self.feed.pop() {
                return Some(Ok(self.sent(message)));
            }
            if self.ended {
                return None;
            }
            if let Some(failed) = self.failed.take() {
                self.ended = true;
                return Some(Err(failed));
            }
            match self.feed.end() {
                End::Complete => return None,
                End::Passed => self.look_up_end().await,
                End::Open => {
                    if let Some(heartbeat) = self.step().await {
                        return Some(Ok(self.sent(heartbeat)));
                    }
                }
            }
        }
    }

    /// Waits for the reader's next item, the moment to say progress, or the next heartbeat.
    async fn step(&mut self) -> Option<pb::subscribe_response::Message> {
        if self.shared.stopping.is_cancelled() {
            self.stop();
            return None;
        }
        let heartbeat = self.sent_at + self.shared.options.heartbeat;
        let due = self.feed.due().map_or(heartbeat, |due| due.min(heartbeat));
        let item = tokio::select! {
            biased;
            item = self.reader.next() => item,
            () = self.shared.stopping.cancelled() => {
                self.stop();
                return None;
            }
            () = tokio::time::sleep_until(due.into()) => {
                self.delivered.flush();
                if self.feed.due().is_some() {
                    self.feed.flush(Instant::now());
                    return None;
                }
                return self.heartbeat().await;
            }
        };
        let taken = match item {
            Ok(item) => self.feed.item(item, Instant::now()),
            Err(refused) => {
                self.feed.flush(Instant::now());
                Err(error::read(&self.request.ingestor, &refused))
            }
        };
        self.failed = taken.err();
        self.silent += 1;
        if self.silent >= YIELD_EVERY {
            self.silent = 0;
            tokio::task::yield_now().await;
        }
        None
    }

    fn stop(&mut self) {
        // What is decided is said, so that the client resumes behind it.
        self.feed.flush(Instant::now());
        self.failed = Some(error::stopping());
    }

    async fn heartbeat(&mut self) -> Option<pb::subscribe_response::Message> {
        match self.shared.journal.status(&self.request.ingestor).await {
            Ok(status) => {
                let head = status.head.as_ref().map(Into::into);
                Some(pb::subscribe_response::Message::Heartbeat(pb::Heartbeat { head }))
            }
            Err(refused) => {
                self.failed = Some(error::journal(&refused));
                None
            }
        }
    }

    /// Where a bounded read ends whose last blocks did not match: right before the first block
    /// above its last height.
    async fn look_up_end(&mut self) {
        let beyond = self.request.until.unwrap_or(u64::MAX).saturating_add(1);
        let select =
            Select { headers_only: true, ..Select::from(Arc::clone(&self.request.filter)) };
        let at = ReadFrom::Height(beyond);
        match self.shared.journal.read(&self.request.ingestor, at, select).await {
            Ok(reader) => self.feed.complete(reader.started().after.clone()),
            // The journal has moved on in the meantime; what was passed is still true.
            Err(refused) => {
                tracing::debug!(ingestor = %self.request.ingestor, %refused, "end not looked up");
                self.feed.complete(Position::ORIGIN);
            }
        }
    }

    fn sent(&mut self, message: pb::subscribe_response::Message) -> pb::SubscribeResponse {
        self.sent_at = Instant::now();
        self.silent = 0;
        if let pb::subscribe_response::Message::Frame(frame) = &message {
            self.delivered.frame(frame.len());
        }
        message.into()
    }
}
