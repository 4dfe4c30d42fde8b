use sluice_model::{
    Digest, Durability, Epoch, Generation, IngestorName, JournalId, Pointer, Position,
};

use crate::{
    coordination::{Coordination, TRIES, Ticket, got, modified, pause},
    error::Error,
    kv::{Op, Txn},
    record::{self, CommitRecord, JournalRecord},
};

/// A commit to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Whose.
    pub ingestor: IngestorName,
    /// The pointer of the commit that this one follows; [`Pointer::ORIGIN`] for the first.
    pub previous: Pointer,
    /// The journal that holds the block.
    pub journal: JournalId,
    /// The history.
    pub generation: Generation,
    /// The block.
    pub pointer: Pointer,
    /// Its digest.
    pub digest: Digest,
    /// What the block survives.
    pub durability: Durability,
}

impl Commit {
    /// True if this is what `stored` says, made by the same owner: a repetition.
    fn is(&self, stored: &CommitRecord, epoch: Epoch) -> bool {
        stored.epoch == epoch
            && stored.previous == self.previous
            && stored.journal == self.journal
            && stored.generation == self.generation
            && stored.pointer == self.pointer
            && stored.digest == self.digest
    }

    /// The rule of order: names the stored block as its previous one, and is after it.
    fn follows(&self, stored: Option<&CommitRecord>) -> bool {
        let position = Position::end_of(self.generation, self.pointer.clone());
        match stored {
            None => self.previous.is_origin() && !self.pointer.is_origin(),
            Some(stored) => self.previous == stored.pointer && position > stored.position(),
        }
    }
}

impl Coordination {
    /// The last commit of an ingestor; `None` before the first. Linearizable.
    pub async fn latest(&self, ingestor: &IngestorName) -> Result<Option<CommitRecord>, Error> {
        let key = self.keys.commit(ingestor);
        let (_, entry) = self.kv.get(&key).await?;
        entry.map(|entry| record::decode(&key, &entry.value)).transpose()
    }

    /// Moves the commit of an ingestor, if the caller owns `ingestor/<name>` under this epoch and
    /// the commit follows the stored one, checked in one transaction with the write.
    ///
    /// Repeating a commit that took effect succeeds and counts once. Errors:
    /// [`Error::LostOwnership`], [`Error::PositionConflict`], [`Error::WrongJournal`],
    /// [`Error::Busy`].
    pub async fn commit(
        &self,
        ticket: &Ticket,
        epoch: Epoch,
        commit: &Commit,
    ) -> Result<CommitRecord, Error> {
        self.budget.turn().await?;
        for tries in 1..=TRIES {
            match self.try_commit(ticket, epoch, commit).await {
                Ok(Some(stored)) => return Ok(stored),
                // Overtaken: reading again tells by whom.
                Ok(None) => {}
                // Reading again tells whether it took effect.
                Err(error) if error.is_unknown() && tries < TRIES => {}
                Err(error) => return Err(error),
            }
            pause(tries).await;
        }
        Err(Error::Contended(format!("the commit of {}", commit.ingestor)))
    }

    async fn try_commit(
        &self,
        ticket: &Ticket,
        epoch: Epoch,
        commit: &Commit,
    ) -> Result<Option<CommitRecord>, Error> {
        let (own, key) = (self.candidate_key(ticket)?, self.keys.commit(&commit.ingestor));
        let journal = self.keys.journal(&commit.ingestor);
        let read = [own, key.clone(), journal].map(Op::Get);
        let mut answer = self.kv.txn(Txn::read(read.to_vec())).await?;
        let journal = got(answer.answers.pop())?;
        let entry = got(answer.answers.pop())?;
        let own = got(answer.answers.pop())?;
        let owned = self.owned(ticket, epoch, own.as_ref()).await?;
        let stored: Option<CommitRecord> =
            entry.as_ref().map(|entry| record::decode(&key, &entry.value)).transpose()?;
        if let Some(stored) = stored.as_ref().filter(|stored| commit.is(stored, epoch)) {
            return Ok(Some(stored.clone()));
        }
        let minted = journal
            .map(|entry| record::decode::<JournalRecord>(&entry.key, &entry.value))
            .transpose()?
            .map(|record| record.journal);
        if minted != Some(commit.journal) {
            let (ingestor, named) = (commit.ingestor.clone(), commit.journal);
            return Err(Error::WrongJournal { ingestor, named, minted });
        }
        if !commit.follows(stored.as_ref()) {
            let (ingestor, stored) = (commit.ingestor.clone(), stored.map(Box::new));
            return Err(Error::PositionConflict { ingestor, stored });
        }
        let next = next(commit, epoch, stored.as_ref(), self.clock.millis());
        let value = record::encode(&next)?;
        let txn = Txn {
            when: vec![owned, modified(&key, entry.as_ref())],
            then: vec![Op::Put { key, value, lease: None }],
            otherwise: vec![],
        };
        Ok(self.kv.txn(txn).await?.succeeded.then_some(next))
    }
}

fn next(commit: &Commit, epoch: Epoch, stored: Option<&CommitRecord>, at: u64) -> CommitRecord {
    CommitRecord {
        journal: commit.journal,
        epoch,
        generation: commit.generation,
        pointer: commit.pointer.clone(),
        previous: commit.previous.clone(),
        digest: commit.digest,
        durability: commit.durability,
        sequence: stored.map_or(0, |stored| stored.sequence) + 1,
        at,
    }
}
