//! `sluice journal`: a directory of journals, read without changing anything.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::json;
use sluice_frame::{Frame, Splicer};
use sluice_journal::{
    JournalError, Report,
    inspect::{self, Found},
};
use sluice_model::{Filter, FilterSpec, IngestorName, Kind, StartPosition};

use crate::{
    cli::{ConfigArgs, JournalCommand, JournalDir},
    cmd::{
        config,
        events::{Printer, whole},
    },
    exit::{Exit, Failure, Outcome},
    output::{Out, Row, bytes, col, count, note, wide},
};

pub(crate) fn run(out: &mut Out, command: &JournalCommand, file: Option<&Path>) -> Outcome {
    match command {
        JournalCommand::Ls { dir } => ls(out, &place(dir, file)?),
        JournalCommand::Cat { dir, ingestor, filter, from, until, limit } => {
            let spec = FilterSpec::from(filter);
            let filter =
                Filter::compile(&spec).map_err(|error| Failure::usage(error.to_string()))?;
            let found = find(&place(dir, file)?, ingestor)?;
            let mut cat = Cat {
                printer: Printer::new(false, *limit),
                splicer: Splicer::new(Arc::new(filter), false),
                from: from.clone(),
                until: *until,
                parts: Vec::new(),
            };
            cat.journal(out, &found)?;
            out.flush()?;
            Ok(Exit::Ok)
        }
        JournalCommand::Verify { dir, ingestor } => {
            let found = match ingestor {
                Some(ingestor) => vec![find(&place(dir, file)?, ingestor)?],
                None => all(&place(dir, file)?)?,
            };
            verify(out, &found)
        }
    }
}

/// Where the journals are.
fn place(dir: &JournalDir, file: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(dir) = &dir.dir {
        return Ok(dir.clone());
    }
    let args = ConfigArgs { config: file.map(Path::to_owned), sets: Vec::new() };
    Ok(config::load(&args)?.journal_dir())
}

fn failed(error: &JournalError) -> Failure {
    let exit = match error {
        JournalError::NotHere { .. } => Exit::NotFound,
        JournalError::NoFenceState { .. } => Exit::Data,
        JournalError::Invalid(_) => Exit::Data,
        JournalError::InUse { .. } => Exit::Refused,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string()).fix("sluice journal verify --dir DIR")
}

/// Every journal that can be read; what cannot is told beside.
fn all(dir: &Path) -> Result<Vec<Found>, Failure> {
    if !dir.is_dir() {
        return Err(Failure::new(Exit::NotFound, format!("{} is no directory", dir.display()))
            .fix("sluice journal ls --dir DATA_DIR/journal"));
    }
    let mut readable = Vec::new();
    for found in inspect::journals(dir).map_err(|error| failed(&error))? {
        match found {
            Ok(found) => readable.push(found),
            Err(error) => note(format!("unreadable: {error}")),
        }
    }
    Ok(readable)
}

fn find(dir: &Path, ingestor: &IngestorName) -> Result<Found, Failure> {
    all(dir)?.into_iter().find(|found| found.ingestor == *ingestor).ok_or_else(|| {
        let message = format!("{} holds no journal of {ingestor}", dir.display());
        Failure::new(Exit::NotFound, message)
            .fix(format!("sluice journal ls --dir {}", dir.display()))
    })
}

fn ls(out: &mut Out, dir: &Path) -> Outcome {
    let mut rows = Vec::new();
    for found in all(dir)? {
        let segments = inspect::segments(&found.dir).map_err(|error| failed(&error))?;
        let size: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let height = found.recorded_head.as_ref().map_or(0, |head| head.height);
        rows.push(Row {
            name: found.ingestor.to_string(),
            cells: vec![
                found.ingestor.to_string(),
                height.to_string(),
                segments.len().to_string(),
                bytes(size),
                found.fence.to_string(),
                found.id.to_string(),
                found.dir.display().to_string(),
            ],
            json: json!({
                "ingestor": found.ingestor,
                "recordedHeight": height,
                "segments": segments.len(),
                "bytes": size,
                "fence": found.fence.as_u64(),
                "writerId": found.writer_id,
                "id": found.id,
                "dir": found.dir.display().to_string(),
            }),
        });
    }
    let columns = [
        col("INGESTOR"),
        col("HEIGHT (RECORDED)"),
        col("SEGMENTS"),
        col("BYTES"),
        wide("FENCE"),
        wide("ID"),
        col("DIR"),
    ];
    out.rows(&columns, &rows)?;
    Ok(Exit::Ok)
}

/// Prints whole blocks: the parts of one are kept until its last one is there.
struct Cat {
    printer: Printer,
    splicer: Splicer,
    from: StartPosition,
    until: Option<u64>,
    parts: Vec<Frame>,
}

impl Cat {
    fn journal(&mut self, out: &mut Out, found: &Found) -> Result<(), Failure> {
        let mut segments = inspect::segments(&found.dir).map_err(|error| failed(&error))?;
        // Files without a header are spares; the others go in the order of their incarnations.
        segments.retain(|segment| segment.header.is_ok());
        segments.sort_by_key(|segment| segment.header.as_ref().map(|h| h.incarnation).ok());
        let mut result = Ok(true);
        for segment in segments {
            inspect::records(&found.dir, segment.number, |record| {
                match record.frame {
                    Ok(frame) => result = self.take(out, frame),
                    Err(cause) => note(format!(
                        "unreadable: {} at byte {}: {cause}",
                        segment.file.display(),
                        record.offset
                    )),
                }
                matches!(result, Ok(true))
            })
            .map_err(|error| failed(&error))?;
            match result {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Takes the next frame; false when nothing more is asked for.
    fn take(&mut self, out: &mut Out, frame: Frame) -> Result<bool, Failure> {
        if frame.header.kind != Kind::Block {
            // A writer that opened the journal: a block without an end has none any more.
            self.parts.clear();
            return Ok(true);
        }
        if frame.header.part == 0 {
            self.parts.clear();
        }
        let last = frame.header.end.is_some();
        self.parts.push(frame);
        if !last {
            return Ok(true);
        }
        for frame in std::mem::take(&mut self.parts) {
            if self.until.is_some_and(|until| frame.header.height > until) {
                return Ok(false);
            }
            self.print(out, &frame)?;
            if self.printer.is_done() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn print(&mut self, out: &mut Out, frame: &Frame) -> Result<(), Failure> {
        let header = &frame.header;
        let begun = match &self.from {
            StartPosition::Earliest => true,
            StartPosition::Latest => false,
            StartPosition::Height(height) => header.height >= *height,
            StartPosition::Time(time) => header.time.is_none_or(|own| own >= *time),
            // Whole frames, as from a router: an id inside of one repeats what comes before it.
            StartPosition::After(id) => header.position(header.next_index()) > *id.position(),
        };
        match self.splicer.splice(header, &frame.changes) {
            Some(wire) if begun => self.printer.frame(out, &whole(wire)?),
            _ => Ok(()),
        }
    }
}

fn verify(out: &mut Out, journals: &[Found]) -> Outcome {
    let mut sound = true;
    for found in journals {
        let report = inspect::verify(&found.dir, &|_| {}).map_err(|error| failed(&error))?;
        sound &= report.is_sound();
        tell(out, found, &report)?;
    }
    out.flush()?;
    Ok(if sound { Exit::Ok } else { Exit::Data })
}

fn tell(out: &mut Out, found: &Found, report: &Report) -> Result<(), Failure> {
    let height = report.head.as_ref().map_or(0, |head| head.height);
    if out.is_json() {
        let corruptions: Vec<_> = report.corruptions.iter().map(ToString::to_string).collect();
        return out.json(&json!({
            "ingestor": found.ingestor,
            "sound": report.is_sound(),
            "height": height,
            "blocks": report.blocks,
            "changes": report.changes,
            "segments": report.segments,
            "bytes": report.bytes,
            "abortedParts": report.aborted_parts,
            "corruptions": corruptions,
        }));
    }
    for corruption in &report.corruptions {
        out.line(format!("{}: {corruption}", found.ingestor))?;
    }
    out.line(format!(
        "{}: {}; {} blocks to height {}, {} changes, {} segments, {} read",
        found.ingestor,
        if report.is_sound() { "sound" } else { "NOT SOUND" },
        count(report.blocks),
        count(height),
        count(report.changes),
        count(report.segments),
        bytes(report.bytes)
    ))
}
