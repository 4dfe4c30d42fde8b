//! Blocks that the journal may already have.

use std::sync::{Arc, atomic::Ordering};

use sluice_frame::{BlockEnd, Header, Record};
use sluice_model::{Digest, Position};

use super::{EmbeddedWriter, invalid};
use crate::{
    AppendError, ReadError, Receipt,
    index::{Entry, EntryKind},
};

impl EmbeddedWriter {
    /// Compares a re-sent block with the stored one. The stored one wins.
    pub(super) async fn compare(&mut self, header: Header) -> Result<Receipt, AppendError> {
        self.wait_for(&header).await?;
        let log = Arc::clone(&self.log);
        let compared = tokio::task::spawn_blocking(move || {
            let found = match find(&log, &header)? {
                Found::Entry(entry) => (same(log.header_of(&entry)?.as_ref(), &header)?, false),
                Found::Passed => (Digest::ZERO, true),
                Found::Nothing(head) => {
                    return Err(AppendError::Behind { pointer: header.pointer, head });
                }
            };
            Ok((found, header))
        });
        let ((digest, unverifiable), header) =
            compared.await.unwrap_or(Err(AppendError::Closed))?;
        Ok(Receipt {
            generation: header.generation,
            pointer: header.pointer,
            digest,
            durability: self.log.durability(),
            duplicate: true,
            unverifiable,
        })
    }

    /// Checks that the base of a new history is a block of the journal, as far as it is retained.
    pub(super) fn check_base(&self, header: &Header) -> Result<(), AppendError> {
        let Some(Record::GenerationStart { base_generation, base_pointer, base_digest, .. }) =
            &header.record
        else {
            return Err(invalid(header, "the record is not of the header's kind"));
        };
        let place = (*base_generation, base_pointer);
        let (oldest, segment) = {
            let state = self.log.state.read();
            let segment = crate::reader::locate(&state, *base_generation, base_pointer);
            (state.oldest(), segment)
        };
        let expected = if place == (self.head.generation, &self.head.pointer) {
            self.head.digest
        } else if place == (oldest.generation, &oldest.pointer) {
            oldest.digest
        } else if place < (oldest.generation, &oldest.pointer) {
            // Retention has passed it: nobody can tell.
            return Ok(());
        } else {
            let found = self.log.with_index(segment, |index| {
                let at = index.lower_bound(*base_generation, base_pointer);
                let entries = index.entries.iter().skip(at).take_while(|e| e.place() == place);
                entries.filter(|entry| entry.last).last().map(|entry| entry.digest)
            })?;
            found.flatten().ok_or_else(|| invalid(header, "its base is not in the journal"))?
        };
        if expected == *base_digest {
            return Ok(());
        }
        Err(AppendError::WrongDigest {
            pointer: base_pointer.clone(),
            what: "base digest",
            expected,
            got: *base_digest,
        })
    }

    /// Waits while the block is still being written by this writer.
    async fn wait_for(&mut self, header: &Header) -> Result<(), AppendError> {
        let mut tick = self.log.tick.subscribe();
        let place = (header.generation, header.pointer.clone());
        loop {
            let reset = self.log.resets.load(Ordering::Acquire) != self.resets;
            self.check_alive()?;
            let head = self.log.state.read().head.clone();
            if reset || place <= (head.generation, head.pointer) {
                return Ok(());
            }
            tokio::select! {
                changed = tick.changed() => changed.map_err(|_| AppendError::Closed)?,
                // Poison and refusals are not announced to readers.
                () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
            }
        }
    }
}

enum Found {
    /// The block's last part.
    Entry(Entry),
    /// Retention has passed the place.
    Passed,
    /// The journal reaches further, but never had it.
    Nothing(Position),
}

fn find(log: &crate::shared::Log, header: &Header) -> Result<Found, ReadError> {
    let place = (header.generation, &header.pointer);
    let (oldest, head, segment) = {
        let state = log.state.read();
        let segment = crate::reader::locate(&state, header.generation, &header.pointer);
        (state.oldest(), state.head.clone(), segment)
    };
    if place <= (oldest.generation, &oldest.pointer) {
        return Ok(Found::Passed);
    }
    let wanted = match header.kind {
        sluice_model::Kind::Gap => EntryKind::Gap,
        sluice_model::Kind::Generation => EntryKind::Generation,
        _ => EntryKind::Block,
    };
    let found = log.with_index(segment, |index| {
        let at = index.lower_bound(header.generation, &header.pointer);
        let of_block = index.entries.iter().skip(at).take_while(|entry| entry.place() == place);
        of_block.filter(|entry| entry.kind == wanted && entry.last).last().cloned()
    })?;
    Ok(found.flatten().map_or_else(|| Found::Nothing(head.position()), Found::Entry))
}

/// The stored digest if both say the same of every store.
fn same(stored: &Header, sent: &Header) -> Result<Digest, AppendError> {
    let empty = BlockEnd::default();
    let (ours, theirs) =
        (stored.end.as_ref().unwrap_or(&empty), sent.end.as_ref().unwrap_or(&empty));
    let divergent = |store: Option<&str>| AppendError::Divergent {
        pointer: sent.pointer.clone(),
        store: store.map(str::to_owned),
    };
    for state in &ours.states {
        let other = theirs.states.iter().find(|other| other.store == state.store);
        if other.is_none_or(|other| other.digest != state.digest) {
            return Err(divergent(Some(&state.store)));
        }
    }
    if let Some(extra) =
        theirs.states.iter().find(|s| !ours.states.iter().any(|o| o.store == s.store))
    {
        return Err(divergent(Some(&extra.store)));
    }
    let control = stored.record != sent.record;
    // A sender that begins here does not know the parent; the digests tell all the same.
    let parent = sent.parent.is_origin() || stored.parent == sent.parent;
    if !parent || stored.height != sent.height || control {
        return Err(divergent(None));
    }
    Ok(ours.digest)
}
