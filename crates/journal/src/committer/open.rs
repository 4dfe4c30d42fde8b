use std::sync::{Arc, atomic::Ordering};

use sluice_frame::{Header, Record};
use sluice_model::{Head, Kind};
use tokio::sync::oneshot;

use super::{Core, expected, now};
use crate::{
    JournalError, Open,
    codec::visible,
    error::{At, Fault},
    files::write_all,
    record::{Place, Prepared},
};

/// An open to do.
#[derive(Debug)]
pub(crate) struct OpenJob {
    pub(crate) open: Open,
    pub(crate) reply: oneshot::Sender<Result<Granted, JournalError>>,
}

/// A granted open.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) writer: u32,
    /// The head as the writer continues it.
    pub(crate) head: Head,
}

impl Core {
    pub(super) fn open(&mut self, job: OpenJob) {
        let result = self.grant(&job.open);
        job.reply.send(result).ok();
    }

    /// Fences every earlier writer durably, then lets the new one begin.
    fn grant(&mut self, open: &Open) -> Result<Granted, JournalError> {
        if open.epoch < self.control.fence {
            return Err(JournalError::Fenced { fence: self.control.fence });
        }
        self.sync();
        self.fence(open);
        self.control_file.write_twice(&self.control)?;
        self.assembler.abort();
        self.forget_cached();
        self.expected = expected(&self.assembler.head);
        let failed = self.poisoned.take();
        if let Err(fault) = self.record_open(open) {
            if fault.is_full() && self.poisoned.is_none() {
                self.poisoned = failed;
            } else {
                self.poison(fault.to_string());
            }
            return Err(fault.into());
        }
        let mut state = self.log.state.write();
        state.poisoned = None;
        state.append_refused = None;
        state.aborted_parts = self.control.aborted_parts + self.assembler.aborted;
        drop(state);
        self.writer = self.control.writer;
        self.log.writer.store(self.writer, Ordering::Release);
        tracing::info!(
            ingestor = %self.log.ingestor, epoch = %open.epoch, writer = self.writer,
            holder = open.holder, head = ?visible(&self.assembler.head), "journal opened",
        );
        Ok(Granted { writer: self.writer, head: self.assembler.head.clone() })
    }

    /// From here on no earlier writer appends, whether or not the rest succeeds.
    fn fence(&mut self, open: &Open) {
        self.writer = 0;
        self.log.writer.store(0, Ordering::Release);
        self.control.fence = open.epoch;
        self.control.writer += 1;
        self.control.nonce = open.nonce.clone();
        self.control.holder.clone_from(&open.holder);
        if let Some(segment) = &self.segment {
            self.control.newest = segment.number;
            self.control.durable = segment.durable;
        }
        self.control.head = self.assembler.head.clone();
        let mut state = self.log.state.write();
        state.fence = open.epoch;
        state.holder.clone_from(&open.holder);
    }

    /// Writes the record of the open, into the room that is reserved for it if need be.
    fn record_open(&mut self, open: &Open) -> Result<(), Fault> {
        let head = &self.assembler.head;
        let mut header =
            Header::new(Kind::Epoch, self.log.ingestor.clone(), head.pointer.clone(), head.height);
        header.generation = head.generation;
        header.parent = head.pointer.clone();
        header.epoch = open.epoch;
        header.record = Some(Record::EpochStart {
            writer_id: u64::from(self.control.writer),
            nonce: open.nonce.clone(),
            holder: open.holder.clone(),
        });
        let mut part = Prepared::new(&header, bytes::Bytes::new(), crc32c::crc32c(&[]));
        part.last = true;
        let reserved =
            |core: &Self| core.segment.as_ref().is_some_and(|s| s.len + part.len() <= s.file_len);
        if let Err(fault) = self.make_room(part.len())
            && !(fault.is_full() && reserved(self))
        {
            return Err(fault);
        }
        self.write_alone(&part)
    }

    fn write_alone(&mut self, part: &Prepared) -> Result<(), Fault> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        let place = Place {
            incarnation: segment.incarnation,
            offset: segment.len,
            durable: segment.durable,
            writer: self.control.writer,
            appended: now(),
        };
        let mut bytes = part.head(&place).encode(self.log.seed).to_vec();
        bytes.extend_from_slice(&part.header);
        bytes.resize(usize::try_from(part.len()).unwrap_or(bytes.len()), 0);
        let path = self.log.dir.segment(segment.number);
        let file = Arc::clone(&segment.file);
        write_all(file.as_ref(), &bytes, segment.len).at("write", &path)?;
        file.sync().at("sync", &path)?;
        segment.len += part.len();
        segment.durable = segment.len;
        if let Some(active) = &mut self.log.state.write().active {
            active.len = segment.len;
        }
        Ok(())
    }
}
