//! The adapter between the stream runtime and the files.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_model::{Checkpoint, event::Encoding};
use sluice_sink::{
    Batch, BatchShape, ConfigError, DeliverError, Dispatcher, DispatcherFactory, MarkKind, Receipt,
    SinkConfig, StreamConfig,
};
use tracing::warn;

use crate::{
    config::{FileOptions, Format, RootOptions, TYPE_NAME},
    cosmos::{Cosmos, CosmosWriter},
    engine::{Engine, Identity},
    error::FileError,
    files::Files,
    jsonl::{self, Jsonl},
    layer::{Disk, Layer},
    metrics::Metrics,
    names,
    volume::{Volume, VolumeError},
    writer::Writer,
};

/// Batches of files are at least this large, in bytes of changes: every batch writes the newest
/// rows of its range anew.
const MIN_BATCH: usize = 8 << 20;

/// Makes the dispatchers of `type = "file"`. Holds the volumes of its sinks, which are opened
/// once, when the factory is made.
#[derive(Debug)]
pub struct FileFactory {
    volumes: BTreeMap<PathBuf, Arc<Volume>>,
    metrics: Arc<Metrics>,
}

/// Why a factory cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FactoryError {
    /// A sink's table is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A sink's root cannot be used.
    #[error("sinks.{sink}.root: {source}")]
    Volume {
        /// The sink.
        sink: String,
        /// Why.
        source: VolumeError,
    },
}

impl FileFactory {
    /// Opens the roots of these sinks. Sinks that share a root share its volume. Blocks on the
    /// file system.
    pub fn open<'a>(sinks: impl IntoIterator<Item = &'a SinkConfig>) -> Result<Self, FactoryError> {
        let mut volumes: BTreeMap<PathBuf, Arc<Volume>> = BTreeMap::new();
        for sink in sinks.into_iter().filter(|sink| sink.type_name == TYPE_NAME) {
            let options = RootOptions::read(sink)?;
            if volumes.contains_key(&options.root) {
                continue;
            }
            let volume = Volume::open(&options.root, options.volume.as_deref())
                .map_err(|source| FactoryError::Volume { sink: sink.name.clone(), source })?;
            volumes.insert(options.root, Arc::new(volume));
        }
        Ok(Self { volumes, metrics: Arc::new(Metrics::new()) })
    }

    fn volume(&self, sink: &SinkConfig) -> Result<&Arc<Volume>, ConfigError> {
        let root = RootOptions::read(sink)?.root;
        self.volumes.get(&root).ok_or_else(|| {
            let key = format!("{}.root", sink.path());
            ConfigError::new(key, format!("{} was not opened at the start", root.display()))
        })
    }
}

impl DispatcherFactory for FileFactory {
    fn type_name(&self) -> &'static str {
        TYPE_NAME
    }

    /// Contains the volume's id: a replica without that volume never owns the stream.
    fn lock_name(&self, stream: &StreamConfig, sink: &SinkConfig) -> Result<String, ConfigError> {
        Ok(format!("stream/{}/{}", stream.name, self.volume(sink)?.id()))
    }

    fn shape(&self, stream: &StreamConfig) -> Result<BatchShape, ConfigError> {
        FileOptions::read(stream)?;
        Ok(BatchShape::Blocks { bytes: stream.batch.bytes.max(MIN_BATCH), wait: stream.batch.wait })
    }

    fn wants_metadata(&self, stream: &StreamConfig) -> bool {
        FileOptions::read(stream)
            .is_ok_and(|options| options.format == Format::Cosmos && options.output_metadata)
    }

    fn destination(&self, stream: &StreamConfig, sink: &SinkConfig) -> String {
        let place = RootOptions::read(sink).and_then(|root| {
            let options = FileOptions::read(stream)?;
            Ok(directory(&root.root, &stream.name, &options, &stream.filter.hash()))
        });
        place.map_or_else(|error| error.to_string(), |dir| dir.display().to_string())
    }

    fn build(
        &self,
        stream: &StreamConfig,
        sink: &SinkConfig,
    ) -> Result<Box<dyn Dispatcher>, ConfigError> {
        let options = FileOptions::read(stream)?;
        let volume = Arc::clone(self.volume(sink)?);
        let target = Target {
            layer: Arc::new(Disk),
            root: volume.root().to_owned(),
            stream: stream.name.clone(),
            ingestor: stream.ingestor.to_string(),
            filter: stream.filter.hash(),
            encoding: stream.encoding,
        };
        Ok(Box::new(FileDispatcher {
            writer: Arc::new(Mutex::new(writer(&options, target))),
            volume,
            stream: Arc::from(stream.name.as_str()),
            stop_on_error: options.stop_node_on_error,
            metrics: Arc::clone(&self.metrics),
        }))
    }
}

/// Where and whose files a writer makes.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) layer: Arc<dyn Layer>,
    pub(crate) root: PathBuf,
    pub(crate) stream: String,
    pub(crate) ingestor: String,
    pub(crate) filter: String,
    pub(crate) encoding: Encoding,
}

/// The writer of a stream's files.
pub(crate) fn writer(options: &FileOptions, target: Target) -> Box<dyn Writer> {
    let dir = directory(&target.root, &target.stream, options, &target.filter);
    let keys = options.keys();
    let identity = Identity {
        stream: target.stream,
        ingestor: target.ingestor,
        format: options.format.name().to_owned(),
        filter: keys.hash(&target.filter),
    };
    let files = Files::new(target.layer, target.root, options.fsync);
    let align = options.align_blocks;
    match options.format {
        Format::Jsonl => {
            let body = Jsonl {
                layout: options.layout(),
                max_bytes: options.max_bytes.bytes(),
                encoding: target.encoding,
                keys,
            };
            Box::new(Engine::new(body, files, identity, dir, align))
        }
        Format::Cosmos => {
            let body = Cosmos {
                prefix: options.prefix.clone(),
                metadata: options.output_metadata,
                layout: options.layout(),
                keys,
            };
            Box::new(CosmosWriter::new(Engine::new(body, files, identity, dir, align)))
        }
    }
}

/// The directory of a stream. Rows live in a directory per filter, so that another filter never
/// changes what a name contains; block files live where their readers expect them.
fn directory(root: &Path, stream: &str, options: &FileOptions, filter: &str) -> PathBuf {
    let base = if options.write_dir.is_empty() {
        root.join(names::component(stream))
    } else {
        root.join(&options.write_dir).components().collect()
    };
    match options.format {
        Format::Jsonl => base.join(jsonl::filter_dir(&options.keys().hash(filter))),
        Format::Cosmos => base,
    }
}

/// Delivers one stream into files.
///
/// File systems block, so the work is done on threads that may. A call that is dropped lets the
/// work that has begun end by itself; the next call waits for it.
#[derive(Debug)]
struct FileDispatcher {
    writer: Arc<Mutex<Box<dyn Writer>>>,
    volume: Arc<Volume>,
    stream: Arc<str>,
    stop_on_error: Option<bool>,
    metrics: Arc<Metrics>,
}

impl FileDispatcher {
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Writer) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, DeliverError> {
        let (writer, volume) = (Arc::clone(&self.writer), Arc::clone(&self.volume));
        let done = tokio::task::spawn_blocking(move || {
            volume.check()?;
            work(writer.lock().as_mut())
        });
        let result = match done.await {
            Ok(result) => result,
            Err(_) => Err(FileError::Worker(self.stream.to_string())),
        };
        result.map_err(|error| {
            self.metrics.failed(&self.stream, error.reason());
            deliver_error(&error, self.stop_on_error)
        })
    }
}

/// `stop-node-on-error` decides how a failure shows; see [`FileOptions::stop_node_on_error`].
fn deliver_error(error: &FileError, stop_on_error: Option<bool>) -> DeliverError {
    let message = error.to_string();
    if stop_on_error.unwrap_or(!error.is_transient()) {
        DeliverError::halt(message)
    } else {
        DeliverError::retry(message)
    }
}

#[async_trait]
impl Dispatcher for FileDispatcher {
    async fn deliver(&mut self, batch: &Batch) -> Result<Receipt, DeliverError> {
        // Frames share their bytes; this copies headers.
        let taken = batch.clone();
        let closed = self.run(move |writer| write_batch(writer, &taken)).await?;
        self.metrics.delivered(&self.stream, batch.event_count() as u64, closed);
        Ok(batch.delivered())
    }

    async fn resume(
        &mut self,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Option<Checkpoint>, DeliverError> {
        let at = self.run(|writer| writer.resume()).await?;
        match (&at, checkpoint) {
            (Some(at), Some(stored)) if at.position < stored.position => {
                warn!(stream = %self.stream, files = %at.position, checkpoint = %stored.position,
                    "the files are behind the checkpoint; what is missing is written again");
            }
            _ => {}
        }
        Ok(at)
    }
}

/// Writes a batch; gives the number of ranges it closed.
fn write_batch(writer: &mut dyn Writer, batch: &Batch) -> Result<u64, FileError> {
    let before = writer.closed_ranges();
    writer.begin(batch.after(), batch.reset_epoch())?;
    let mut marks = batch.marks().iter().peekable();
    for (i, frame) in batch.frames().iter().enumerate() {
        while let Some(mark) = marks.next_if(|mark| mark.before <= i) {
            write_mark(writer, &mark.what)?;
        }
        writer.frame(frame)?;
    }
    for mark in marks {
        write_mark(writer, &mark.what)?;
    }
    writer.finish(batch.through(), batch.through_height())?;
    Ok(writer.closed_ranges().saturating_sub(before))
}

fn write_mark(writer: &mut dyn Writer, what: &MarkKind) -> Result<(), FileError> {
    match what {
        MarkKind::Gap { from, to, cause } => writer.gap(from, to, cause),
        MarkKind::Rewind { generation, base, .. } => writer.rewind(*generation, base),
    }
}
