use sluice_model::{Checkpoint, Epoch, IngestorName, StartPosition};

use crate::{
    coordination::{Coordination, TRIES, Ticket, got, modified, pause},
    error::Error,
    kv::{Entry, Op, Txn},
    record::{self, Reset, StreamCheckpoint, StreamState},
};

/// Longest filter kept with a checkpoint, in bytes.
const MAX_FILTER: usize = 64 << 10;

/// A checkpoint to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutCheckpoint {
    /// Whose.
    pub stream: String,
    /// Whose positions these are.
    pub ingestor: IngestorName,
    /// The version this one replaces; 0 for the first since the last reset.
    pub previous_version: u64,
    /// How far the stream is done.
    pub checkpoint: Checkpoint,
    /// The filter this was made under.
    pub filter: String,
    /// The reset epoch this was made under.
    pub reset_epoch: u64,
}

impl PutCheckpoint {
    /// True if this is what `stored` says, made by the same owner: a repetition.
    fn is(&self, stored: &StreamCheckpoint, epoch: Epoch) -> bool {
        stored.epoch == epoch
            && stored.version == self.previous_version + 1
            && stored.reset_epoch == self.reset_epoch
            && stored.ingestor == self.ingestor
            && stored.checkpoint == self.checkpoint
            && stored.filter == self.filter
    }

    /// The rule of order: replaces the stored version of the current reset epoch, and does not go
    /// back behind it. A position of another ingestor cannot be compared and is not allowed.
    fn follows(&self, state: &StreamState) -> bool {
        self.reset_epoch == state.reset_epoch
            && match &state.checkpoint {
                None => self.previous_version == 0,
                Some(stored) => {
                    self.previous_version == stored.version
                        && self.ingestor == stored.ingestor
                        && self.checkpoint.position >= stored.checkpoint.position
                }
            }
    }
}

/// A stream's keys as read in one transaction.
struct Stored {
    checkpoint_key: String,
    reset_key: String,
    checkpoint: Option<Entry>,
    reset: Option<Entry>,
    state: StreamState,
}

impl Coordination {
    /// Where a stream stands. A checkpoint of an earlier reset epoch counts as none. Linearizable.
    pub async fn stream_state(&self, stream: &str) -> Result<StreamState, Error> {
        Ok(self.read_stream(stream, None).await?.0.state)
    }

    async fn read_stream(
        &self,
        stream: &str,
        own: Option<String>,
    ) -> Result<(Stored, Option<Entry>), Error> {
        let (checkpoint_key, reset_key) = (self.keys.checkpoint(stream)?, self.keys.reset(stream)?);
        let mut ops = vec![Op::Get(checkpoint_key.clone()), Op::Get(reset_key.clone())];
        ops.extend(own.map(Op::Get));
        let mut answers = self.kv.txn(Txn::read(ops)).await?.answers.into_iter();
        let checkpoint = got(answers.next())?;
        let reset = got(answers.next())?;
        let own = answers.next().map(|answer| got(Some(answer))).transpose()?.flatten();
        let state = state_of(checkpoint.as_ref(), reset.as_ref())?;
        Ok((Stored { checkpoint_key, reset_key, checkpoint, reset, state }, own))
    }

    /// Moves a stream's checkpoint, if the caller owns the stream's lock under this epoch, the
    /// checkpoint replaces the stored one and the stream was not reset, checked in one
    /// transaction with the write. Returns the new version.
    ///
    /// The lock is `stream/<stream>` or one whose name begins with `stream/<stream>/`. Repeating
    /// a write that took effect succeeds and counts once. Errors: [`Error::LostOwnership`],
    /// [`Error::CheckpointConflict`], [`Error::Busy`].
    pub async fn put_checkpoint(
        &self,
        ticket: &Ticket,
        epoch: Epoch,
        put: &PutCheckpoint,
    ) -> Result<u64, Error> {
        check(ticket, put)?;
        self.budget.turn().await?;
        for tries in 1..=TRIES {
            match self.try_checkpoint(ticket, epoch, put).await {
                Ok(Some(version)) => return Ok(version),
                Ok(None) => {}
                Err(error) if error.is_unknown() && tries < TRIES => {}
                Err(error) => return Err(error),
            }
            pause(tries).await;
        }
        Err(Error::Contended(format!("the checkpoint of {:?}", put.stream)))
    }

    async fn try_checkpoint(
        &self,
        ticket: &Ticket,
        epoch: Epoch,
        put: &PutCheckpoint,
    ) -> Result<Option<u64>, Error> {
        let own = self.candidate_key(ticket)?;
        let (stored, own) = self.read_stream(&put.stream, Some(own)).await?;
        let owned = self.owned(ticket, epoch, own.as_ref()).await?;
        if let Some(stored) = stored.state.checkpoint.as_ref().filter(|s| put.is(s, epoch)) {
            return Ok(Some(stored.version));
        }
        if !put.follows(&stored.state) {
            let (stream, stored) = (put.stream.clone(), Box::new(stored.state));
            return Err(Error::CheckpointConflict { stream, stored });
        }
        let version = put.previous_version + 1;
        let value = record::encode(&StreamCheckpoint {
            ingestor: put.ingestor.clone(),
            checkpoint: put.checkpoint.clone(),
            filter: put.filter.clone(),
            reset_epoch: put.reset_epoch,
            version,
            epoch,
            at: self.clock.millis(),
        })?;
        let txn = Txn {
            when: vec![
                owned,
                modified(&stored.checkpoint_key, stored.checkpoint.as_ref()),
                modified(&stored.reset_key, stored.reset.as_ref()),
            ],
            then: vec![Op::Put { key: stored.checkpoint_key, value, lease: None }],
            otherwise: vec![],
        };
        Ok(self.kv.txn(txn).await?.succeeded.then_some(version))
    }

    /// Starts a stream over: writes one key, {reset epoch + 1, start}, after which checkpoints
    /// of earlier reset epochs neither count nor are accepted. Idempotent by the reset epoch it
    /// follows. Returns the new one.
    pub async fn reset_stream(
        &self,
        stream: &str,
        previous: u64,
        start: &StartPosition,
    ) -> Result<u64, Error> {
        self.budget.turn().await?;
        for tries in 1..=TRIES {
            let stored = self.read_stream(stream, None).await?.0;
            let state = stored.state;
            if state.reset_epoch == previous + 1 && state.start.as_ref() == Some(start) {
                return Ok(state.reset_epoch);
            }
            if state.reset_epoch != previous {
                let stored = Box::new(state);
                return Err(Error::CheckpointConflict { stream: stream.to_owned(), stored });
            }
            let reset = Reset { reset_epoch: previous + 1, start: start.clone() };
            let (key, value) = (stored.reset_key, record::encode(&reset)?);
            let txn = Txn {
                when: vec![modified(&key, stored.reset.as_ref())],
                then: vec![Op::Put { key, value, lease: None }],
                otherwise: vec![],
            };
            match self.kv.txn(txn).await.map_err(Error::from) {
                Ok(answer) if answer.succeeded => return Ok(previous + 1),
                Err(error) if !error.is_unknown() => return Err(error),
                _ => pause(tries).await,
            }
        }
        Err(Error::Contended(format!("the reset of {stream:?}")))
    }
}

/// What the two keys say together.
pub(crate) fn state_of(
    checkpoint: Option<&Entry>,
    reset: Option<&Entry>,
) -> Result<StreamState, Error> {
    let reset: Option<Reset> =
        reset.map(|entry| record::decode(&entry.key, &entry.value)).transpose()?;
    let checkpoint: Option<StreamCheckpoint> =
        checkpoint.map(|entry| record::decode(&entry.key, &entry.value)).transpose()?;
    let reset_epoch = reset.as_ref().map_or(0, |reset| reset.reset_epoch);
    Ok(StreamState {
        checkpoint: checkpoint.filter(|checkpoint| checkpoint.reset_epoch == reset_epoch),
        reset_epoch,
        start: reset.map(|reset| reset.start),
    })
}

fn check(ticket: &Ticket, put: &PutCheckpoint) -> Result<(), Error> {
    let own = ticket
        .lock
        .strip_prefix("stream/")
        .and_then(|name| name.strip_prefix(put.stream.as_str()))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if !own {
        let (lock, stream) = (&ticket.lock, &put.stream);
        return Err(Error::Invalid(format!("the lock {lock:?} does not guard stream {stream:?}")));
    }
    if put.filter.len() > MAX_FILTER {
        let len = put.filter.len();
        return Err(Error::Invalid(format!("a filter of {len} bytes; at most {MAX_FILTER}")));
    }
    Ok(())
}
