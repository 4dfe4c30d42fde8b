//! The digests of blocks as a stream, for whoever compares another feed with the journal.

use std::{sync::Arc, time::Instant};

use futures_util::{Stream, stream};
use sluice_frame::{BlockEnd, Header};
use sluice_journal::{Item, ReadFrom, Reader, Select};
use sluice_model::{Filter, IngestorName, StartPosition};
use sluice_proto::{convert, v1 as pb};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;

use crate::{app::Shared, error, subscribe};

type Message = pb::block_digests_response::Message;

/// Opens the journal where the request says. Only headers are read.
pub(crate) async fn open(
    shared: Arc<Shared>,
    request: pb::BlockDigestsRequest,
) -> Result<impl Stream<Item = Result<pb::BlockDigestsResponse, Status>> + Send, Status> {
    let ingestor = subscribe::ingestor(&request.ingestor)?;
    let (start, digest) = convert::start(request.start)?;
    let from = match start {
        StartPosition::Earliest => ReadFrom::Earliest,
        StartPosition::Latest => ReadFrom::Latest,
        StartPosition::Height(height) => ReadFrom::Height(height),
        StartPosition::Time(nanos) => ReadFrom::Time(nanos),
        StartPosition::After(id) => ReadFrom::After(id.into_position(), digest),
    };
    let select =
        Select { headers_only: true, every: true, ..Select::from(Arc::new(Filter::all())) };
    let reader = shared
        .journal
        .read(&ingestor, from, select)
        .await
        .map_err(|refused| error::read(&ingestor, &refused))?;
    let digests = Digests {
        _open: shared.streams.token(),
        started: Some(reader.started().clone()),
        reader,
        ingestor,
        shared,
        sent_at: Instant::now(),
        ended: false,
    };
    Ok(stream::unfold(digests, |mut digests| async move {
        let message = digests.next().await?;
        Some((message, digests))
    }))
}

struct Digests {
    shared: Arc<Shared>,
    ingestor: IngestorName,
    reader: Box<dyn Reader>,
    started: Option<sluice_journal::Started>,
    sent_at: Instant,
    ended: bool,
    /// Holds the shutdown until the stream has ended.
    _open: TaskTrackerToken,
}

impl Digests {
    async fn next(&mut self) -> Option<Result<pb::BlockDigestsResponse, Status>> {
        if self.ended {
            return None;
        }
        let message = self.message().await;
        self.sent_at = Instant::now();
        self.ended = message.is_err();
        Some(message.map(|message| pb::BlockDigestsResponse { message: Some(message) }))
    }

    async fn message(&mut self) -> Result<Message, Status> {
        if let Some(started) = self.started.take() {
            return Ok(Message::Started(pb::Started {
                after: Some((&started.after).into()),
                head: started.head.as_ref().map(Into::into),
                filter: String::new(),
            }));
        }
        loop {
            let heartbeat = self.sent_at + self.shared.options.heartbeat;
            let item = tokio::select! {
                biased;
                () = self.shared.stopping.cancelled() => return Err(error::stopping()),
                item = self.reader.next() => item,
                () = tokio::time::sleep_until(heartbeat.into()) => return self.heartbeat().await,
            };
            let item = item.map_err(|refused| error::read(&self.ingestor, &refused))?;
            if let Some(message) = self.said(item)? {
                return Ok(message);
            }
        }
    }

    /// What an item of the reader tells; nothing for parts of a block and for bare progress.
    fn said(&self, item: Item) -> Result<Option<Message>, Status> {
        Ok(match item {
            Item::Entry(stored) => {
                let header = &stored.header;
                header.end.as_ref().map(|end| Message::Block(block(header, end)))
            }
            Item::Through(_) => None,
            Item::Gap(gap) => Some(Message::Gap(pb::GapNotice {
                through: Some((&gap.through).into()),
                gap: Some(pb::Gap {
                    from: gap.from.to_bytes(),
                    to: gap.to.to_bytes(),
                    cause: gap.cause,
                }),
            })),
            Item::Generation(notice) => Some(Message::Rewind(pb::RewindNotice {
                generation_start: Some(pb::GenerationStart {
                    generation: notice.through.generation.0,
                    base_generation: notice.base.generation.0,
                    base_pointer: notice.base.pointer.to_bytes(),
                    base_digest: convert::digest_bytes(&notice.base_digest),
                    reason: notice.reason,
                    actor: notice.actor,
                }),
            })),
            Item::Corrupt(corruption) => return Err(error::corrupt(&self.ingestor, &corruption)),
        })
    }

    async fn heartbeat(&self) -> Result<Message, Status> {
        let status = self.shared.journal.status(&self.ingestor).await;
        let head = status.map_err(|refused| error::journal(&refused))?.head;
        Ok(Message::Heartbeat(pb::Heartbeat { head: head.as_ref().map(Into::into) }))
    }
}

fn block(header: &Header, end: &BlockEnd) -> pb::BlockDigest {
    pb::BlockDigest {
        generation: header.generation.0,
        pointer: header.pointer.to_bytes(),
        parent: header.parent.to_bytes(),
        height: header.height,
        time: header.time.map(convert::timestamp),
        digest: convert::digest_bytes(&end.digest),
        parent_digest: convert::digest_bytes(&end.parent_digest),
        states: convert::state_digests(&end.states),
        metadata_digest: convert::maybe_digest_bytes(end.metadata_digest.as_ref()),
    }
}
