//! Everything that a command writes to its standard output, in the form that was asked for.

use std::{
    io::{self, IsTerminal, Write},
    sync::LazyLock,
};

use clap::ValueEnum;
use indicatif::MultiProgress;
use serde_json::Value;

use crate::exit::Failure;

/// `-o`: how results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// The same with every column, and nothing cut.
    Wide,
    /// One JSON document.
    Json,
    /// One JSON object per line.
    Jsonl,
    /// Names only, one per line.
    Name,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    title: &'static str,
    wide: bool,
}

/// A column that is always shown.
pub(crate) const fn col(title: &'static str) -> Column {
    Column { title, wide: false }
}

/// A column that only `-o wide` shows.
pub(crate) const fn wide(title: &'static str) -> Column {
    Column { title, wide: true }
}

/// One thing to show: as cells, as JSON, by name.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// What `-o name` writes.
    pub(crate) name: String,
    /// One per column.
    pub(crate) cells: Vec<String>,
    /// What `-o json` writes.
    pub(crate) json: Value,
}

/// The writer of a command's results.
pub(crate) struct Out {
    format: Format,
    color: bool,
    sink: Box<dyn Write + Send>,
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Out {
    /// To the standard output.
    pub(crate) fn stdout(format: Format, no_color: bool) -> Self {
        let color = !no_color && io::stdout().is_terminal();
        Self { format, color, sink: Box::new(io::BufWriter::new(io::stdout())) }
    }

    #[cfg(test)]
    fn to(format: Format, sink: Box<dyn Write + Send>) -> Self {
        Self { format, color: false, sink }
    }

    /// The form that was asked for.
    pub(crate) const fn format(&self) -> Format {
        self.format
    }

    /// True if results are for programs.
    pub(crate) const fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// Writes one line as it is.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.raw(text.as_ref().as_bytes())?;
        self.raw(b"\n")
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.sink.write_all(bytes)?)
    }

    /// Hands everything over to the reader.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.sink.flush()?)
    }

    /// Writes one JSON value: indented for `json`, on one line otherwise.
    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        let text = if self.format == Format::Json {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        let text = text.map_err(|error| Failure::from(io::Error::from(error)))?;
        self.line(text)
    }

    /// Writes a list.
    pub(crate) fn rows(&mut self, columns: &[Column], rows: &[Row]) -> Result<(), Failure> {
        match self.format {
            Format::Json => {
                let all: Vec<Value> = rows.iter().map(|row| row.json.clone()).collect();
                self.json(&Value::Array(all))?;
            }
            Format::Jsonl => {
                for row in rows {
                    self.json(&row.json)?;
                }
            }
            Format::Name => {
                for row in rows {
                    self.line(&row.name)?;
                }
            }
            Format::Table | Format::Wide => self.table(columns, rows)?,
        }
        self.flush()
    }

    fn table(&mut self, columns: &[Column], rows: &[Row]) -> Result<(), Failure> {
        let all = self.format == Format::Wide;
        let shown = |cells: &[String]| -> Vec<String> {
            let wanted = columns.iter().zip(cells).filter(|(column, _)| all || !column.wide);
            wanted
                .map(|(_, cell)| if cell.is_empty() { "-".into() } else { cell.clone() })
                .collect()
        };
        let titles: Vec<String> = columns.iter().map(|column| column.title.to_owned()).collect();
        let head = shown(&titles);
        let body: Vec<Vec<String>> = rows.iter().map(|row| shown(&row.cells)).collect();
        let mut widths: Vec<usize> = head.iter().map(|title| title.chars().count()).collect();
        for row in &body {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let head = self.paint(Paint::Dim, &padded(&head, &widths));
        self.line(head)?;
        for row in &body {
            self.line(padded(row, &widths))?;
        }
        Ok(())
    }

    /// The text in a colour, on a terminal that may show one.
    pub(crate) fn paint(&self, paint: Paint, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Good => "32",
            Paint::Warn => "33",
            Paint::Bad => "31",
            Paint::Dim => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Colours by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// All is well.
    Good,
    /// Works, but look.
    Warn,
    /// Does not work.
    Bad,
    /// Less important.
    Dim,
}

/// Cells side by side, two spaces apart, without spaces at the end.
fn padded(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line.push_str(cell);
        let missing = width.saturating_sub(cell.chars().count());
        line.extend(std::iter::repeat_n(' ', missing + 2));
    }
    line.trim_end().to_owned()
}

/// Writes a line for the person at the terminal, beside the results. A reader that is gone is no
/// reason to fail.
pub(crate) fn note(text: impl AsRef<str>) {
    BARS.suspend(|| {
        let mut stderr = io::stderr().lock();
        stderr.write_all(format!("{}\n", text.as_ref()).as_bytes()).ok();
    });
}

/// Every progress bar of the process. Whatever else is written to the terminal goes above them.
pub(crate) static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A number with a comma after every three digits.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that people read.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    // Tenths of the unit, in integers, so that nothing is rounded up into the next unit.
    let mut tenths = u128::from(number) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// Bytes as text where they are text, as hex otherwise; cut to `limit` characters.
pub(crate) fn readable(value: &[u8], limit: usize) -> String {
    let text = match std::str::from_utf8(value) {
        Ok(text) if !text.is_empty() && text.chars().all(|c| !c.is_control()) => text.to_owned(),
        _ => format!("0x{}", hex::encode(value)),
    };
    if text.chars().count() <= limit {
        return text;
    }
    let mut cut: String = text.chars().take(limit.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn rendered(format: Format) -> String {
        let shared = Shared::default();
        let mut out = Out::to(format, Box::new(shared.clone()));
        let row = |name: &str, state: &str| Row {
            name: name.into(),
            cells: vec![name.into(), state.into(), "7".into()],
            json: json!({"name": name}),
        };
        let columns = [col("NAME"), col("STATE"), wide("EPOCH")];
        out.rows(&columns, &[row("hub", "active"), row("a-longer-name", "")]).unwrap();
        let bytes = shared.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn one_list_in_every_form() {
        assert_eq!(
            rendered(Format::Table),
            "NAME           STATE\nhub            active\na-longer-name  -\n"
        );
        assert!(rendered(Format::Wide).starts_with("NAME           STATE   EPOCH\n"));
        assert_eq!(rendered(Format::Jsonl), "{\"name\":\"hub\"}\n{\"name\":\"a-longer-name\"}\n");
        assert_eq!(rendered(Format::Name), "hub\na-longer-name\n");
        let array: Value = serde_json::from_str(&rendered(Format::Json)).unwrap();
        assert_eq!(array, json!([{"name": "hub"}, {"name": "a-longer-name"}]));
    }

    #[test]
    fn a_reader_that_left_ends_the_command_quietly() {
        let mut out = Out::to(Format::Table, Box::new(Gone));
        assert!(out.line("x").unwrap_err().is_quiet());
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!((count(0), count(999), count(1000)), ("0".into(), "999".into(), "1,000".into()));
        assert_eq!(count(12_304_567), "12,304,567");
        assert_eq!((bytes(1023), bytes(1024)), ("1023 B".into(), "1.0 KiB".into()));
        assert_eq!(bytes(1 << 30), "1.0 GiB");
        assert_eq!(bytes((1 << 20) - 1), "1023.9 KiB");
    }

    #[test]
    fn values_that_are_text_are_shown_as_text() {
        assert_eq!(readable(b"balances/alice", 40), "balances/alice");
        assert_eq!(readable(&[2, 255], 40), "0x02ff");
        assert_eq!(readable(b"", 40), "0x");
        assert_eq!(readable(b"abcdefgh", 5), "abcd…");
    }
}
