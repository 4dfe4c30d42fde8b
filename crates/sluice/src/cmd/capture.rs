//! `sluice capture`: blocks from the standard input, acknowledged and resumed.

use std::{collections::VecDeque, io, time::Duration};

use serde_json::json;
use sluice_client::capture::{Ack, Acks, Begin, Blocks, CaptureError, Capturer};
use sluice_model::Durability;
use tokio::sync::mpsc;

use crate::{
    block_line::Block,
    cli::CaptureArgs,
    connect::Server,
    exit::{Exit, Failure, Outcome},
    lines::Lines,
    output::{Out, count, note},
};

/// Blocks that were read and are not acknowledged.
const WINDOW: usize = 64;
/// Bytes of changes in them; one block beyond is let in, whatever its size.
const WINDOW_BYTES: usize = 32 << 20;
/// Lines that are decoded ahead.
const AHEAD: usize = 4;
/// How long a producer that is gone is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections in a row that may end without a single acknowledgement.
const FRUITLESS: u32 = 8;

pub(crate) async fn run(server: &Server, out: &mut Out, args: &CaptureArgs) -> Outcome {
    let capturer = Capturer::new(server.transport(), args.ingestor.clone());
    // Asked once before anything is read: a producer that was never there is not waited for, nor
    // an operator who holds the ingestor.
    match capturer.head().await {
        Err(CaptureError::Unknown(status)) => {
            let failure = server.explain(&status);
            if failure.exit() == Exit::Unreachable {
                return Err(failure);
            }
        }
        Err(held @ CaptureError::Held(_)) => {
            let show = format!("sluice ingestors get {} --server {}", args.ingestor, server.url());
            return Err(Failure::from(held).fix(show));
        }
        _ => {}
    }
    let lines = read_lines(args.max_line);
    let mut feeder = Feeder {
        capturer,
        lines,
        pending: VecDeque::new(),
        ended: false,
        wrong: None,
        tally: Tally::default(),
    };
    let result = feeder.run().await;
    feeder.tally.print(out)?;
    result.map_err(|failure| {
        failure.fix(format!("sluice ingestors get {} --server {}", args.ingestor, server.url()))
    })?;
    Ok(Exit::Ok)
}

/// Lines are read on a thread of their own, which may wait for the input for ever.
fn read_lines(max: usize) -> mpsc::Receiver<Result<Block, Failure>> {
    let (sender, lines) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        let mut lines = Lines::new(io::stdin().lock(), max);
        loop {
            let parsed = match lines.next() {
                Ok(None) => return,
                Ok(Some((number, text))) => Block::parse(number, text).map_err(|why| {
                    Failure::usage(format!("line {number}: {why}")).fix("sluice capture --help")
                }),
                Err(failure) => Err(failure),
            };
            let last = parsed.is_err();
            if sender.blocking_send(parsed).is_err() || last {
                return;
            }
        }
    });
    lines
}

struct Feeder {
    capturer: Capturer,
    lines: mpsc::Receiver<Result<Block, Failure>>,
    /// Sent or to be sent, and not acknowledged, in order.
    pending: VecDeque<Block>,
    ended: bool,
    /// What is wrong with the input; what came before it is still brought in.
    wrong: Option<Failure>,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    blocks: u64,
    changes: u64,
    duplicates: u64,
    unverifiable: u64,
    height: Option<u64>,
    durability: Option<Durability>,
}

impl Feeder {
    async fn run(&mut self) -> Result<(), Failure> {
        let mut fruitless = 0;
        loop {
            let before = self.tally.blocks;
            match self.connection().await {
                Ok(()) => return self.wrong.take().map_or(Ok(()), Err),
                // Until an operator has done something: the same command resumes then.
                Err(error @ CaptureError::Held(_)) => return Err(self.failure(error)),
                Err(error) if error.is_transient() => {
                    fruitless = if self.tally.blocks > before { 0 } else { fruitless + 1 };
                    if fruitless >= FRUITLESS {
                        return Err(self.failure(error));
                    }
                    note(format!("{error}; resuming"));
                }
                Err(error) => return Err(self.failure(error)),
            }
        }
    }

    /// From one connection to its end.
    async fn connection(&mut self) -> Result<(), CaptureError> {
        let (mut blocks, mut acks, _) = self.capturer.resume(PATIENCE).await?;
        for block in &self.pending {
            unless_ended(send(&mut blocks, block).await)?;
        }
        while !(self.ended && self.pending.is_empty()) {
            let bytes: usize = self.pending.iter().map(|block| block.bytes).sum();
            let room = self.pending.len() < WINDOW && bytes < WINDOW_BYTES;
            tokio::select! {
                biased;
                ack = acks.next() => match ack? {
                    Some(ack) => self.acked(&ack),
                    None => return Err(CaptureError::Ended),
                },
                line = self.lines.recv(), if room && !self.ended => match line {
                    None => self.ended = true,
                    Some(Err(wrong)) => (self.ended, self.wrong) = (true, Some(wrong)),
                    Some(Ok(block)) => {
                        let sent = send(&mut blocks, &block).await;
                        self.pending.push_back(block);
                        unless_ended(sent)?;
                    }
                },
            }
        }
        finish(blocks, acks).await
    }

    fn acked(&mut self, ack: &Ack) {
        let Some(block) = self.pending.pop_front() else { return };
        let tally = &mut self.tally;
        tally.blocks += 1;
        tally.changes += block.changes.len() as u64;
        tally.duplicates += u64::from(ack.duplicate);
        tally.unverifiable += u64::from(ack.unverifiable);
        tally.height = Some(ack.height);
        tally.durability = Some(ack.durability);
    }

    /// A refusal is about the first block that was not acknowledged.
    fn failure(&self, error: CaptureError) -> Failure {
        let failure = Failure::from(error);
        match self.pending.front() {
            Some(block) => {
                failure.context(format!("line {} (height {})", block.line, block.height))
            }
            None => failure,
        }
    }
}

/// That the connection has ended is told, with the cause, by the acknowledgements.
fn unless_ended(sent: Result<(), CaptureError>) -> Result<(), CaptureError> {
    match sent {
        Err(CaptureError::Ended) => Ok(()),
        sent => sent,
    }
}

async fn send(blocks: &mut Blocks, block: &Block) -> Result<(), CaptureError> {
    let begin = Begin { time: block.time, ..Begin::at(block.height) };
    blocks.begin(begin).await?;
    for change in &block.changes {
        blocks.change(&change.store, change.op, &change.key, &change.value).await?;
    }
    blocks.end().await
}

async fn finish(mut blocks: Blocks, mut acks: Acks) -> Result<(), CaptureError> {
    blocks.finish();
    // Everything is acknowledged: what the end of the connection says does not matter.
    acks.next().await.ok();
    Ok(())
}

impl Tally {
    fn print(&self, out: &mut Out) -> Result<(), Failure> {
        if out.is_json() {
            out.json(&json!({
                "blocks": self.blocks,
                "changes": self.changes,
                "duplicates": self.duplicates,
                "unverifiable": self.unverifiable,
                "height": self.height,
                "durability": self.durability,
            }))?;
        } else {
            let durable = self.durability.map_or_else(String::new, |how| format!(" ({how})"));
            let height = self.height.map_or_else(|| "-".to_owned(), count);
            out.line(format!(
                "{} blocks durable{durable}, {} changes, {} were there already; height {height}",
                count(self.blocks),
                count(self.changes),
                count(self.duplicates + self.unverifiable),
            ))?;
        }
        out.flush()
    }
}

impl From<CaptureError> for Failure {
    fn from(error: CaptureError) -> Self {
        let exit = match &error {
            CaptureError::NotOwner { .. }
            | CaptureError::Held(_)
            | CaptureError::WrongParent(_)
            | CaptureError::Divergent(_)
            | CaptureError::Superseded(_) => Exit::Refused,
            CaptureError::Invalid(_) | CaptureError::TooLarge(_) | CaptureError::Changes(_) => {
                Exit::Usage
            }
            CaptureError::NotFound(_) => Exit::NotFound,
            CaptureError::Refused(status) => Self::from(status.as_ref()).exit(),
            CaptureError::Unknown(_) | CaptureError::Ended => Exit::Unreachable,
            CaptureError::Usage(_) => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}
