//! Taking segments into use and out of it.

use std::sync::Arc;

use super::{Core, Writing};
use crate::{
    error::{At, Fault},
    files::{File, put},
    index::{SegIndex, codec::Subject},
    recovery::Meta,
    segment::{RECORDS, RESERVE, SegmentHeader},
    shared::Active,
};

/// Incarnations that are reserved with one write of the control record.
const INCARNATIONS: u64 = 64;

impl Core {
    /// Makes sure that a record of this length fits the current segment; takes the next one into
    /// use if not. Everything written must be durable. Leaves all as it is when there is no room,
    /// so that what is reserved in the old segment stays usable.
    pub(super) fn make_room(&mut self, len: u64) -> Result<(), Fault> {
        if self.poisoned.is_some() || self.fits(len) {
            return Ok(());
        }
        let incarnation = self.incarnation()?;
        let number = self.control.newest.max(self.newest()) + 1;
        let header = SegmentHeader {
            id: self.log.id,
            number,
            incarnation,
            previous_len: self.previous_len(),
            base: self.assembler.head.clone(),
            open: self.assembler.open(),
        };
        let size = RECORDS + self.log.options.segment_bytes.max(len) + RESERVE;
        let (file, file_len) = self.take_into_use(&header, size)?;
        self.record_newest(number)?;
        self.seal();
        self.begin(Writing {
            number,
            incarnation,
            file,
            path: self.log.dir.segment(number),
            len: RECORDS,
            durable: RECORDS,
            marked: RECORDS,
            file_len,
            fills: Vec::new(),
            spoiled: false,
        });
        Ok(())
    }

    fn newest(&self) -> u32 {
        let state = self.log.state.read();
        let sealed = state.sealed.back().map_or(0, |meta| meta.number);
        state.active.as_ref().map_or(sealed, |active| active.index.number)
    }

    /// Bytes of the segment before that count.
    fn previous_len(&self) -> u64 {
        if let Some(segment) = &self.segment {
            return segment.durable;
        }
        let state = self.log.state.read();
        state.sealed.back().map_or(0, |meta| meta.len)
    }

    fn incarnation(&mut self) -> Result<u64, Fault> {
        let reserved = self.control.incarnations;
        if self.next_incarnation >= reserved {
            self.control.incarnations = self.next_incarnation + INCARNATIONS;
            let recorded = self.control_file.write(&self.control);
            // What is not durably reserved could be given again.
            recorded.inspect_err(|_| self.control.incarnations = reserved)?;
        }
        self.next_incarnation += 1;
        Ok(self.next_incarnation - 1)
    }

    /// A file with this header, durably under its name. Overwrites a spare one if there is one.
    fn take_into_use(
        &self,
        header: &SegmentHeader,
        size: u64,
    ) -> Result<(Arc<dyn File>, u64), Fault> {
        let (files, dir) = (&self.log.files, &self.log.dir);
        let path = dir.spare();
        let spare = files.open(&path).ok().and_then(|file| Some((file.len().ok()?, file)));
        let (path, file, len) = match spare.filter(|(len, _)| *len >= size) {
            Some((len, file)) => (path, file, len),
            None => {
                let path = dir.next();
                files.remove(&path).ok();
                let file = files.create(&path).at("create", &path)?;
                if let Err(fault) = file.allocate(size).at("allocate", &path) {
                    files.remove(&path).ok();
                    return Err(fault);
                }
                (path, file, size)
            }
        };
        dir.publish(files.as_ref(), (&path, file.as_ref()), header.number, &header.encode())?;
        Ok((file, len))
    }

    /// Names the next segment in the control record: after its name is durable and before it
    /// holds a record, so that recovery knows which names to rely on.
    fn record_newest(&mut self, number: u32) -> Result<(), Fault> {
        let (newest, durable, sealed) =
            (self.control.newest, self.control.durable, self.control.sealed);
        (self.control.newest, self.control.durable, self.control.sealed) = (number, RECORDS, false);
        let recorded = self.record_head_now();
        recorded.inspect_err(|fault| {
            (self.control.newest, self.control.durable, self.control.sealed) =
                (newest, durable, sealed);
            // The old segment may not grow any more, also if it is only room that is missing: if
            // the record is there after all, the new segment says where the old one ends.
            self.poison(fault.to_string());
        })
    }

    fn begin(&mut self, segment: Writing) {
        let index = SegIndex::new(segment.number, self.assembler.head.clone());
        self.log.state.write().active = Some(Active {
            incarnation: segment.incarnation,
            len: segment.len,
            file_len: segment.file_len,
            index,
        });
        self.segment = Some(segment);
        if self.log.options.prepare_spares {
            let size = RECORDS + self.log.options.segment_bytes + RESERVE;
            self.spare.prepare(&self.log.files, &self.log.dir, size);
        }
    }

    /// Closes the current segment for records, at its durable length.
    pub(super) fn seal(&mut self) {
        let Some(mut segment) = self.segment.take() else { return };
        if self.poisoned.is_none() {
            segment.fill();
        }
        let (number, len) = (segment.number, segment.durable);
        let spoiled = segment.spoiled || self.poisoned.is_some();
        let incarnation = segment.incarnation;
        let aborted = std::mem::take(&mut self.assembler.aborted);
        self.control.aborted_parts += aborted;
        let subject = Subject { id: self.log.id, number, incarnation, len };
        let encoded = {
            let mut state = self.log.state.write();
            let Some(active) = &mut state.active else { return };
            active.index.summary.aborted_parts = aborted;
            active.index.encode(&subject)
        };
        let path = self.log.dir.index(number);
        if let Err(error) = put(self.log.files.as_ref(), &path, &encoded) {
            // It only repeats what the segment says.
            tracing::warn!(file = %path.display(), %error, "the side index was not written");
        }
        // In one step, so that no reader finds the segment missing.
        let mut state = self.log.state.write();
        let Some(Active { file_len, index, .. }) = state.active.take() else { return };
        let summary = index.summary.clone();
        let meta = Meta { number, incarnation, len, file_len, spoiled, summary };
        self.log.indexes.lock().insert(self.log.key, Arc::new(index));
        state.sealed.push_back(Arc::new(meta));
    }
}
