//! A run as one page for a browser: machines as lines, messages as arrows, faults, roles, terms and
//! the cursors of each log, along a time that can be scrubbed. The page needs nothing from outside.
//!
//! This file gathers what is to be drawn; `html/page.html` draws it. Times are in microseconds.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use raft_core::types::Time;
use serde_json::{Value, json};

use crate::app::App;
use crate::invariants::RULES;
use crate::plan::{Machine, Plan};
use crate::trace::{CopyId, Loss, OpEnd, Seen, Violation, Watch};
use crate::transcript;
use crate::world::{Report, View};

/// A page being written.
pub struct Page {
    name: String,
    plan: String,
    story: Rc<RefCell<Story>>,
}

/// Whoever holds it sees the run and draws.
struct Pen(Rc<RefCell<Story>>);

/// What is drawn.
#[derive(Default)]
struct Story {
    machines: usize,
    /// Copies of messages: the last ones, because a page must fit into a browser.
    messages: VecDeque<Value>,
    under_way: BTreeMap<CopyId, (u64, Machine, Machine, u64, String, String)>,
    /// `[machine, time, role, term]`, at each change.
    roles: Vec<Value>,
    /// `[machine, time, last, durable, committed, applied, snapshot]`, at each change.
    cursors: VecDeque<Value>,
    /// `[time, end, text, machine]`.
    faults: Vec<Value>,
    open_faults: BTreeMap<usize, usize>,
    /// `[client, machine, begin, end, question, outcome]`.
    ops: VecDeque<Value>,
    open_ops: BTreeMap<u32, (u64, u8, Machine, String)>,
    /// `[time, text, machine]`: the transcript.
    lines: VecDeque<Value>,
    known: Vec<Known>,
    forgotten: bool,
}

/// What of a machine was drawn last.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    role: &'static str,
    term: u64,
    cursors: [u64; 5],
}

/// Most of each kind on one page; the newest are kept.
const MESSAGES_MAX: usize = 60_000;
const LINES_MAX: usize = 60_000;

const TEMPLATE: &str = include_str!("html/page.html");

impl Page {
    /// An empty page for a run of this plan.
    pub fn new(name: &str, plan: &Plan) -> Page {
        let machines = usize::from(plan.machines());
        let known = vec![Known::default(); machines];
        let story = Story { machines, known, ..Story::default() };
        // Requests are lines of their own on the page: the plan is shown without them.
        let quiet = Plan { ops: Vec::new(), ..plan.clone() };
        Page { name: name.to_owned(), plan: quiet.to_string(), story: Rc::new(RefCell::new(story)) }
    }

    /// Watches the run for this page.
    pub fn pen<A: App>(&self) -> impl Watch<A> + use<A> {
        Pen(Rc::clone(&self.story))
    }

    /// The page, when the run is over.
    pub fn html(&mut self, report: &Report) -> String {
        let mut story = self.story.take();
        let end = micros(report.ended);
        let lost: Vec<_> = std::mem::take(&mut story.under_way).into_values().collect();
        for (sent, from, to, arrives, kind, text) in lost {
            story.message(sent, from, to, arrives.min(end), &kind, &text, "under way");
        }
        for (begun, client, to, text) in std::mem::take(&mut story.open_ops).into_values() {
            story.ops.push_back(json!([client, to.0, begun, end, text, "open"]));
        }
        let failure = report.failure.as_ref().map(|Violation { rule, what }| {
            let words = RULES.iter().find(|(name, _)| name == rule).map_or("", |(_, words)| words);
            let machine = named(what);
            json!({ "rule": rule, "words": words, "what": what, "time": end, "machine": machine })
        });
        let data = json!({
            "name": self.name, "plan": self.plan, "machines": story.machines, "end": end,
            "failure": failure, "forgotten": story.forgotten, "messages": story.messages,
            "roles": story.roles, "cursors": story.cursors, "faults": story.faults,
            "ops": story.ops, "lines": story.lines,
        });
        // Nothing in the data may end the script that holds it.
        let data = data.to_string().replace('<', "\\u003c");
        TEMPLATE.replace("/*DATA*/null", &data)
    }
}

impl<A: App> Watch<A> for Pen {
    fn see(&mut self, now: Time, seen: &Seen<'_, A>, view: &View<'_, A>) -> Result<(), Violation> {
        let story = &mut *self.0.borrow_mut();
        let at = micros(now);
        match seen {
            Seen::Started { machine, .. } | Seen::Stepped { machine } => {
                story.look(at, *machine, view);
            }
            Seen::Crashed { machine } => story.role(at, *machine, "down", 0),
            Seen::Exited { machine, exit } if !matches!(exit, crate::trace::Exit::Locked) => {
                story.role(at, *machine, "down", 0);
            }
            Seen::Paused { machine, still } => {
                if *still {
                    story.role(at, *machine, "still", 0);
                } else {
                    story.look(at, *machine, view);
                }
            }
            Seen::Launched { copy, from, to, arrives, message } => {
                let text = transcript::line(seen, view).unwrap_or_default();
                let entry =
                    (at, *from, *to, micros(*arrives), message.body.kind().to_owned(), text);
                story.under_way.insert(*copy, entry);
            }
            Seen::Delivered { copy, .. } => story.arrived(at, *copy, ""),
            Seen::Lost { copy: Some(copy), why, .. } => story.arrived(at, *copy, words(*why)),
            Seen::Lost { copy: None, from, to, why } => {
                story.message(at, *from, *to, at + 300, "lost", "", words(*why));
            }
            Seen::OpBegun { op, planned, to, request } => {
                let text = format!("{request:?}");
                story.open_ops.insert(op.0, (at, planned.client, *to, text));
            }
            Seen::OpEnded { op, end, .. } => {
                let how = match end {
                    OpEnd::Answered { .. } => "answered",
                    OpEnd::NotApplied => "not applied",
                    OpEnd::Unknown => "unknown",
                };
                if let Some((begun, client, to, text)) = story.open_ops.remove(&op.0) {
                    story.ops.push_back(json!([client, to.0, begun, at, text, how]));
                    story.forgotten |= trim(&mut story.ops, LINES_MAX);
                }
            }
            Seen::Fault { number, fault, on } => {
                let machine = on.map(|it| it.0);
                story.open_faults.insert(*number, story.faults.len());
                story.faults.push(json!([at, at, fault.to_string(), machine]));
            }
            Seen::Healed { number } => {
                if let Some(place) = story.open_faults.remove(number) {
                    story.faults[place][1] = json!(at);
                }
            }
            _ => {}
        }
        if !matches!(seen, Seen::Launched { .. } | Seen::Delivered { .. })
            && let Some(line) = transcript::line(seen, view)
        {
            story.lines.push_back(json!([at, line, of(seen)]));
            story.forgotten |= trim(&mut story.lines, LINES_MAX);
        }
        Ok(())
    }
}

impl Story {
    /// Role, term and cursors, where they changed.
    fn look<A: App>(&mut self, at: u64, machine: Machine, view: &View<'_, A>) {
        let Some(replica) = view.replica(machine) else {
            return self.role(at, machine, "forming", 0);
        };
        let raft = replica.raft();
        self.role(at, machine, raft.role_name().as_str(), raft.term().0);
        let log = raft.log();
        let (last, snapshot) = (log.last().index, log.snapshot().position.index);
        let cursors =
            [last, log.durable(), log.committed(), log.applied(), snapshot].map(|index| index.0);
        let known = &mut self.known[usize::from(machine.0)];
        if known.cursors != cursors {
            known.cursors = cursors;
            let [last, durable, committed, applied, snapshot] = cursors;
            let row = json!([machine.0, at, last, durable, committed, applied, snapshot]);
            self.cursors.push_back(row);
            self.forgotten |= trim(&mut self.cursors, MESSAGES_MAX);
        }
    }

    fn role(&mut self, at: u64, machine: Machine, role: &'static str, term: u64) {
        let known = &mut self.known[usize::from(machine.0)];
        if (known.role, known.term) != (role, term) {
            (known.role, known.term) = (role, term);
            self.roles.push(json!([machine.0, at, role, term]));
        }
    }

    fn arrived(&mut self, at: u64, copy: CopyId, lost: &str) {
        if let Some((sent, from, to, _, kind, text)) = self.under_way.remove(&copy) {
            self.message(sent, from, to, at, &kind, &text, lost);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a row of the page's table")]
    fn message(
        &mut self,
        sent: u64,
        from: Machine,
        to: Machine,
        at: u64,
        kind: &str,
        text: &str,
        lost: &str,
    ) {
        self.messages.push_back(json!([from.0, to.0, sent, at, kind, text, lost]));
        self.forgotten |= trim(&mut self.messages, MESSAGES_MAX);
    }
}

/// Drops the oldest beyond `most`; whether there was one.
fn trim(rows: &mut VecDeque<Value>, most: usize) -> bool {
    most < rows.len() && rows.pop_front().is_some()
}

fn micros(time: Time) -> u64 {
    time.0 / 1_000
}

fn words(why: Loss) -> &'static str {
    match why {
        Loss::Link => "lost by the link",
        Loss::Cut => "the link is cut",
        Loss::Reset => "the connection was reset",
        Loss::Down => "nobody listens",
        Loss::Full => "the queue is full",
        Loss::Malformed => "refused by the codec",
        Loss::Foreign => "for another node or cluster",
    }
}

/// The machine a fact is about.
fn of<A: App>(seen: &Seen<'_, A>) -> Option<u8> {
    match seen {
        Seen::Started { machine, .. }
        | Seen::Formed { machine, .. }
        | Seen::Crashed { machine }
        | Seen::Exited { machine, .. }
        | Seen::Paused { machine, .. }
        | Seen::WriteIssued { machine, .. }
        | Seen::Persisted { machine, .. }
        | Seen::Applied { machine, .. }
        | Seen::Restored { machine, .. }
        | Seen::Note { machine, .. }
        | Seen::SnapshotBegun { machine, .. }
        | Seen::SnapshotWritten { machine, .. }
        | Seen::SnapshotFailed { machine, .. } => Some(machine.0),
        Seen::Fault { on, .. } => on.map(|it| it.0),
        _ => None,
    }
}

/// The machine that the words of a broken rule begin with: `n2` lives on machine 2 unless it was
/// wiped, and its low digit says so still.
fn named(what: &str) -> Option<u64> {
    let mut words = what.split(|c: char| !c.is_alphanumeric());
    words.find_map(|word| {
        let digits = word.strip_prefix(['n', 'm'])?;
        let number = u64::from_str_radix(digits, 16).ok()?;
        (number & 15).checked_sub(1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_names_its_machine() {
        assert_eq!(named("n2@3 commits 5@2 by count"), Some(1));
        assert_eq!(named("leader n13 dropped 4@1"), Some(2));
        assert_eq!(named("two states at index 9"), None);
    }

    #[test]
    fn a_broken_rule_is_told_in_words() {
        let plan: Plan = "voters 1\nchaos 1s\n".parse().expect("a plan");
        let mut page = Page::new("test", &plan);
        let mut report = crate::run::run(plan);
        let what = "n1@2 commits 5@2 by count".to_owned();
        report.failure = Some(Violation { rule: "I11", what });
        let html = page.html(&report);
        assert!(html.contains("only entries of the own term are committed by count"));
        assert!(html.contains("\"machine\":0"), "and the machine it names is marked");
    }

    #[test]
    fn the_page_holds_the_run_and_needs_nothing_else() {
        let plan = "voters 3\nstart formed\nchaos 2s\nfault 1s crash leader down=100ms fuse=0 \
                    loss=nothing\nop 500ms c0 put k1 size=3 patience=1s\n";
        let plan = plan.parse().expect("a plan");
        let (report, page) = crate::run::run_drawn(plan, "</script> test");
        assert_eq!(report.failure, None);
        assert!(page.contains("\"leader\"") && page.contains("crash leader"));
        assert!(!page.contains("</script> test"), "a name cannot end the script");
        assert!(!page.contains("http"), "nothing is loaded from elsewhere");
    }
}
