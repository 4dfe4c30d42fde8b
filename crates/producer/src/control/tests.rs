use super::*;

fn at(height: u64) -> Pointer {
    Pointer::from_height(height)
}

fn head(generation: u32, height: u64) -> Head {
    Head {
        generation: Generation(generation),
        pointer: at(height),
        height,
        digest: Digest::from_array([7; 32]),
        time: None,
        appended: 0,
    }
}

fn blocked(height: Option<u64>) -> Blocked {
    Blocked { pointer: height.map(at), cause: "no such file".to_owned() }
}

fn calm(head: &Head) -> Situation<'_> {
    Situation {
        head: Some(head),
        top: Top::Block,
        blocked: None,
        loss: None,
        newest: head.generation,
        settled: true,
    }
}

fn skip_of(height: u64, through: Option<u64>) -> ActionKind {
    ActionKind::Skip { pointer: at(height), through: at(through.unwrap_or(height)) }
}

fn rewind_to(generation: u32, height: u64) -> ActionKind {
    ActionKind::Rewind { to: Position::end_of(Generation(generation), at(height)), digest: None }
}

fn action(kind: ActionKind) -> Action {
    let (actor, reason) = ("ann".to_owned(), "node restored".to_owned());
    Action { id: 4, actor, reason, requested: 0, kind }
}

fn refused(plan: &Plan) -> &str {
    let Plan::Refuse(why) = plan else { panic!("{plan:?}") };
    why
}

#[test]
fn an_action_comes_before_a_pause_and_a_pause_before_capture() {
    let paused = Some(Paused { by: "ann".into(), reason: "upgrade".into(), at: 0, alarm: false });
    let ingestor = "hub".parse().unwrap();
    let mut control = Control { ingestor, paused, action: None, last: None, version: 1 };
    assert_eq!(duty(&control), Duty::Hold);
    let action = action(ActionKind::Retry);
    control.action = Some(action.clone());
    assert_eq!(duty(&control), Duty::Perform(&action));
    (control.paused, control.action) = (None, None);
    assert_eq!(duty(&control), Duty::Capture);
}

#[test]
fn only_the_block_that_the_ingestor_stands_at_is_skipped() {
    let head = head(0, 6);
    let (here, other, none) = (blocked(Some(7)), blocked(Some(9)), blocked(None));
    let with = |blocked| Situation { blocked: Some(blocked), ..calm(&head) };
    let skipped = Plan::Skip { from: at(7), to: at(7) };
    assert_eq!(plan(&skip_of(7, None), &with(&here)), skipped);
    let three = Plan::Skip { from: at(7), to: at(9) };
    assert_eq!(plan(&skip_of(7, Some(9)), &with(&here)), three);
    for (height, blocked) in [(8, &here), (7, &other), (7, &none)] {
        let plan = plan(&skip_of(height, None), &with(blocked));
        assert!(refused(&plan).contains("blocked at"), "{plan:?}");
    }
    assert!(refused(&plan(&skip_of(7, Some(6)), &with(&here))).contains("no range"));
    assert!(refused(&plan(&skip_of(7, None), &calm(&head))).contains("not blocked"));
}

#[test]
fn a_fresh_owner_waits_until_it_knows_whether_it_is_blocked() {
    let head = head(0, 6);
    let fresh = Situation { settled: false, ..calm(&head) };
    assert_eq!(plan(&skip_of(7, None), &fresh), Plan::Wait);
}

#[test]
fn what_the_journal_has_is_not_skipped_and_a_gap_that_is_there_counts_as_done() {
    let head = head(0, 9);
    let stuck = blocked(Some(8));
    let passed = Situation { blocked: Some(&stuck), ..calm(&head) };
    assert!(refused(&plan(&skip_of(8, None), &passed)).contains("passed block 8"));
    let gap = Situation { top: Top::Gap, ..calm(&head) };
    assert!(matches!(plan(&skip_of(8, Some(9)), &gap), Plan::Done(_)));
    assert!(refused(&plan(&skip_of(8, None), &gap)).contains("passed"), "another gap");
}

#[test]
fn a_rewind_begins_a_history_at_a_block_of_the_journal() {
    let head = head(2, 9);
    let to = Position::end_of(Generation(1), at(4));
    let begin = Plan::Begin { base: Some((to, None)), generation: Generation(3) };
    assert_eq!(plan(&rewind_to(1, 4), &calm(&head)), begin);
    for beyond in [rewind_to(2, 10), rewind_to(3, 1)] {
        assert!(refused(&plan(&beyond, &calm(&head))).contains("beyond the journal's head"));
    }
    let empty = Situation { head: None, ..calm(&head) };
    assert!(refused(&plan(&rewind_to(0, 4), &empty)).contains("empty"));
}

#[test]
fn a_rewind_that_was_done_is_not_done_again() {
    let head = head(1, 4);
    let done = Situation { top: Top::Generation, ..calm(&head) };
    assert!(matches!(plan(&rewind_to(0, 4), &done), Plan::Done(_)));
    assert!(matches!(plan(&rewind_to(0, 3), &done), Plan::Begin { .. }), "another base");
    assert!(matches!(plan(&rewind_to(1, 4), &done), Plan::Begin { .. }), "asked for after it");
    assert!(matches!(plan(&rewind_to(0, 4), &calm(&head)), Plan::Begin { .. }), "a block");
}

#[test]
fn a_loss_is_accepted_above_every_generation_that_was_named() {
    let head = head(0, 4);
    let lost =
        Situation { loss: Some("the committed block is 6"), newest: Generation(2), ..calm(&head) };
    let begin = Plan::Begin { base: None, generation: Generation(3) };
    assert_eq!(plan(&ActionKind::AcceptLoss, &lost), begin);
    let nothing = Situation { head: None, top: Top::Nothing, ..lost };
    assert_eq!(plan(&ActionKind::AcceptLoss, &nothing), begin);
    assert!(matches!(plan(&rewind_to(0, 2), &lost), Plan::Begin { .. }));
    assert!(refused(&plan(&skip_of(5, None), &lost)).contains("halted"));
    let absurd = Situation { newest: Generation(u32::MAX), ..lost };
    assert!(refused(&plan(&ActionKind::AcceptLoss, &absurd)).contains("cannot be"));
}

#[test]
fn without_a_loss_there_is_nothing_to_accept() {
    let head = head(1, 4);
    assert!(refused(&plan(&ActionKind::AcceptLoss, &calm(&head))).contains("no loss"));
    let done = Situation { top: Top::Generation, ..calm(&head) };
    assert!(matches!(plan(&ActionKind::AcceptLoss, &done), Plan::Done(_)));
}

#[test]
fn words() {
    let action = action(skip_of(7, Some(9)));
    assert_eq!(describe(&action), "skip 7 through 9 (#4, by ann): node restored");
    let pause = Paused { by: "ann".into(), reason: "upgrade".into(), at: 0, alarm: false };
    let text = paused(&"hub".parse().unwrap(), &pause);
    assert_eq!(text, "paused by ann: upgrade; to go on: sluice ingestors resume hub");
}
