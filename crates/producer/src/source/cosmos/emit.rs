//! Reads one complete block from its files into a feed, in pieces. Runs on a thread that may
//! block.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use sluice_model::Pointer;

use super::{
    format::{HEADER, Rewriter},
    meta::{self, Doubt, MetaError, Survey, TxList},
};
use crate::source::{Begin, FeedWriter, Item, Piece, Place, SourceError};

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// A complete block and what is needed to read it.
#[derive(Debug)]
pub struct Block {
    /// Its height.
    pub height: u64,
    /// Its data file and the size of the body.
    pub data: (PathBuf, u64),
    /// Its meta file and the size of the body.
    pub meta: Option<(PathBuf, u64)>,
    /// The transactions in the meta file before, if it was read.
    pub previous: Option<TxList>,
    /// Where that file may be if it was not; read only if the block itself does not tell its own.
    pub before: Vec<PathBuf>,
    /// The journal has the block already, and is to compare it.
    pub again: bool,
}

/// What reading a block's metadata told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaRead {
    /// The list of transactions as it stands in the file, for the next block.
    pub txs: TxList,
    /// Transactions that are not the block's own and were left out.
    pub left_out: u64,
    /// Why the list before had to tell these.
    pub doubt: Option<Doubt>,
    /// There was no list before.
    pub alone: bool,
}

/// Reads the block. Gives what its meta file told, if it has one.
pub fn emit(block: &Block, feed: &FeedWriter) -> Result<Option<MetaRead>, SourceError> {
    let mut previous = block.previous.clone();
    let survey = block.meta.as_ref().map(|meta| block.survey(meta, &mut previous)).transpose()?;
    feed.send_blocking(Item::Begin(Begin {
        height: block.height,
        pointer: Pointer::from_height(block.height),
        parent: block.again.then_some(Pointer::ORIGIN),
        time: survey.as_ref().and_then(|survey| survey.time),
    }))?;
    block.changes(feed)?;
    let read = match (&block.meta, survey) {
        (Some(meta), Some(survey)) => {
            block.metadata(meta, &survey, feed)?;
            let Survey { txs, foreign: left_out, doubt, .. } = survey;
            Some(MetaRead { txs, left_out, doubt, alone: previous.is_none() })
        }
        _ => None,
    };
    feed.send_blocking(Item::End { changes: None, traceparent: String::new() })?;
    Ok(read)
}

/// The list of transactions in a meta file, if the file is there and whole.
pub fn tx_list(path: &Path) -> Option<TxList> {
    let mut file = File::open(path).ok()?;
    let mut header = [0; 8];
    file.read_exact(&mut header).ok()?;
    let size = file.metadata().ok()?.len();
    match super::format::completeness(Some(header), size) {
        super::format::Completeness::Complete(body) => meta::tx_list(file, body).ok(),
        _ => None,
    }
}

impl Block {
    fn wrong(&self, path: &Path, cause: impl std::fmt::Display) -> SourceError {
        SourceError::Block {
            pointer: Pointer::from_height(self.height),
            cause: format!("{}: {cause}", path.display()),
        }
    }

    fn changes(&self, feed: &FeedWriter) -> Result<(), SourceError> {
        let (path, body) = &self.data;
        let mut file = open(path)?;
        let shared: Arc<Path> = path.as_path().into();
        let mut rewriter = Rewriter::new(*body);
        let mut buffer = vec![0; PIECE.min(usize::try_from(*body).unwrap_or(PIECE))];
        let mut left = *body;
        while left > 0 {
            let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let buffer = buffer.get_mut(..want).unwrap_or_default();
            let size = file.read(buffer).map_err(|source| io_error("reading", path, source))?;
            if size == 0 {
                break;
            }
            left -= size as u64;
            let read = buffer.get(..size).unwrap_or_default();
            if let Some(region) = rewriter.push(read).map_err(|error| self.wrong(path, error))? {
                let place = Place {
                    file: shared.clone(),
                    offset: region.offset,
                    first_pair: region.first_pair,
                };
                feed.send_blocking(Item::Changes(Piece {
                    bytes: region.bytes,
                    place: Some(place),
                }))?;
            }
        }
        rewriter.finish().map_err(|error| self.wrong(path, error))
    }

    /// Reads the meta file; a second time if it takes the list before, and that was not read yet.
    fn survey(
        &self,
        (path, body): &(PathBuf, u64),
        previous: &mut Option<TxList>,
    ) -> Result<Survey, SourceError> {
        let read = |previous: Option<&TxList>| {
            meta::survey(open(path)?, *body, previous).map_err(|error| self.meta_error(path, error))
        };
        let mut survey = read(previous.as_ref())?;
        if survey.doubt.is_some() && previous.is_none() {
            *previous = self.before.iter().find_map(|path| tx_list(path));
            if previous.is_some() {
                survey = read(previous.as_ref())?;
            }
        }
        match survey.height.filter(|height| *height != self.height) {
            Some(other) => {
                Err(self.wrong(path, format_args!("it holds the metadata of block {other}")))
            }
            None => Ok(survey),
        }
    }

    fn metadata(
        &self,
        (path, body): &(PathBuf, u64),
        survey: &Survey,
        feed: &FeedWriter,
    ) -> Result<(), SourceError> {
        let name = if survey.finalize { meta::TYPE_URL_FINALIZE } else { meta::TYPE_URL };
        let type_url: Arc<str> = name.into();
        let mut sent = Ok(());
        meta::rewrite(open(path)?, *body, survey.foreign, |value| {
            sent = feed.send_blocking(Item::Metadata { type_url: type_url.clone(), value });
            sent.is_ok()
        })
        .map_err(|error| self.meta_error(path, error))?;
        sent
    }

    fn meta_error(&self, path: &Path, error: MetaError) -> SourceError {
        match error {
            MetaError::Io { source, .. } if source.kind() != io::ErrorKind::UnexpectedEof => {
                io_error("reading", path, source)
            }
            other => self.wrong(path, other),
        }
    }
}

/// Opens a file behind its header.
fn open(path: &Path) -> Result<File, SourceError> {
    File::open(path)
        .and_then(|mut file| file.seek(SeekFrom::Start(HEADER)).map(|_| file))
        .map_err(|source| io_error("opening", path, source))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> SourceError {
    SourceError::Io { action, path: path.to_owned(), source }
}
