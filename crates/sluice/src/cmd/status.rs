//! `sluice status`: one screen; every bad line ends with the command to run.

mod spread;

use serde_json::{Value, json};
use sluice_proto::v1 as pb;

use crate::{
    cmd::{ingestors, streams},
    connect::{Access, Peer, Server},
    exit::{Exit, Failure, Outcome},
    output::{Out, Paint, bytes, count},
};

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Ok,
    Degraded,
    Down,
}

impl Health {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }

    const fn paint(self) -> Paint {
        match self {
            Self::Ok => Paint::Good,
            Self::Degraded => Paint::Warn,
            Self::Down => Paint::Bad,
        }
    }
}

/// One line of the screen.
struct Line {
    what: &'static str,
    name: String,
    health: Health,
    text: String,
    /// The command that shows or fixes it.
    run: String,
    json: Value,
}

pub(crate) async fn run(access: &Access, out: &mut Out) -> Outcome {
    let lines = match access.spread() {
        Some(config) => spread::look(access, config).await?,
        None => look(&access.at(Peer::Router)?, &access.start("run")).await,
    };
    let health = lines.iter().map(|line| line.health).max().unwrap_or(Health::Down);
    if out.is_json() {
        let all: Vec<Value> = lines
            .iter()
            .map(|line| {
                json!({
                    "kind": line.what,
                    "name": line.name,
                    "health": line.health.word(),
                    "text": line.text,
                    "run": line.run,
                    "detail": line.json,
                })
            })
            .collect();
        out.json(&json!({"health": health.word(), "items": all}))?;
    } else {
        screen(out, &lines)?;
    }
    out.flush()?;
    // The codes of this command are its own: 1 degraded, 2 down.
    Ok(match health {
        Health::Ok => Exit::Ok,
        Health::Degraded => Exit::Failed,
        Health::Down => Exit::Usage,
    })
}

fn screen(out: &mut Out, lines: &[Line]) -> Result<(), Failure> {
    let width = lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
    for line in lines {
        let health = out.paint(line.health.paint(), &format!("{:<8}", line.health.word()));
        let mut text = format!("{health}  {:<11}  {:<width$}  {}", line.what, line.name, line.text);
        if line.health != Health::Ok {
            text.push_str(&format!("  → {}", line.run));
        }
        out.line(text.trim_end())?;
    }
    Ok(())
}

/// Asks every service that answers at this address. One of another address is no fault.
async fn look(server: &Server, start: &str) -> Vec<Line> {
    let (locks, journals, captures, deliveries) = tokio::join!(
        locks(server),
        journals(server),
        ingestors::list(server),
        streams::list(server)
    );
    let (mut lines, mut inner) = (Vec::new(), Vec::new());
    lines.extend(service(server, "coordinator", start, locks.as_deref().map(held)));
    inner.extend(journals.iter().flatten().map(|own| journal(server, own)));
    lines.extend(service(server, "router", start, counted(&journals, "journals")));
    inner.extend(captures.iter().flatten().map(|own| ingestor(server, own)));
    lines.extend(service(server, "producer", start, captured(&captures)));
    inner.extend(deliveries.iter().flatten().map(|own| stream(server, own)));
    lines.extend(service(server, "sinks", start, counted(&deliveries, "streams")));
    // Nothing at all: one line says it.
    if lines.iter().all(|line| line.health == Health::Down) {
        lines.truncate(1);
        lines.iter_mut().for_each(|line| line.what = "server");
    }
    lines.extend(inner);
    lines
}

async fn locks(server: &Server) -> Result<Vec<pb::LockStatus>, Failure> {
    let mut client = server.coordinator();
    Ok(server.ask(client.list_locks(pb::ListLocksRequest::default())).await?.locks)
}

async fn journals(server: &Server) -> Result<Vec<pb::JournalStatus>, Failure> {
    let mut client = server.router();
    Ok(server.ask(client.list_journals(pb::ListJournalsRequest {})).await?.journals)
}

fn held(locks: &[pb::LockStatus]) -> String {
    format!("{} locks held", locks.iter().filter(|lock| lock.owner.is_some()).count())
}

fn counted<'a, T>(all: &'a Result<Vec<T>, Failure>, what: &str) -> Result<String, &'a Failure> {
    all.as_ref().map(|all| format!("{} {what}", all.len()))
}

/// The ingestors, and how many of them do not capture.
fn captured(all: &Result<Vec<pb::IngestorStatus>, Failure>) -> Result<String, &Failure> {
    use pb::IngestorState as State;
    let mut text = counted(all, "ingestors")?;
    let stuck = [State::Halted, State::Blocked, State::Paused].map(|state| {
        let number = all.iter().flatten().filter(|own| own.state() == state).count();
        (number > 0).then(|| format!("{number} {}", ingestors::word(state)))
    });
    let stuck: Vec<String> = stuck.into_iter().flatten().collect();
    if !stuck.is_empty() {
        text.push_str(&format!(" ({})", stuck.join(", ")));
    }
    Ok(text)
}

/// The line of a service; none if the address is that of another kind.
fn service(
    server: &Server,
    what: &'static str,
    start: &str,
    answer: Result<String, &Failure>,
) -> Option<Line> {
    let line = |health, text: String, run: &str| Line {
        what,
        name: server.url().to_owned(),
        health,
        text,
        run: run.to_owned(),
        json: json!({"server": server.url()}),
    };
    match answer {
        Ok(text) => Some(line(Health::Ok, text, "")),
        Err(failure) if failure.exit() == Exit::NotFound => None,
        Err(failure) if failure.exit() == Exit::Unreachable => {
            Some(line(Health::Down, "nothing answers".to_owned(), start))
        }
        Err(failure) => {
            let text = failure.to_string();
            let text = text.lines().next().unwrap_or_default().to_owned();
            Some(line(Health::Degraded, text, "sluice status -o json"))
        }
    }
}

fn journal(server: &Server, own: &pb::JournalStatus) -> Line {
    let height = own.head.as_ref().map_or(0, |head| head.height);
    let mut text =
        format!("height {}, {} blocks, {}", count(height), count(own.blocks), bytes(own.bytes));
    let mut run = String::new();
    let mut health = Health::Ok;
    if own.quarantined_blocks > 0 {
        health = Health::Degraded;
        text.push_str(&format!(", {} blocks unreadable", own.quarantined_blocks));
        run = format!("sluice journal verify {}", own.ingestor);
    }
    if !own.append_refused.is_empty() {
        health = Health::Degraded;
        text.push_str(&format!(", appends refused: {}", own.append_refused));
        run = "df -h   (on the router's data directory)".to_owned();
    }
    let json = json!({
        "height": height,
        "oldestHeight": own.oldest_height,
        "blocks": own.blocks,
        "changes": own.changes,
        "bytes": own.bytes,
        "segments": own.segments,
        "subscribers": own.subscribers,
        "quarantinedBlocks": own.quarantined_blocks,
        "server": server.url(),
    });
    Line { what: "journal", name: own.ingestor.clone(), health, text, run, json }
}

fn ingestor(server: &Server, own: &pb::IngestorStatus) -> Line {
    use pb::IngestorState as State;
    let health = match own.state() {
        // Captures nothing until somebody does something.
        State::Halted => Health::Down,
        State::Active | State::Finished | State::Opening if !own.paused => Health::Ok,
        State::Standby if own.cause.is_empty() => Health::Ok,
        _ => Health::Degraded,
    };
    let mut text = format!(
        "{} at height {}, {} behind {}",
        ingestors::state(own),
        count(ingestors::height(own)),
        count(ingestors::lag(own)),
        own.source
    );
    if health != Health::Ok {
        text = format!("{text}: {}", own.cause);
    }
    if !own.pending_action.is_empty() {
        text = format!("{text}; waits to be done: {}", own.pending_action);
    }
    let verb = if own.state() == State::Paused { "resume" } else { "get" };
    let run = format!("sluice ingestors {verb} {} --server {}", own.ingestor, server.url());
    let json = ingestors::to_json(own);
    Line { what: "ingestor", name: own.ingestor.clone(), health, text, run, json }
}

fn stream(server: &Server, own: &pb::StreamStatus) -> Line {
    use pb::StreamState as State;
    let health = match own.state() {
        State::Running | State::Starting | State::Waiting => Health::Ok,
        _ => Health::Degraded,
    };
    let mut text = format!(
        "{} at height {}, {} behind",
        streams::state(own),
        count(own.checkpoint_height),
        count(streams::lag(own))
    );
    if health != Health::Ok || (own.state() == State::Starting && !own.cause.is_empty()) {
        text = format!("{text}: {}", own.cause);
    }
    let run = format!("sluice streams get {} --server {}", own.name, server.url());
    let json = streams::to_json(own);
    Line { what: "stream", name: own.name.clone(), health, text, run, json }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server::new("http://127.0.0.1:1").unwrap()
    }

    #[tokio::test]
    async fn a_bad_line_ends_with_the_command_to_run() {
        let own = pb::StreamStatus {
            name: "ledger".into(),
            state: pb::StreamState::Blocked.into(),
            cause: "POST answered 500".into(),
            ..Default::default()
        };
        let line = stream(&server(), &own);
        assert_eq!(line.health, Health::Degraded);
        assert!(line.text.ends_with("POST answered 500"), "{}", line.text);
        assert!(line.run.starts_with("sluice streams get ledger"));
        let own =
            pb::IngestorStatus { state: pb::IngestorState::Standby.into(), ..Default::default() };
        assert_eq!(ingestor(&server(), &own).health, Health::Ok, "a standby is as it should be");
    }

    #[tokio::test]
    async fn an_ingestor_that_captures_nothing_is_not_ok() {
        use pb::IngestorState as State;
        let own = |state: State| pb::IngestorStatus {
            ingestor: "hub".into(),
            state: state.into(),
            cause: "because".into(),
            ..Default::default()
        };
        for (state, health, verb) in [
            (State::Active, Health::Ok, "get"),
            (State::Paused, Health::Degraded, "resume"),
            (State::Blocked, Health::Degraded, "get"),
            (State::Halted, Health::Down, "get"),
        ] {
            let line = ingestor(&server(), &own(state));
            assert_eq!(line.health, health, "{state:?}");
            assert!(line.run.starts_with(&format!("sluice ingestors {verb} hub")), "{}", line.run);
            assert_eq!(line.text.contains("because"), health != Health::Ok, "{}", line.text);
        }
        let drains = pb::IngestorStatus { paused: true, ..own(State::Active) };
        assert_eq!(ingestor(&server(), &drains).health, Health::Degraded);
        let all = Ok(vec![own(State::Active), own(State::Paused), own(State::Halted)]);
        assert_eq!(captured(&all).unwrap(), "3 ingestors (1 halted, 1 paused)");
    }

    #[tokio::test]
    async fn silence_is_one_line_and_down() {
        let lines = look(&server(), "sluice run").await;
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].what, lines[0].health), ("server", Health::Down));
        assert_eq!(lines[0].run, "sluice run");
    }
}
