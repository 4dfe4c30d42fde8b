//! Who asks, and whether they mean it.

use std::io::{BufRead as _, IsTerminal as _, stderr, stdin};

use crate::{
    cli::ActArgs,
    exit::{Exit, Failure},
    node,
    output::note,
};

/// What a verb is about to do.
pub(super) struct Plan {
    /// In words, for the question.
    effect: String,
    /// Something is given up for good: without a terminal it needs --yes.
    loses: bool,
}

impl Plan {
    pub(super) fn harmless(effect: impl Into<String>) -> Self {
        Self { effect: effect.into(), loses: false }
    }

    pub(super) fn lossy(effect: impl Into<String>) -> Self {
        Self { effect: effect.into(), loses: true }
    }
}

/// Says what is about to happen and asks, if there is somebody to ask.
pub(super) async fn consent(act: &ActArgs, verb: &str, plan: &Plan) -> Result<(), Failure> {
    let text = format!("{} {}: {}", verb, act.ingestor, plan.effect);
    if act.yes {
        return Ok(());
    }
    if !(stdin().is_terminal() && stderr().is_terminal()) {
        if plan.loses {
            let message = format!("{text}; without a terminal this needs --yes");
            return Err(Failure::usage(message).fix("the same with --yes"));
        }
        return Ok(());
    }
    note(format!("{text}\nGo on? [y/N]"));
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        stdin().lock().read_line(&mut line).map(|_| line)
    });
    let answer = answer.await.map_err(|error| Failure::new(Exit::Failed, error.to_string()))??;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failed, "nothing was done")),
    }
}

/// Who asks: as given, or the user of this process and the machine.
pub(super) fn actor(act: &ActArgs) -> String {
    match &act.actor {
        Some(actor) => actor.clone(),
        None => format!("{}@{}", user(), node::node_name()),
    }
}

/// The name of the user that this process runs as; the number where it has none.
fn user() -> String {
    let id = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    user_of(&users, id).unwrap_or_else(|| format!("uid-{id}"))
}

fn user_of(users: &str, id: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id.to_string()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_found_by_number() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbroken\n";
        assert_eq!(user_of(users, 1000).as_deref(), Some("alice"));
        assert_eq!(user_of(users, 0).as_deref(), Some("root"));
        assert_eq!(user_of(users, 100), None);
    }
}
