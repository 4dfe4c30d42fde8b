//! Lines of a bounded length, with their numbers.

use std::io::{BufRead, Read as _};

use crate::exit::{Exit, Failure};

/// Reads lines and counts them.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: R,
    number: u64,
    max: usize,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Lines of at most `max` bytes each.
    pub(crate) const fn new(reader: R, max: usize) -> Self {
        Self { reader, number: 0, max, line: Vec::new() }
    }

    /// The next line that is not empty, with its number from 1.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, &[u8])>, Failure> {
        loop {
            self.line.clear();
            self.number += 1;
            // One byte more than allowed tells a line that is too long from one that just fits.
            let limit = (self.max as u64).saturating_add(2);
            let number = self.number;
            let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.line);
            let read = read.map_err(|error| {
                Failure::new(Exit::Failed, format!("line {number} cannot be read: {error}"))
            })?;
            if read == 0 {
                return Ok(None);
            }
            while self.line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                self.line.pop();
            }
            if self.line.len() > self.max {
                let message = format!("line {number} is longer than {} bytes", self.max);
                return Err(Failure::usage(message)
                    .fix("the same with smaller blocks, or with a larger --max-line"));
            }
            if !self.line.is_empty() {
                break;
            }
        }
        Ok(Some((self.number, &self.line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str, max: usize) -> Result<Vec<(u64, String)>, Failure> {
        let mut lines = Lines::new(text.as_bytes(), max);
        let mut out = Vec::new();
        while let Some((number, line)) = lines.next()? {
            out.push((number, String::from_utf8_lossy(line).into_owned()));
        }
        Ok(out)
    }

    #[test]
    fn numbers_count_empty_lines_too() {
        let lines = all("a\r\n\nbc", 2).unwrap();
        assert_eq!(lines, [(1, "a".to_owned()), (3, "bc".to_owned())]);
    }

    #[test]
    fn a_line_that_is_too_long_is_named() {
        let failure = all("ab\nabc\n", 2).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().starts_with("line 2 is longer than 2 bytes"), "{failure}");
        assert_eq!(all("ab\nabc\n", 3).unwrap().len(), 2);
    }
}
