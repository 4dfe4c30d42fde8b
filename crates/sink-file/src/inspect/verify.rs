//! Checking a directory: sizes, content, continuity, and what the manifests say.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use sluice_model::{Digest, Position};

use crate::{
    error::FileError,
    inspect::{count_pairs, decode_data, decode_meta, read_manifest},
    jsonl::row_position,
    manifest::{FILE_NAME, FileLine, Line, chain},
    names,
};

/// Most findings that a report lists; the rest is counted.
const MAX_FINDINGS: usize = 1000;

/// How deep directories are searched: stream, filter, generation, store or two of heights.
const MAX_DEPTH: usize = 8;

/// Largest metadata that is looked into, in bytes.
const MAX_META: u64 = 1 << 30;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Manifests read.
    pub manifests: u64,
    /// Closed ranges in them.
    pub ranges: u64,
    /// Files checked.
    pub files: u64,
    /// Rows and pairs in them.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Heights between ranges or block files that nothing covers, by directory, inclusive.
    pub holes: Vec<(PathBuf, u64, u64)>,
    /// Gaps that the manifests tell of.
    pub gaps: u64,
    /// What is wrong, up to a bound.
    pub findings: Vec<Finding>,
    /// How much is wrong.
    pub wrong: u64,
}

impl Report {
    /// True if nothing is damaged. Holes are legal: a stream may be set to a later place.
    pub const fn is_clean(&self) -> bool {
        self.wrong == 0
    }

    fn add(&mut self, path: &Path, what: impl Into<String>) {
        self.wrong += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { path: path.to_owned(), what: what.into() });
        }
    }
}

/// Checks everything below a directory: rows against their manifests, block files on their own
/// and, where there is one, against the manifest. Only a directory that cannot be listed is an
/// error; everything else is a finding.
pub fn verify(dir: &Path) -> io::Result<Report> {
    let mut report = Report::default();
    walk(dir, 0, &mut report)?;
    Ok(report)
}

fn walk(dir: &Path, depth: usize, report: &mut Report) -> io::Result<()> {
    let mut dirs = Vec::new();
    let mut blocks = Blocks::new();
    let mut manifest = false;
    list(dir, &mut dirs, &mut blocks, &mut manifest)?;
    let heights = dir.join("h");
    if heights.is_dir() && (manifest || !blocks.is_empty()) {
        collect(&heights, 0, &mut blocks)?;
        dirs.retain(|sub| *sub != heights);
    }
    if manifest {
        check_manifest(dir, &blocks, report);
    }
    check_blocks(dir, &blocks, report);
    if depth < MAX_DEPTH {
        for sub in dirs {
            walk(&sub, depth + 1, report)?;
        }
    }
    Ok(())
}

/// Block files by prefix, then height and part (data before meta).
type Blocks = BTreeMap<String, BTreeMap<u64, Parts>>;

#[derive(Debug, Default)]
struct Parts {
    data: Option<PathBuf>,
    meta: Option<PathBuf>,
}

fn list(
    dir: &Path,
    dirs: &mut Vec<PathBuf>,
    blocks: &mut Blocks,
    manifest: &mut bool,
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            dirs.push(entry.path());
        } else if name == FILE_NAME {
            *manifest = true;
        } else {
            note(&name, entry.path(), blocks);
        }
    }
    dirs.sort();
    Ok(())
}

fn collect(dir: &Path, depth: usize, blocks: &mut Blocks) -> io::Result<()> {
    let (mut dirs, mut manifest) = (Vec::new(), false);
    list(dir, &mut dirs, blocks, &mut manifest)?;
    if depth < 2 {
        for sub in dirs {
            collect(&sub, depth + 1, blocks)?;
        }
    }
    Ok(())
}

fn note(name: &str, path: PathBuf, blocks: &mut Blocks) {
    let prefix = match name.rfind("block-") {
        Some(0) => "",
        Some(at) => name.get(..at).and_then(|prefix| prefix.strip_suffix('-')).unwrap_or(name),
        None => return,
    };
    let Some((height, part)) = names::parse_block_name(prefix, name) else { return };
    let parts = blocks.entry(prefix.to_owned()).or_default().entry(height).or_default();
    if part == "data" {
        parts.data = Some(path);
    } else {
        parts.meta = Some(path);
    }
}

fn check_blocks(dir: &Path, blocks: &Blocks, report: &mut Report) {
    for heights in blocks.values() {
        let mut next: Option<u64> = None;
        for (height, parts) in heights {
            if let Some(next) = next.filter(|next| next < height) {
                report.holes.push((dir.to_owned(), next, height - 1));
            }
            next = height.checked_add(1);
            match &parts.data {
                Some(path) => match decode_data(path, |_| {}) {
                    Ok(summary) => {
                        report.files += 1;
                        report.rows += summary.pairs;
                        report.bytes += summary.bytes;
                    }
                    Err(error) => report.add(path, error.to_string()),
                },
                None => report.add(dir, format!("block {height} has a meta file and no data file")),
            }
            if let Some(path) = &parts.meta {
                report.files += 1;
                match decode_meta(path, MAX_META) {
                    Ok((message, _)) => report.bytes += message.len() as u64 + 8,
                    Err(error) => report.add(path, error.to_string()),
                }
            }
        }
    }
}

fn check_manifest(dir: &Path, blocks: &Blocks, report: &mut Report) {
    let path = dir.join(FILE_NAME);
    let lines = match read_manifest(&path) {
        Ok(lines) => lines,
        Err(error) => return report.add(&path, error.to_string()),
    };
    report.manifests += 1;
    let mut next: Option<u64> = None;
    for line in &lines {
        let range = format!("range {}-{}", line.from, line.to);
        if line.to < line.from || line.through.0 < line.after.0 {
            report.add(&path, format!("{range} ends before it begins"));
        }
        match next {
            Some(next) if next < line.from => {
                report.holes.push((dir.to_owned(), next, line.from - 1));
            }
            Some(next) if next > line.from => {
                report.add(
                    &path,
                    format!("{range} overlaps the range before, which ends at {}", next - 1),
                );
            }
            _ => {}
        }
        next = line.to.checked_add(1);
        report.ranges += 1;
        report.gaps += line.gaps.len() as u64;
        if line.files.is_empty() && line.first.is_some() {
            check_block_range(&path, line, blocks, report);
        } else {
            check_rows_range(dir, line, report);
        }
    }
}

fn check_rows_range(dir: &Path, line: &Line, report: &mut Report) {
    let mut digest = Digest::ZERO;
    let (mut rows, mut bytes) = (0, 0);
    for file in &line.files {
        let path = dir.join(&file.path);
        match check_rows(&path, file, line) {
            Ok(()) => {}
            Err(error) => report.add(&path, error.to_string()),
        }
        digest = chain(&digest, &file.path, &file.digest);
        rows += file.rows;
        bytes += file.bytes;
    }
    report.files += line.files.len() as u64;
    report.rows += rows;
    report.bytes += bytes;
    if (rows, bytes, digest) != (line.rows, line.bytes, line.digest) {
        let what = format!("range {}-{}: its sums are not those of its files", line.from, line.to);
        report.add(&dir.join(FILE_NAME), what);
    }
}

/// Reads every row: in order, inside the range, and together what the manifest says.
fn check_rows(path: &Path, file: &FileLine, line: &Line) -> Result<(), FileError> {
    let damaged = |offset, reason| FileError::Damaged { path: path.to_owned(), offset, reason };
    let io_error = |source| FileError::Io {
        action: crate::error::Action::Read,
        path: path.to_owned(),
        source,
    };
    let size = fs::metadata(path).map_err(io_error)?.len();
    if size != file.bytes {
        let reason = format!("it has {size} bytes; the manifest says {}", file.bytes);
        return Err(damaged(size.min(file.bytes), reason));
    }
    let mut reader = BufReader::new(File::open(path).map_err(io_error)?);
    let mut hasher = blake3::Hasher::new();
    let (mut row, mut offset, mut rows) = (Vec::new(), 0u64, 0u64);
    let mut last: Option<Position> = None;
    loop {
        row.clear();
        let limit = size.saturating_sub(offset);
        let read = (&mut reader).take(limit).read_until(b'\n', &mut row).map_err(io_error)?;
        if read == 0 {
            break;
        }
        let position = row_position(path, &row, offset)?;
        if last.as_ref().is_some_and(|last| *last >= position) {
            return Err(damaged(offset, "a row is not behind the one before".to_owned()));
        }
        if position <= line.after.0 || position > line.through.0 {
            return Err(damaged(offset, "a row is outside the file's range".to_owned()));
        }
        hasher.update(&row);
        last = Some(position);
        offset += read as u64;
        rows += 1;
    }
    if Digest::from(hasher.finalize()) != file.digest {
        return Err(damaged(0, "its digest is not the one in the manifest".to_owned()));
    }
    if rows != file.rows {
        return Err(damaged(size, format!("it has {rows} rows; the manifest says {}", file.rows)));
    }
    Ok(())
}

fn check_block_range(manifest: &Path, line: &Line, blocks: &Blocks, report: &mut Report) {
    let matches = |heights: &BTreeMap<u64, Parts>| {
        let (mut digest, mut rows, mut bytes) = (Digest::ZERO, 0, 0);
        for parts in heights.range(line.from..=line.to).map(|(_, parts)| parts) {
            for (path, pairs) in [(&parts.meta, false), (&parts.data, true)] {
                let Some(path) = path else { continue };
                let Ok((file, size)) = super::block::open(path) else { return false };
                let Ok(counted) = count_pairs(path, file, size, pairs) else { return false };
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                digest = chain(&digest, &name, &counted.digest);
                rows += counted.rows;
                bytes += size;
            }
        }
        (digest, rows, bytes) == (line.digest, line.rows, line.bytes)
    };
    if !blocks.values().any(matches) {
        let what = format!(
            "range {}-{}: its block files are not those that were written, or some are missing",
            line.from, line.to
        );
        report.add(manifest, what);
    }
}
