use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64},
    },
    thread,
};

use parking_lot::{Mutex, RwLock};
use sluice_model::{Epoch, IngestorName, JournalId};
use tokio::sync::{Semaphore, watch};

use super::{Embedded, Options};
use crate::{
    JournalError,
    assembler::Assembler,
    codec::origin,
    committer::{Core, Queue, Recovered},
    control::{Control, ControlFile},
    error::{At, Fault},
    files::{Files, Lock},
    record::seed,
    recovery::{Loaded, Loader},
    segment::Dir,
    shared::{Active, Log, State},
    tail::{IndexCache, Tail},
};

/// Everything that making or loading one journal needs.
pub(super) struct Preparation {
    ingestor: IngestorName,
    parent: std::path::PathBuf,
    dir: Dir,
    files: Arc<dyn Files>,
    options: Arc<Options>,
    indexes: Arc<Mutex<IndexCache>>,
    lock: Arc<dyn Lock>,
}

impl Embedded {
    pub(super) fn preparation(&self, ingestor: &IngestorName) -> Result<Preparation, JournalError> {
        let lock = self.lock.lock().clone().ok_or(JournalError::Closed)?;
        Ok(Preparation {
            ingestor: ingestor.clone(),
            parent: self.dir.clone(),
            dir: Dir(self.dir.join(ingestor.encoded()).into()),
            files: Arc::clone(&self.files),
            options: Arc::clone(&self.options),
            indexes: Arc::clone(&self.indexes),
            lock,
        })
    }

    pub(super) fn load_all(&self) -> Result<(), JournalError> {
        for name in self.files.list(&self.dir).at("list", &self.dir)? {
            let Some(ingestor) = decode(&name) else { continue };
            let loaded = match self.preparation(&ingestor)?.load() {
                Ok(None) => continue,
                Ok(Some(log)) => Ok(log),
                Err(error) => {
                    tracing::error!(%ingestor, %error, "the journal cannot be used");
                    Err(error)
                }
            };
            self.logs.write().insert(ingestor, loaded);
        }
        Ok(())
    }
}

/// The ingestor of a directory's name; `None` for what is not ours.
fn decode(name: &str) -> Option<IngestorName> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = tail;
    }
    let ingestor: IngestorName = String::from_utf8(bytes).ok()?.parse().ok()?;
    (ingestor.encoded() == name).then_some(ingestor)
}

impl Preparation {
    /// Makes the journal durably: its directory, its name, its control record.
    pub(super) fn create(self, id: JournalId) -> Result<Arc<Log>, JournalError> {
        self.files.create_dir(&self.dir.0).at("create", &self.dir.0)?;
        self.files.sync_dir(&self.parent).at("sync", &self.parent)?;
        let control = Control {
            id,
            ingestor: self.ingestor.clone(),
            fence: Epoch::ZERO,
            writer: 0,
            nonce: bytes::Bytes::new(),
            holder: String::new(),
            incarnations: 1,
            oldest: 0,
            newest: 0,
            durable: 0,
            sealed: false,
            head: origin(),
            aborted_parts: 0,
            cut_bytes: 0,
        };
        let path = self.dir.control();
        let control_file = ControlFile::create(Arc::clone(&self.files), &path, &control)?;
        let log = self.log(&control, VecDeque::new(), None, &Assembler::new(origin()));
        let recovered =
            Recovered { control, control_file, assembler: Assembler::new(origin()), newest: None };
        start(log, recovered, self.lock)
    }

    /// Loads the journal; `None` if the directory holds none.
    pub(super) fn load(self) -> Result<Option<Arc<Log>>, JournalError> {
        let loader = Loader { files: &self.files, dir: &self.dir };
        let Some(loaded) = loader.load()? else { return Ok(None) };
        let Loaded { mut control, control_file, sealed, newest, replay } = loaded;
        control.ingestor = self.ingestor.clone();
        let (active, newest) = match newest {
            Some(newest) => {
                let active = Active {
                    incarnation: newest.incarnation,
                    len: newest.len,
                    file_len: newest.file_len,
                    index: newest.index,
                };
                let number = active.index.number;
                (Some(active), Some((number, newest.file, newest.len)))
            }
            None => (None, None),
        };
        let log = self.log(&control, sealed, active, &replay.assembler);
        remember_damage(&log)?;
        let recovered = Recovered { control, control_file, assembler: replay.assembler, newest };
        start(log, recovered, self.lock).map(Some)
    }

    fn log(
        &self,
        control: &Control,
        sealed: VecDeque<Arc<crate::recovery::Meta>>,
        active: Option<Active>,
        assembler: &Assembler,
    ) -> Arc<Log> {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let unknown: u64 = sealed.iter().map(|meta| meta.summary.unknown_records).sum();
        let unknown = unknown + active.as_ref().map_or(0, |a| a.index.summary.unknown_records);
        let state = State {
            sealed,
            active,
            head: assembler.head.clone(),
            fence: control.fence,
            holder: control.holder.clone(),
            append_refused: None,
            poisoned: None,
            aborted_parts: control.aborted_parts + assembler.aborted,
            cut_bytes: control.cut_bytes,
            unknown_records: unknown,
            quarantined: 0,
            corruptions: VecDeque::new(),
        };
        Arc::new(Log {
            ingestor: self.ingestor.clone(),
            id: control.id,
            seed: seed(control.id),
            key: KEYS.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            dir: self.dir.clone(),
            files: Arc::clone(&self.files),
            options: Arc::clone(&self.options),
            state: RwLock::new(state),
            tail: Mutex::new(Tail::new(self.options.tail_cache_bytes)),
            indexes: Arc::clone(&self.indexes),
            tick: watch::Sender::new(0),
            queue: Queue::default(),
            core: OnceLock::new(),
            room: Arc::new(Semaphore::new(self.options.queue_room() as usize)),
            writer: AtomicU32::new(0),
            resets: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            disk_reads: AtomicU64::new(0),
            readers: AtomicU64::new(0),
        })
    }
}

/// Takes the damage that the indexes know into the status.
fn remember_damage(log: &Log) -> Result<(), JournalError> {
    let numbers: Vec<u32> = {
        let state = log.state.read();
        let sealed = state.sealed.iter().filter(|meta| meta.summary.corruptions > 0);
        sealed.map(|meta| meta.number).chain(state.active.iter().map(|a| a.index.number)).collect()
    };
    for number in numbers {
        let found = log.with_index(number, |index| index.corruptions.clone());
        let found = found.map_err(|error| JournalError::Invalid(error.to_string()))?;
        for corruption in found.into_iter().flatten() {
            tracing::error!(ingestor = %log.ingestor, %corruption, "quarantined");
            log.state.write().quarantine(corruption);
        }
    }
    Ok(())
}

fn start(
    log: Arc<Log>,
    recovered: Recovered,
    lock: Arc<dyn Lock>,
) -> Result<Arc<Log>, JournalError> {
    let core = Arc::new(Mutex::new(Core::new(Arc::clone(&log), recovered)));
    let known = log.core.set(Arc::downgrade(&core));
    debug_assert!(known.is_ok(), "a log is started once");
    let name = "journal-commit".to_owned();
    let of = Arc::clone(&log);
    let work = move || {
        let reply = Core::run(&core, &of);
        drop((core, of, lock));
        // Whoever closes may have stopped waiting.
        reply.send(()).ok();
    };
    let spawned = thread::Builder::new().name(name).spawn(work);
    spawned.map_err(|source| {
        let (action, file) = ("start the committer of", log.dir.0.to_path_buf());
        JournalError::from(Fault { action, file, source: Arc::new(source) })
    })?;
    Ok(log)
}
