//! A writer that keeps none of the rules.

use std::time::Duration;

use bytes::Bytes;
use sluice_client::append::{AppendError, Appender, Open};
use sluice_frame::{BlockBuilder, BlockStart};
use sluice_model::{
    Digest, Epoch, Generation, Head, IngestorName, JournalId, Op, Pointer, TopicRules,
};
use sluice_proto::{convert, v1 as pb};
use sluice_service::Transport;
use tokio::time::timeout;

use super::{INGESTOR, site::Site};
use crate::eventually;

const PATIENCE: Duration = Duration::from_secs(5);

/// Opens journals that are not its own.
#[derive(Debug)]
pub(crate) struct Rogue {
    transport: Transport,
    journal: JournalId,
}

/// How the router answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Accepted,
    Fenced,
    /// Refused for another reason.
    Refused,
}

impl Rogue {
    pub(crate) fn new(transport: Transport, status: &pb::JournalStatus) -> Self {
        Self { transport, journal: convert::journal_id(&status.journal_id).unwrap() }
    }

    /// Opens the journal under an epoch.
    pub(crate) async fn open(&self, epoch: Epoch) -> Result<RogueWriter, Said> {
        let open = Open {
            ingestor: name(),
            journal_id: self.journal,
            epoch,
            nonce: Bytes::from_static(b"a rogue writer"),
            holder: "a rogue writer".to_owned(),
        };
        let opened = timeout(PATIENCE, Appender::open(self.transport.clone(), open)).await;
        match opened {
            Ok(Ok((appender, _))) => Ok(RogueWriter { appender, epoch }),
            Ok(Err(error)) => Err(said(&error)),
            Err(_) => Err(Said::Refused),
        }
    }

    /// The head of the journal.
    pub(crate) async fn head(&self, site: &Site) -> Head {
        let status = eventually("the router answers", || site.journal_status()).await;
        convert::head(status.head).unwrap().expect("the journal has blocks")
    }
}

/// Its writer.
#[derive(Debug)]
pub(crate) struct RogueWriter {
    appender: Appender,
    epoch: Epoch,
}

impl RogueWriter {
    /// Appends a block behind the head, claiming another content of the head if asked to.
    pub(crate) async fn append(&mut self, head: &Head, claimed: Option<[u8; 32]>) -> Said {
        let height = head.height + 1;
        let start = BlockStart {
            ingestor: name(),
            generation: Generation(0),
            pointer: Pointer::from_height(height),
            parent: head.pointer.clone(),
            height,
            time: None,
            epoch: self.epoch,
        };
        let topics = TopicRules::default();
        let mut block = BlockBuilder::new(start, &topics);
        block.push_change("rogue", Op::Set, b"key", b"value").unwrap();
        for mut frame in block.finish("") {
            if let (Some(end), Some(claimed)) = (&mut frame.header.end, claimed) {
                end.parent_digest = Digest::from_array(claimed);
            }
            // The answer tells more than a failure to send.
            self.appender.send(&frame).await.ok();
        }
        match timeout(PATIENCE, self.appender.next_ack()).await {
            Ok(Ok(Some(_))) => Said::Accepted,
            Ok(Err(error)) => said(&error),
            Ok(Ok(None)) | Err(_) => Said::Refused,
        }
    }
}

const fn said(error: &AppendError) -> Said {
    match error {
        AppendError::Fenced(_) => Said::Fenced,
        _ => Said::Refused,
    }
}

fn name() -> IngestorName {
    INGESTOR.parse().unwrap()
}
