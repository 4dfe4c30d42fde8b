//! `sluice tail`: the changes of an ingestor as they come.

use std::time::Duration;

use sluice_client::subscribe::{Item, SubscribeOptions, Subscriber};
use sluice_model::{Filter, FilterSpec, StartPosition};

use crate::{
    cli::TailArgs,
    cmd::events::Printer,
    connect::Server,
    exit::{Exit, Failure, Outcome},
    output::{Out, note},
};

/// How long a tail that lost its router tries to find it again.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

pub(crate) async fn run(server: &Server, out: &mut Out, args: &TailArgs, verbose: u8) -> Outcome {
    let filter = FilterSpec::from(&args.filter);
    Filter::compile(&filter).map_err(|error| Failure::usage(error.to_string()))?;
    // Asked first: a subscription would try for long to reach a router that is not there.
    server.journal(&args.ingestor).await?;
    let start = args.from.clone().unwrap_or(match args.until {
        Some(_) => StartPosition::Earliest,
        None => StartPosition::Latest,
    });
    let mut options = SubscribeOptions::new(args.ingestor.clone(), start);
    options.filter = filter;
    options.until = args.until;
    options.give_up_after = Some(GIVE_UP_AFTER);
    let mut subscriber = Subscriber::new(server.transport(), options);
    let mut printer = Printer::new(args.hex, args.limit);
    while !printer.is_done() {
        let next = subscriber.next().await.map_err(|error| {
            let at = subscriber.checkpoint().map(|at| format!(" after {}", at.position));
            Failure::from(error)
                .context(format!("{}{}", args.ingestor, at.unwrap_or_default()))
                .fix(format!("sluice status --server {}", server.url()))
        })?;
        match next {
            None | Some(Item::Complete(_)) => break,
            Some(Item::Frame(frame)) => printer.frame(out, &frame)?,
            Some(other) => remark(&other, verbose),
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// What is no change but belongs to the picture goes beside the results.
fn remark(item: &Item, verbose: u8) {
    match item {
        Item::Gap(gap) => {
            note(format!("gap: blocks {} to {} are missing: {}", gap.from, gap.to, gap.cause));
        }
        Item::Rewind(rewind) => note(format!(
            "generation {}: history goes on after {} ({}, by {})",
            rewind.through.generation, rewind.base, rewind.reason, rewind.actor
        )),
        Item::Through(through) if verbose > 0 => note(format!("through {}", through.position)),
        Item::Heartbeat(head) if verbose > 0 => note(format!("head {}", head.position())),
        Item::Through(_) | Item::Heartbeat(_) | Item::Frame(_) | Item::Complete(_) => {}
    }
}
