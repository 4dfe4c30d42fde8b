//! The control record: what must survive although no segment holds it any more. Who may write
//! above all.
//!
//! One file with two slots that are overwritten in turn; the valid one with the higher version
//! counts. Overwriting needs no room, so a journal on a full disk can be fenced.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use sluice_model::{Epoch, Head, IngestorName, JournalId};

use crate::{
    JournalError,
    codec::{Get, OTHER_VERSION, Put, unseal},
    error::{At, Fault},
    files::{File, Files, put, read_up_to, replace, write_all},
};

const MAGIC: u64 = u64::from_le_bytes(*b"SLCTRL02");
/// The same without records of version 2 in the segments.
const MAGIC_1: u64 = u64::from_le_bytes(*b"SLCTRL01");
const SLOT: usize = 4096;

/// The content of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) id: JournalId,
    pub(crate) ingestor: IngestorName,
    /// No lower epoch opens.
    pub(crate) fence: Epoch,
    /// The last writer.
    pub(crate) writer: u32,
    pub(crate) nonce: Bytes,
    pub(crate) holder: String,
    /// Incarnations below this may be in use.
    pub(crate) incarnations: u64,
    /// Segments below this are retired, whether or not their files are still there.
    pub(crate) oldest: u32,
    /// Number of the newest segment; 0 before the first.
    pub(crate) newest: u32,
    /// What of the newest segment is known to be durable.
    pub(crate) durable: u64,
    /// The newest segment takes no more records: it failed, or its tail is bad.
    pub(crate) sealed: bool,
    /// The head when the record was written. The journal may be ahead, never behind.
    pub(crate) head: Head,
    pub(crate) aborted_parts: u64,
    pub(crate) cut_bytes: u64,
}

impl Control {
    fn encode(&self, version: u64) -> Vec<u8> {
        let mut fields = Put::default();
        fields.u64(version).raw(self.id.as_bytes()).bytes(self.ingestor.as_str().as_bytes());
        fields.u64(self.fence.as_u64()).u32(self.writer).bytes(&self.nonce);
        fields.bytes(self.holder.as_bytes()).u64(self.incarnations);
        fields.u32(self.oldest).u32(self.newest);
        fields.u64(self.durable).u8(u8::from(self.sealed)).head(&self.head);
        fields.u64(self.aborted_parts).u64(self.cut_bytes);
        let mut slot = fields.seal(MAGIC);
        slot.resize(SLOT, 0);
        slot
    }

    fn parse(slot: &[u8]) -> Result<(u64, Self), &'static str> {
        let payload = unseal(MAGIC, slot);
        let mut fields = Get(payload.or_else(|reason| unseal(MAGIC_1, slot).map_err(|_| reason))?);
        Self::fields(&mut fields).ok_or("its fields are not those of a control record")
    }

    fn fields(fields: &mut Get<'_>) -> Option<(u64, Self)> {
        let version = fields.u64()?;
        let control = Self {
            id: JournalId::try_from(fields.raw(16)?).ok()?,
            ingestor: fields.text()?.parse().ok()?,
            fence: Epoch::from_u64(fields.u64()?),
            writer: fields.u32()?,
            nonce: Bytes::copy_from_slice(fields.bytes()?),
            holder: fields.text()?,
            incarnations: fields.u64()?,
            oldest: fields.u32()?,
            newest: fields.u32()?,
            durable: fields.u64()?,
            sealed: fields.u8()? != 0,
            head: fields.head()?,
            aborted_parts: fields.u64()?,
            cut_bytes: fields.u64()?,
        };
        Some((version, control))
    }
}

/// Keeps the record in its file.
#[derive(Debug)]
pub(crate) struct ControlFile {
    files: Arc<dyn Files>,
    path: Box<Path>,
    /// `None` after a failed write: then the whole file is replaced, because nobody knows what
    /// the old one holds.
    file: Option<Arc<dyn File>>,
    version: u64,
}

/// Why there is no control record.
#[derive(Debug)]
pub(crate) enum NoControl {
    Missing,
    Damaged(&'static str),
    Io(Fault),
}

impl NoControl {
    /// What to tell of the file at `path`.
    pub(crate) fn error(self, path: &Path) -> JournalError {
        let reason = match self {
            Self::Io(fault) => return fault.into(),
            Self::Missing => "the control record is missing; restore it from a copy".to_owned(),
            Self::Damaged(OTHER_VERSION) => {
                format!(
                    "the control record cannot be read: {OTHER_VERSION}; use the one that wrote it"
                )
            }
            Self::Damaged(reason) => {
                format!("the control record cannot be read: {reason}; restore it from a copy")
            }
        };
        JournalError::NoFenceState { file: path.to_owned(), reason }
    }
}

impl ControlFile {
    /// Makes the file durably, with a first record.
    pub(crate) fn create(
        files: Arc<dyn Files>,
        path: &Path,
        control: &Control,
    ) -> Result<Self, Fault> {
        let mut this = Self { files, path: path.into(), file: None, version: 0 };
        this.write(control)?;
        Ok(this)
    }

    /// Reads the newest valid record.
    pub(crate) fn load(files: Arc<dyn Files>, path: &Path) -> Result<(Self, Control), NoControl> {
        let file = match files.open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(NoControl::Missing);
            }
            other => other.at("open", path).map_err(NoControl::Io)?,
        };
        let bytes = read_up_to(file.as_ref(), 0, 2 * SLOT).at("read", path);
        let bytes = bytes.map_err(NoControl::Io)?;
        let slots = [0, SLOT].map(|at| bytes.get(at..).unwrap_or_default());
        let newest =
            slots.into_iter().map(Control::parse).reduce(|one, other| match (one, other) {
                (Ok(one), Ok(other)) => Ok(if one.0 >= other.0 { one } else { other }),
                (Ok(good), Err(_)) | (Err(_), Ok(good)) => Ok(good),
                (Err(reason), Err(_)) => Err(reason),
            });
        match newest {
            Some(Ok((version, control))) => {
                Ok((Self { files, path: path.into(), file: Some(file), version }, control))
            }
            Some(Err(reason)) => Err(NoControl::Damaged(reason)),
            None => Err(NoControl::Damaged("it is empty")),
        }
    }

    /// Makes the record that was read certain to be on the disk. The process that wrote it may
    /// have ended before it was, or been told that it is not, and the slot that is overwritten
    /// next may be the only one that is. A new file relies neither on the old one nor on its
    /// name; if there is no room for one, the same bytes are written once more in their place.
    pub(crate) fn settle(&mut self, control: &Control) -> Result<(), Fault> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let slot = control.encode(self.version);
        match put(self.files.as_ref(), &self.path, &twice(&slot)).at("replace", &self.path) {
            Ok(()) => self.file = Some(self.files.open(&self.path).at("open", &self.path)?),
            Err(fault) if fault.is_full() => self.overwrite(file, &slot)?,
            Err(fault) => return Err(fault),
        }
        let dir = self.path.parent().unwrap_or(Path::new("."));
        self.files.sync_dir(dir).at("sync", dir)
    }

    /// The same in both slots, for what may not be forgotten with one of them: the fence.
    pub(crate) fn write_twice(&mut self, control: &Control) -> Result<(), Fault> {
        self.write(control)?;
        self.write(control)
    }

    /// Makes a new record durable. After an error the old or the new one is there.
    pub(crate) fn write(&mut self, control: &Control) -> Result<(), Fault> {
        self.version += 1;
        let slot = control.encode(self.version);
        let Some(file) = self.file.take() else {
            replace(self.files.as_ref(), &self.path, &twice(&slot)).at("replace", &self.path)?;
            self.file = Some(self.files.open(&self.path).at("open", &self.path)?);
            return Ok(());
        };
        self.overwrite(file, &slot)
    }

    /// Writes the slot of the version and keeps the file if that is durable.
    fn overwrite(&mut self, file: Arc<dyn File>, slot: &[u8]) -> Result<(), Fault> {
        write_all(file.as_ref(), slot, self.version % 2 * SLOT as u64).at("write", &self.path)?;
        file.sync().at("sync", &self.path)?;
        self.file = Some(file);
        Ok(())
    }
}

/// Both slots, so that the file has its final length.
fn twice(slot: &[u8]) -> Vec<u8> {
    [slot, slot].concat()
}
