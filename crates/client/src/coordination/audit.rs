//! The trail of an ingestor: changes of ownership, and what operators did.

use std::{fmt, str::FromStr};

use sluice_model::{Epoch, IngestorName};
use sluice_proto::v1 as pb;

use super::{Coordination, CoordinationError, control::nonce, wire};

/// What an entry of the trail tells of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum AuditKind {
    /// Written by the coordinator with the change itself, as the nine that follow; recording one
    /// of them is refused.
    Owned,
    Released,
    /// The owner before went without a release.
    Lost,
    IncarnationRaised,
    Paused,
    Resumed,
    ActionRequested,
    ActionCancelled,
    ActionDone,
    ActionFailed,
    /// Recorded by owners, as all that follow.
    Blocked,
    Unblocked,
    Halted,
    Gap,
    Generation,
    Diverged,
    /// The owner judged itself unfit and gave the lock to a replica that waits.
    Unfit,
    /// A word in lower case that this version does not know.
    Other(String),
}

/// Every kind with a name of its own.
const KINDS: [(AuditKind, &str); 17] = [
    (AuditKind::Owned, "owned"),
    (AuditKind::Released, "released"),
    (AuditKind::Lost, "lost"),
    (AuditKind::IncarnationRaised, "incarnation-raised"),
    (AuditKind::Paused, "paused"),
    (AuditKind::Resumed, "resumed"),
    (AuditKind::ActionRequested, "action-requested"),
    (AuditKind::ActionCancelled, "action-cancelled"),
    (AuditKind::ActionDone, "action-done"),
    (AuditKind::ActionFailed, "action-failed"),
    (AuditKind::Blocked, "blocked"),
    (AuditKind::Unblocked, "unblocked"),
    (AuditKind::Halted, "halted"),
    (AuditKind::Gap, "gap"),
    (AuditKind::Generation, "generation"),
    (AuditKind::Diverged, "diverged"),
    (AuditKind::Unfit, "unfit"),
];

impl AuditKind {
    /// The word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(word) => word,
            kind => KINDS.iter().find(|(known, _)| known == kind).map_or("", |(_, word)| word),
        }
    }
}

impl fmt::Display for AuditKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AuditKind {
    type Err = std::convert::Infallible;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let known = KINDS.iter().find(|(_, known)| *known == word);
        Ok(known.map_or_else(|| Self::Other(word.to_owned()), |(kind, _)| kind.clone()))
    }
}

/// An entry of an ingestor's trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Rises by one with each entry of the ingestor; 0 before it is recorded.
    pub sequence: u64,
    /// When, nanoseconds since 1970, on the coordinator's clock; 0 before it is recorded.
    pub at: i64,
    /// Whose trail.
    pub ingestor: IngestorName,
    /// What of.
    pub kind: AuditKind,
    /// Who did it, or whom it befell.
    pub actor: String,
    /// The owner's epoch; [`Epoch::ZERO`] for what operators do.
    pub epoch: Epoch,
    /// In words; cut at 1 KiB.
    pub detail: String,
}

impl AuditEntry {
    /// An entry to be recorded.
    pub fn new(
        ingestor: IngestorName,
        kind: AuditKind,
        actor: impl Into<String>,
        epoch: Epoch,
        detail: impl Into<String>,
    ) -> Self {
        let (actor, detail) = (actor.into(), detail.into());
        Self { sequence: 0, at: 0, ingestor, kind, actor, epoch, detail }
    }
}

impl Coordination {
    /// Adds an entry to an ingestor's trail and returns its number. Ownership, pauses and actions
    /// are in the trail already: the coordinator writes them with the change itself, and refuses
    /// them here. What could not be recorded is logged instead, under the target `sluice::audit`.
    pub async fn audit(&self, entry: &AuditEntry) -> Result<u64, CoordinationError> {
        let request = pb::RecordAuditRequest {
            nonce: nonce(),
            entry: Some(wire::control::entry_message(entry)),
        };
        let answer = self
            .caller
            .call("RecordAudit", |mut client| {
                let request = request.clone();
                async move { client.record_audit(request).await }
            })
            .await;
        if let Err(error) = &answer {
            let AuditEntry { ingestor, kind, actor, epoch, detail, .. } = entry;
            tracing::warn!(target: "sluice::audit", %ingestor, %kind, actor, %epoch, detail, %error,
                "not recorded");
        }
        Ok(answer?.sequence)
    }

    /// The entries of an ingestor's trail after a number, in order; of more than `limit` the
    /// newest (0: all that are kept and fit into an answer).
    pub async fn list_audit(
        &self,
        ingestor: &IngestorName,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, CoordinationError> {
        let request = pb::ListAuditRequest { ingestor: ingestor.to_string(), after, limit };
        let response = self
            .caller
            .call("ListAudit", |mut client| {
                let request = request.clone();
                async move { client.list_audit(request).await }
            })
            .await?;
        response.entries.iter().map(wire::control::entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_word_and_comes_back() {
        for (kind, word) in KINDS {
            assert_eq!(kind.as_str(), word);
            assert_eq!(word.parse::<AuditKind>().unwrap(), kind);
        }
        let unknown: AuditKind = "from-the-future".parse().unwrap();
        assert_eq!(unknown, AuditKind::Other("from-the-future".to_owned()));
        assert_eq!(unknown.to_string(), "from-the-future");
    }
}
