//! One ingestor in full.

use serde_json::Value;
use sluice_proto::v1 as pb;

use super::{
    super::{Known, audit, feeds, member, pointer, target},
    causes, committed, epoch, epoch_text, generation, json, lag_text, moment, standbys, state_of,
};
use crate::{
    exit::Failure,
    output::{Out, count},
};

/// The long form.
pub(in crate::cmd::ingestors) fn get(
    out: &mut Out,
    known: &Known,
    trail: &Result<Vec<pb::AuditEntry>, Failure>,
) -> Result<(), Failure> {
    if out.is_json() {
        let mut all = json(known);
        let entries = trail.iter().flatten().map(audit::to_json).collect::<Vec<_>>();
        if let Some(all) = all.as_object_mut() {
            all.insert("audit".to_owned(), Value::Array(entries));
        }
        out.json(&all)?;
        return out.flush();
    }
    let mut line = |name: &str, value: String| match value.is_empty() {
        true => Ok(()),
        false => out.line(format!("{name:<14}{value}")),
    };
    line("ingestor", known.name.clone())?;
    line("state", state_of(known).to_owned())?;
    for cause in causes(known) {
        line("cause", cause)?;
    }
    let at = |own: &pb::Member| format!("{}, {}", member(own), own.address);
    line("owner", known.owner().map_or_else(|| "nobody".to_owned(), at))?;
    for waiter in standbys(known) {
        line("standby", at(waiter))?;
        for told in feeds::lines(known, &waiter.address) {
            line("its feed", told)?;
        }
    }
    progress(&mut line, known)?;
    if let Some(last) = known.control.as_ref().and_then(|control| control.last.as_ref()) {
        line("last action", target::ended(last))?;
    }
    for remark in known.status.iter().flat_map(|status| &status.repairs) {
        line("remark", remark.clone())?;
    }
    for what in &known.not_asked {
        line("not asked", what.clone())?;
    }
    match trail {
        Ok(entries) if !entries.is_empty() => {
            line("trail", format!("the last {}", entries.len()))?;
            for entry in entries {
                line("", format!("  {}", audit::text(entry)))?;
            }
        }
        Ok(_) => {}
        Err(failure) => line("not asked", format!("trail: {}", failure.message()))?,
    }
    out.flush()
}

/// How far it is.
fn progress(
    line: &mut impl FnMut(&str, String) -> Result<(), Failure>,
    known: &Known,
) -> Result<(), Failure> {
    let status = known.owned().or(known.status.as_ref());
    line("epoch", epoch_text(epoch(known)))?;
    line("generation", generation(known).to_string())?;
    if let Some(head) = known.head() {
        let digest = hex::encode(head.digest.get(..8).unwrap_or_default());
        line("head", format!("{}, digest {digest}…", count(head.height)))?;
        line("head's time", moment(head.time.as_ref()))?;
    }
    line("committed", committed(known))?;
    line("lag", lag_text(known))?;
    let Some(status) = status else { return Ok(()) };
    line("source", format!("{} at height {}", status.source, count(status.source_height)))?;
    line("blocked at", pointer(&status.blocked_pointer))?;
    line("last commit", moment(status.committed_at.as_ref()))?;
    let since = format!("{} blocks, {} changes", count(status.blocks), count(status.changes));
    line("since start", since)?;
    if let Some(gap) = status.last_gap.as_ref().and_then(|own| own.gap.as_ref()) {
        let stretch = format!("{} to {}: {}", pointer(&gap.from), pointer(&gap.to), gap.cause);
        line("last gap", stretch)?;
    }
    Ok(())
}
