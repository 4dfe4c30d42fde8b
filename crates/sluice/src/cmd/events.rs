//! Changes as lines: what `tail`, `journal cat` and `files decode` print.

use bytes::Bytes;
use sluice_frame::{Frame, FrameError};
use sluice_model::event::{Encoding, Event};

use crate::{
    exit::{Exit, Failure},
    output::{Format, Out, Paint, readable},
};

/// Longest key or value in a table, in characters.
const CUT: usize = 48;

/// Prints changes until a limit.
#[derive(Debug)]
pub(crate) struct Printer {
    encoding: Encoding,
    left: Option<u64>,
    printed: u64,
    line: Vec<u8>,
}

impl Printer {
    pub(crate) fn new(hex: bool, limit: Option<u64>) -> Self {
        let encoding = if hex { Encoding::Hex } else { Encoding::Base64 };
        Self { encoding, left: limit, printed: 0, line: Vec::new() }
    }

    /// True when as many changes were printed as were asked for.
    pub(crate) fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Prints a frame's changes, as far as the limit goes.
    pub(crate) fn frame(&mut self, out: &mut Out, frame: &Frame) -> Result<(), Failure> {
        let header = &frame.header;
        let mut position = header.position(0);
        for change in frame.changes() {
            if self.is_done() {
                break;
            }
            let (index, route, change) = change.map_err(|error| unreadable(&error))?;
            position.index = index;
            let event = Event {
                ingestor: &header.ingestor,
                position: &position,
                height: header.height,
                time: header.time,
                topic: &route.topic,
                change,
            };
            self.event(out, &event)?;
        }
        out.flush()
    }

    /// Prints one change.
    pub(crate) fn event(&mut self, out: &mut Out, event: &Event<'_>) -> Result<(), Failure> {
        match out.format() {
            Format::Json | Format::Jsonl => {
                self.line.clear();
                event.write_json(self.encoding, &mut self.line);
                self.line.push(b'\n');
                out.raw(&self.line)?;
            }
            Format::Name => out.line(event.id().to_string())?,
            Format::Table => self.columns(out, event, CUT)?,
            Format::Wide => self.columns(out, event, usize::MAX)?,
        }
        self.printed += 1;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(())
    }

    fn columns(&self, out: &mut Out, event: &Event<'_>, cut: usize) -> Result<(), Failure> {
        if self.printed == 0 {
            let titles =
                format!("{:<29}  {:<14}  {:<6}  KEY = VALUE", "SEQUENCE ID", "TOPIC", "OP");
            let titles = out.paint(Paint::Dim, &titles);
            out.line(titles)?;
        }
        let change = &event.change;
        let topic = if event.topic.is_empty() { change.store } else { event.topic };
        let key = readable(change.key, cut);
        let (op, paint, what) = match change.op {
            sluice_model::Op::Set => {
                ("set", Paint::Good, format!("{key} = {}", readable(change.value, cut)))
            }
            sluice_model::Op::Delete => ("delete", Paint::Bad, key),
        };
        let op = out.paint(paint, &format!("{op:<6}"));
        out.line(format!("{:<29}  {topic:<14}  {op}  {what}", event.id().to_string()))
    }
}

/// A frame that a filter has been spliced out of, whole again.
pub(crate) fn whole(wire: sluice_frame::WireFrame) -> Result<Frame, Failure> {
    let bytes: Bytes = wire.into_bytes();
    Frame::parse(bytes).map_err(|error| unreadable(&error))
}

fn unreadable(error: &FrameError) -> Failure {
    Failure::new(Exit::Data, format!("a frame cannot be read: {error}"))
        .fix("sluice journal verify --dir DIR")
}
