//! `sluice ingestors verify`: the first place where a journal and another source of truth differ.

use std::{path::Path, sync::Arc};

use serde_json::{Value, json};

use crate::{
    cli::VerifyArgs,
    connect::{Access, Server},
    exit::{Exit, Failure, Outcome},
    output::{Out, count},
    progress::Progress,
    verify::{self, Against, Difference, How, Report, Scope, Side, What},
};

pub(super) async fn run(
    access: &Access,
    router: &Server,
    out: &mut Out,
    args: &VerifyArgs,
) -> Outcome {
    let scope = Arc::new(Scope::new(&args.stores, args.from, args.until)?);
    let ingestor = args.other.as_ref().unwrap_or(&args.ingestor);
    let against = match args.against.starts_with("http://") || args.against.starts_with("https://")
    {
        true => Against::Router(access.server(&args.against)?, ingestor.clone()),
        false => Against::Directory(Path::new(&args.against)),
    };
    let how = How { ingestor, prefix: &args.prefix };
    let (mut here, shown) = verify::at_router(router, &args.ingestor, &scope).await?;
    let (mut there, other) = verify::open(&against, &how, &scope).await?;
    let goal = goal(here.as_ref(), there.as_ref(), &scope);
    let mut progress = Progress::new(args.ingestor.as_str());
    let mut tell = |height| progress.set(height, goal.max(height));
    let report = verify::compare(here.as_mut(), there.as_mut(), &scope, &mut tell).await;
    progress.finish();
    let report = report?;
    if report.range.is_none() && report.difference.is_none() {
        let message = format!(
            "nothing was compared: {shown} begins at {}, {other} at {}, and they have no height in \
             common",
            count(here.first()),
            count(there.first())
        );
        return Err(Failure::new(Exit::NotFound, message).fix(format!(
            "sluice ingestors get {} --server {}",
            args.ingestor,
            router.url()
        )));
    }
    print(out, args, (&shown, &other), &report)
}

/// Where the comparison will end, as far as the sides know.
fn goal(here: &dyn Side, there: &dyn Side, scope: &Scope) -> u64 {
    let known = [here.last(), there.last(), scope.until];
    known.into_iter().flatten().min().unwrap_or(0)
}

fn print(
    out: &mut Out,
    args: &VerifyArgs,
    (here, there): (&str, &str),
    report: &Report,
) -> Outcome {
    let (from, to) = report.range.unwrap_or_default();
    let exit = if report.difference.is_none() { Exit::Ok } else { Exit::Data };
    if out.is_json() {
        out.json(&json!({
            "ingestor": args.ingestor,
            "against": args.against,
            "same": report.difference.is_none(),
            "from": from,
            "to": to,
            "blocks": report.blocks,
            "chained": report.chained,
            "difference": report.difference.as_ref().map(difference_json),
            "notes": report.notes,
        }))?;
        out.flush()?;
        return Ok(exit);
    }
    for note in &report.notes {
        out.line(note)?;
    }
    match &report.difference {
        None => out.line(format!(
            "the same: heights {} to {}, {} blocks with changes, the chain of digests checked over \
             {}; {here} and {there}",
            count(from),
            count(to),
            count(report.blocks),
            count(report.chained),
        ))?,
        Some(difference) => {
            out.line(format!(
                "DIFFERENT at height {}; {} blocks before it are the same",
                count(difference.height),
                count(report.blocks.saturating_sub(u64::from(compared(&difference.what)))),
            ))?;
            for line in lines(&difference.what, here, there) {
                out.line(format!("  {line}"))?;
            }
            out.line(format!(
                "  run: sluice tail {0} --from height:{1} --until {1} -o jsonl",
                args.ingestor, difference.height
            ))?;
        }
    }
    out.flush()?;
    Ok(exit)
}

/// True if both sides have the block that differs.
const fn compared(what: &What) -> bool {
    !matches!(what, What::OnlyHere(_) | What::OnlyThere(_))
}

/// What differs, a line for each thing.
fn lines(what: &What, here: &str, there: &str) -> Vec<String> {
    let missing = |side: &str, why: &Option<String>| {
        let why = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        vec![format!("the block is missing in {side}{why}")]
    };
    let both = |what: &str, mine: &str, other: &str| {
        vec![format!("{what} is {mine} in {here}"), format!("{what} is {other} in {there}")]
    };
    match what {
        What::Stores(stores) => stores
            .iter()
            .flat_map(|store| {
                let said = |digest: Option<sluice_model::Digest>| {
                    digest.map_or_else(|| "no changes".to_owned(), |digest| digest.to_string())
                };
                both(&format!("store {}", store.store), &said(store.here), &said(store.there))
            })
            .collect(),
        What::Order => vec!["the stores are the same, in another order".to_owned()],
        What::Metadata { here, there } => {
            both("the metadata", &here.to_string(), &there.to_string())
        }
        What::Pointer { here, there } => both("the pointer", here, there),
        What::Chain { here, there } => {
            let mut lines = both("the digest", &here.to_string(), &there.to_string());
            lines.push("the block is the same, and something before it is not".to_owned());
            lines
        }
        What::OnlyThere(why) => missing(here, why),
        What::OnlyHere(why) => missing(there, why),
    }
}

fn difference_json(difference: &Difference) -> Value {
    let (what, here, there, why) = match &difference.what {
        What::Stores(_) => ("stores", None, None, None),
        What::Order => ("order", None, None, None),
        What::Metadata { here, there } => {
            ("metadata", Some(here.to_string()), Some(there.to_string()), None)
        }
        What::Pointer { here, there } => ("pointer", Some(here.clone()), Some(there.clone()), None),
        What::Chain { here, there } => {
            ("chain", Some(here.to_string()), Some(there.to_string()), None)
        }
        What::OnlyThere(why) => ("missing-here", None, None, why.clone()),
        What::OnlyHere(why) => ("missing-there", None, None, why.clone()),
    };
    let stores: Vec<Value> = match &difference.what {
        What::Stores(stores) => stores
            .iter()
            .map(|store| json!({"store": store.store, "here": store.here, "there": store.there}))
            .collect(),
        _ => Vec::new(),
    };
    json!({
        "height": difference.height,
        "what": what,
        "stores": stores,
        "here": here,
        "there": there,
        "why": why,
    })
}
