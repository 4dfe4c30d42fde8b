//! Whether the router still answers this owner.
//!
//! An owner that is cut off from the router alone keeps its lock: its coordinator hears from it.
//! So it has to judge itself. What counts is how long nothing came back while something was under
//! way: a refusal is an answer too, and an owner that has nothing to send waits for none.

use std::{error::Error as _, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_client::append::{Ack, AppendError, Open};
use sluice_frame::Frame;
use sluice_model::{Epoch, Generation, IngestorName, JournalId, Pointer};
use tokio::time::{Instant, sleep_until};

use crate::seam::{AckSource, FrameSink, Journals, Opened, StoredBlock};

/// True if the router said this, whatever it was; false if nothing of it arrived.
pub(crate) fn is_answer(error: &AppendError) -> bool {
    match error {
        // A status that was made here, of an error of the connection, has that as its source; one
        // that came over the connection has none.
        AppendError::Unknown(status) => status.source().is_none(),
        AppendError::Ended => false,
        _ => true,
    }
}

/// Since when the router owes an answer. Pure.
#[derive(Debug, Default)]
struct Silence {
    /// Calls, and frames that the connection has not taken yet.
    asked: usize,
    /// Blocks that the connection has taken and that are not acknowledged.
    blocks: usize,
    /// Of the last answer, or of the first thing under way since. Stays while attempts fail
    /// without an answer, so that they add up.
    since: Option<Instant>,
}

impl Silence {
    fn ask(&mut self, now: Instant) {
        self.asked += 1;
        self.since.get_or_insert(now);
    }

    /// What was asked is not waited for any more.
    fn give_up(&mut self) {
        self.asked = self.asked.saturating_sub(1);
    }

    /// The connection took a frame. It has room for some that the router never sees, so this
    /// means little once a whole block is under way; before, nothing else can be waited for.
    fn taken(&mut self, whole: bool) {
        self.blocks += usize::from(whole);
        if self.asked == 0 && self.blocks == 0 {
            self.since = None;
        }
    }

    /// An answer came.
    fn heard(&mut self, now: Instant) {
        self.since = (self.asked > 0 || self.blocks > 0).then_some(now);
    }

    fn acked(&mut self, now: Instant) {
        self.blocks = self.blocks.saturating_sub(1);
        self.heard(now);
    }

    /// How long an answer has been owed.
    fn lasts(&self, now: Instant) -> Option<Duration> {
        self.since.map(|since| now.saturating_duration_since(since))
    }
}

/// What an ingest loop knows of its router. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Contact(Arc<Mutex<Silence>>);

impl Contact {
    /// The journals, listened to. These must be the router's own: what is put in front of them
    /// may wait for others.
    pub fn around(&self, inner: Arc<dyn Journals>) -> Arc<dyn Journals> {
        Arc::new(Heard { contact: self.clone(), inner })
    }

    /// How long the router has owed an answer; `None` while nothing is under way.
    pub fn silence(&self) -> Option<Duration> {
        self.0.lock().lasts(Instant::now())
    }

    /// Resolves once the router has owed an answer for so long. Cancel safe.
    pub async fn silent(&self, limit: Duration) {
        loop {
            let silence = self.silence().unwrap_or_default();
            if silence >= limit {
                return;
            }
            // Whatever happens meanwhile, it is not over before.
            sleep_until(Instant::now() + (limit - silence)).await;
        }
    }

    /// Nothing is asked of the router for now; what it owed before counts no more.
    pub fn rest(&self) {
        self.0.lock().since = None;
    }

    async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, AppendError>>,
    ) -> Result<T, AppendError> {
        let asked = Asked::new(self);
        let answer = question.await;
        drop(asked);
        if answer.as_ref().err().is_none_or(is_answer) {
            self.0.lock().heard(Instant::now());
        }
        answer
    }
}

/// Something that is waited for until this is dropped.
struct Asked<'a>(&'a Contact);

impl<'a> Asked<'a> {
    fn new(contact: &'a Contact) -> Self {
        contact.0.lock().ask(Instant::now());
        Self(contact)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.0.lock().give_up();
    }
}

/// Journals that are listened to.
struct Heard {
    contact: Contact,
    inner: Arc<dyn Journals>,
}

#[async_trait]
impl Journals for Heard {
    async fn create(&self, ingestor: &IngestorName, id: JournalId) -> Result<(), AppendError> {
        self.contact.ask(self.inner.create(ingestor, id)).await
    }

    async fn open(&self, open: Open) -> Result<Opened, AppendError> {
        let Opened { frames, acks, head } = self.contact.ask(self.inner.open(open)).await?;
        let contact = self.contact.clone();
        let frames = Box::new(HeardFrames { contact: contact.clone(), inner: frames });
        Ok(Opened { frames, acks: Box::new(HeardAcks { contact, inner: acks }), head })
    }

    async fn fence(&self, ingestor: &IngestorName) -> Result<Epoch, AppendError> {
        self.contact.ask(self.inner.fence(ingestor)).await
    }

    async fn block(
        &self,
        ingestor: &IngestorName,
        pointer: &Pointer,
        newest: Option<Generation>,
    ) -> Result<Option<StoredBlock>, AppendError> {
        self.contact.ask(self.inner.block(ingestor, pointer, newest)).await
    }
}

struct HeardFrames {
    contact: Contact,
    inner: Box<dyn FrameSink>,
}

#[async_trait]
impl FrameSink for HeardFrames {
    async fn send(&mut self, frame: &Frame) -> Result<(), AppendError> {
        let asked = Asked::new(&self.contact);
        self.inner.send(frame).await?;
        drop(asked);
        self.contact.0.lock().taken(frame.header.end.is_some());
        Ok(())
    }
}

struct HeardAcks {
    contact: Contact,
    inner: Box<dyn AckSource>,
}

#[async_trait]
impl AckSource for HeardAcks {
    async fn next(&mut self) -> Result<Option<Ack>, AppendError> {
        let next = self.inner.next().await;
        let mut silence = self.contact.0.lock();
        match &next {
            Ok(Some(_)) => silence.acked(Instant::now()),
            Err(error) if !is_answer(error) => silence.blocks = 0,
            Ok(None) | Err(_) => {
                silence.blocks = 0;
                silence.heard(Instant::now());
            }
        }
        drop(silence);
        next
    }
}

impl Drop for HeardAcks {
    fn drop(&mut self) {
        self.contact.0.lock().blocks = 0;
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn what_the_router_says_is_an_answer_and_a_broken_connection_is_none() {
        let said = AppendError::from(Status::unavailable("stopping"));
        assert!(is_answer(&said) && is_answer(&AppendError::DiskFull("full".into())));
        let broken = Status::from_error(Box::new(std::io::Error::other("connection refused")));
        assert!(!is_answer(&AppendError::from(broken)));
        assert!(!is_answer(&AppendError::Ended));
    }

    #[test]
    fn silence_counts_from_the_last_answer_while_something_is_under_way() {
        let start = Instant::now();
        let mut silence = Silence::default();
        assert_eq!(silence.lasts(start + SEC * 100), None, "nothing is owed");
        for block_at in 0..2 {
            silence.ask(start + SEC * block_at);
            silence.give_up();
            silence.taken(true);
        }
        assert_eq!(silence.lasts(start + SEC * 9), Some(SEC * 9), "sending is no answer");
        silence.acked(start + SEC * 9);
        assert_eq!(silence.lasts(start + SEC * 10), Some(SEC), "one more block is under way");
        silence.acked(start + SEC * 10);
        assert_eq!(silence.lasts(start + SEC * 99), None);
    }

    #[test]
    fn tries_without_an_answer_add_up_and_a_refusal_ends_them() {
        let start = Instant::now();
        let mut silence = Silence::default();
        for try_at in 0..5 {
            silence.ask(start + SEC * try_at);
            silence.give_up();
        }
        assert_eq!(silence.lasts(start + SEC * 7), Some(SEC * 7));
        silence.ask(start + SEC * 7);
        silence.give_up();
        silence.heard(start + SEC * 8);
        assert_eq!(silence.lasts(start + SEC * 8), None);
    }

    #[test]
    fn a_large_block_is_measured_by_its_frames_until_it_is_whole() {
        let start = Instant::now();
        let mut silence = Silence::default();
        for frame in 0..20 {
            silence.ask(start + SEC * frame);
            silence.give_up();
            silence.taken(false);
        }
        assert_eq!(silence.lasts(start + SEC * 20), None, "the connection took them all");
        silence.ask(start + SEC * 20);
        assert_eq!(silence.lasts(start + SEC * 25), Some(SEC * 5), "and does not take this one");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_resolves_at_the_limit_and_not_for_an_idle_owner() {
        let contact = Contact::default();
        let waited = tokio::time::timeout(SEC * 100, contact.silent(SEC * 3)).await;
        assert!(waited.is_err(), "nothing is under way");
        let begun = Instant::now();
        let asked = Asked::new(&contact);
        contact.silent(SEC * 3).await;
        assert_eq!(begun.elapsed().as_secs(), 3);
        drop(asked);
        contact.rest();
        assert_eq!(contact.silence(), None);
    }
}
