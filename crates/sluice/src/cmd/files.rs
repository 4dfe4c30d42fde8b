//! `sluice files`: what the file sink, or a Cosmos node, wrote.

use std::path::{Path, PathBuf};

use serde_json::json;
use sluice_model::Op;
use sluice_sink_file::{
    inspect::{self, Pair},
    manifest,
};

use crate::{
    cli::FilesCommand,
    exit::{Exit, Failure, Outcome, on_path},
    output::{Format, Out, Row, bytes, col, count, note, readable, wide},
};

/// Longest key or value in a table, in characters.
const CUT: usize = 48;

pub(crate) fn run(out: &mut Out, command: &FilesCommand) -> Outcome {
    match command {
        FilesCommand::Decode { files } => decode(out, files),
        FilesCommand::Verify { dir } => verify(out, dir),
        FilesCommand::Manifest { dir } => print_manifest(out, dir),
    }
}

fn decode(out: &mut Out, files: &[PathBuf]) -> Outcome {
    for file in files {
        let mut failed = None;
        let result = inspect::decode_data(file, |pair| {
            if failed.is_none() {
                failed = print_pair(out, file, &pair).err();
            }
        });
        if let Some(failure) = failed {
            return Err(failure);
        }
        result.map_err(|error| {
            Failure::new(Exit::Data, error.to_string()).fix(format!(
                "xxd {} | head   (a block file begins with its length)",
                file.display()
            ))
        })?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn print_pair(out: &mut Out, file: &Path, pair: &Pair<'_>) -> Result<(), Failure> {
    let change = &pair.change;
    let op = match change.op {
        Op::Set => "set",
        Op::Delete => "delete",
    };
    match out.format() {
        Format::Json | Format::Jsonl => {
            let value = (change.op == Op::Set).then(|| hex::encode(change.value));
            let row = json!({
                "file": file.display().to_string(),
                "pair": pair.number,
                "offset": pair.offset,
                "store": change.store,
                "op": op,
                "key": hex::encode(change.key),
                "value": value,
                "encoding": "hex",
            });
            out.line(row.to_string())
        }
        Format::Name => out.line(hex::encode(change.key)),
        format => {
            let cut = if format == Format::Wide { usize::MAX } else { CUT };
            let key = readable(change.key, cut);
            let value = match change.op {
                Op::Set => format!(" = {}", readable(change.value, cut)),
                Op::Delete => String::new(),
            };
            out.line(format!("{:>6}  {:<14}  {op:<6}  {key}{value}", pair.number, change.store))
        }
    }
}

fn verify(out: &mut Out, dir: &Path) -> Outcome {
    let report = inspect::verify(dir).map_err(on_path(dir))?;
    let holes: Vec<String> = report
        .holes
        .iter()
        .map(|(dir, from, to)| format!("{}: heights {from} to {to}", dir.display()))
        .collect();
    if out.is_json() {
        let findings: Vec<_> = report
            .findings
            .iter()
            .map(
                |finding| json!({"path": finding.path.display().to_string(), "what": finding.what}),
            )
            .collect();
        out.json(&json!({
            "files": report.files,
            "rows": report.rows,
            "bytes": report.bytes,
            "ranges": report.ranges,
            "gaps": report.gaps,
            "holes": holes,
            "wrong": report.wrong,
            "findings": findings,
        }))?;
    } else {
        for hole in &holes {
            out.line(format!("not covered: {hole}"))?;
        }
        for finding in &report.findings {
            out.line(format!("{}: {}", finding.path.display(), finding.what))?;
        }
        out.line(format!(
            "{} files, {} rows, {}; {} closed ranges, {} gaps; {} wrong",
            count(report.files),
            count(report.rows),
            bytes(report.bytes),
            count(report.ranges),
            count(report.gaps),
            count(report.wrong)
        ))?;
    }
    out.flush()?;
    if report.files == 0 && report.findings.is_empty() {
        note(format!("nothing was checked: {} has no closed range of heights yet", dir.display()));
    }
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Data })
}

fn print_manifest(out: &mut Out, dir: &Path) -> Outcome {
    let path = if dir.is_file() { dir.to_owned() } else { dir.join(manifest::FILE_NAME) };
    if !path.exists() {
        let message = format!("there is no manifest at {}", path.display());
        return Err(Failure::new(Exit::NotFound, message).fix(format!(
            "find {} -name {}",
            dir.display(),
            manifest::FILE_NAME
        )));
    }
    let lines = inspect::read_manifest(&path).map_err(|error| {
        Failure::new(Exit::Data, error.to_string())
            .fix(format!("sluice files verify {}", dir.display()))
    })?;
    let rows: Vec<Row> = lines
        .iter()
        .map(|line| Row {
            name: format!("{}-{}", line.from, line.to),
            cells: vec![
                line.from.to_string(),
                line.to.to_string(),
                line.rows.to_string(),
                bytes(line.bytes),
                line.gaps.len().to_string(),
                String::from(line.through.clone()),
                line.digest.to_string(),
            ],
            json: serde_json::to_value(line).unwrap_or_default(),
        })
        .collect();
    let columns = [
        col("FROM"),
        col("TO"),
        col("ROWS"),
        col("BYTES"),
        col("GAPS"),
        wide("THROUGH"),
        wide("DIGEST"),
    ];
    out.rows(&columns, &rows)?;
    Ok(Exit::Ok)
}
