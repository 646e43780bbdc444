//! Checker B's search on histories recorded from real systems, whose verdicts are known.
//!
//! The recordings are no part of the project. They are looked for beside the workspace, in
//! `../shared/histories`; without them this test says that it skips.

#![expect(clippy::print_stdout, reason = "a test that skips says so")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sim_tests::checkers::wgl::{Call, Model, Verdict, search};

/// Far more than any of the recordings needs (about 21,000), and far less than ten seconds' worth.
const STEPS_MAX: u64 = 1_000_000;

#[test]
fn every_recorded_history_gets_its_known_verdict() {
    let Some(folder) = folder() else {
        println!("skipped: there are no recorded histories in ../shared/histories");
        return;
    };
    let mut wrong = Vec::new();
    let mut hardest = (0, String::new());
    let verdicts = verdicts(&folder);
    assert!(50 < verdicts.len(), "the verdicts are there");
    for (name, expected) in &verdicts {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        let verdict = match name.ends_with(".log") {
            true => search(&Register, &parse_register(&text), STEPS_MAX),
            false => judge_keys(&text),
        };
        hardest = hardest.max((verdict.steps(), name.clone()));
        if verdict.is_linearizable() != *expected || matches!(verdict, Verdict::TooHard { .. }) {
            wrong.push(format!("{name}: {expected} expected, found {verdict:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{} histories; the hardest took {} steps: {}", verdicts.len(), hardest.0, hardest.1);
}

/// The recordings, beside the workspace or beside the checkout it is a worktree of.
fn folder() -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let mut above = workspace.ancestors().skip(1).map(|it| it.join("shared/histories"));
    above.find(|it| it.join("expected.json").is_file())
}

/// The verdicts of `expected.json`, and of the files that say it in their names.
fn verdicts(folder: &Path) -> BTreeMap<String, bool> {
    let json = fs::read_to_string(folder.join("expected.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let listed = json["linearizable"].as_object().unwrap();
    let mut verdicts: BTreeMap<String, bool> =
        listed.iter().map(|(name, verdict)| (name.clone(), verdict.as_bool().unwrap())).collect();
    for file in fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if name.ends_with("-ok.txt") || name.ends_with("-bad.txt") {
            verdicts.insert(name.clone(), name.ends_with("-ok.txt"));
        }
    }
    verdicts
}

/// One register with compare-and-swap by value; `None` is absent.
struct Register;

#[derive(Clone, Debug, PartialEq)]
enum RegisterOp {
    Read { saw: Option<u64> },
    Write { value: u64 },
    Swap { from: u64, to: u64, matched: bool },
}

impl Model for Register {
    type State = Option<u64>;
    type Op = RegisterOp;

    fn initial(&self) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, op: &RegisterOp, next: &mut Vec<Option<u64>>) {
        match *op {
            RegisterOp::Read { saw } => next.extend((*state == saw).then_some(*state)),
            RegisterOp::Write { value } => next.push(Some(value)),
            RegisterOp::Swap { from, to, matched } => {
                if (*state == Some(from)) == matched {
                    next.push(if matched { Some(to) } else { *state });
                }
            }
        }
    }

    fn only_reads(&self, op: &RegisterOp) -> bool {
        match op {
            RegisterOp::Read { .. } => true,
            RegisterOp::Write { .. } => false,
            RegisterOp::Swap { matched, .. } => !matched,
        }
    }
}

/// Lines of `process :invoke|:ok|:fail|:info :read|:write|:cas value`.
fn parse_register(text: &str) -> Vec<Call<RegisterOp>> {
    let mut calls: Vec<Call<RegisterOp>> = Vec::new();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    let mut timed_out_reads = Vec::new();
    for (time, line) in text.lines().enumerate() {
        let Some((_, line)) = line.split_once("jepsen.util - ") else { continue };
        let words: Vec<&str> = line.split_whitespace().collect();
        let [process, kind, function, ref rest @ ..] = words[..] else { panic!("{line}") };
        let numbers: Vec<u64> = rest.iter().filter_map(|it| number(it)).collect();
        let (begin, end) = (time as u64, time as u64);
        if kind == ":invoke" {
            let op = match function {
                ":read" => RegisterOp::Read { saw: None },
                ":write" => RegisterOp::Write { value: numbers[0] },
                ":cas" => RegisterOp::Swap { from: numbers[0], to: numbers[1], matched: true },
                _ => panic!("{line}"),
            };
            assert_eq!(open.insert(process, calls.len()), None, "{line}");
            calls.push(Call { op, begin, end: None, hint: 0 });
            continue;
        }
        let at = open.remove(process).expect("what ends has begun");
        match (kind, &mut calls[at].op) {
            (":ok", RegisterOp::Read { saw }) => *saw = numbers.first().copied(),
            (":ok", _) => {}
            (":fail", RegisterOp::Swap { matched, .. }) => *matched = false,
            (":fail", RegisterOp::Read { .. }) => timed_out_reads.push(at),
            (":info", _) => continue,
            _ => panic!("{line}"),
        }
        calls[at].end = Some(end);
    }
    for at in timed_out_reads.into_iter().rev() {
        calls.remove(at);
    }
    // A read that never ended says nothing.
    calls.retain(|call| call.end.is_some() || !matches!(call.op, RegisterOp::Read { .. }));
    calls
}

fn number(word: &str) -> Option<u64> {
    word.trim_matches(['[', ']']).parse().ok()
}

/// One string that can be set and added to.
struct Text;

#[derive(Clone, Debug, PartialEq)]
enum TextOp {
    Get { saw: String },
    Put { value: String },
    Append { value: String },
}

impl Model for Text {
    type State = String;
    type Op = TextOp;

    fn initial(&self) -> String {
        String::new()
    }

    fn step(&self, state: &String, op: &TextOp, next: &mut Vec<String>) {
        match op {
            TextOp::Get { saw } => next.extend((state == saw).then(|| state.clone())),
            TextOp::Put { value } => next.push(value.clone()),
            TextOp::Append { value } => next.push(format!("{state}{value}")),
        }
    }

    fn only_reads(&self, op: &TextOp) -> bool {
        matches!(op, TextOp::Get { .. })
    }
}

/// Key by key; the first verdict that is no pass, else the hardest pass.
fn judge_keys(text: &str) -> Verdict {
    let mut hardest = Verdict::Linearizable { order: Vec::new(), steps: 0 };
    for calls in parse_keys(text).values() {
        let verdict = search(&Text, calls, STEPS_MAX);
        if !verdict.is_linearizable() {
            return verdict;
        }
        if hardest.steps() < verdict.steps() {
            hardest = verdict;
        }
    }
    hardest
}

/// Lines of `{:process 9, :type :invoke, :f :append, :key "0", :value "x 9 0 y"}`.
fn parse_keys(text: &str) -> BTreeMap<String, Vec<Call<TextOp>>> {
    let mut keys: BTreeMap<String, Vec<Call<TextOp>>> = BTreeMap::new();
    let mut open: BTreeMap<&str, (String, usize)> = BTreeMap::new();
    for (time, line) in text.lines().enumerate() {
        let field = |name: &str| {
            let (_, rest) = line.split_once(&format!(":{name} ")).expect("every field is there");
            match rest.strip_prefix('"') {
                Some(rest) => rest.split('"').next().expect("a string"),
                None => rest.split([',', '}']).next().expect("a word"),
            }
        };
        let (process, kind, function) = (field("process"), field("type"), field("f"));
        let (key, value) = (field("key").to_owned(), field("value").to_owned());
        if kind == ":invoke" {
            let op = match function {
                ":get" => TextOp::Get { saw: String::new() },
                ":put" => TextOp::Put { value },
                ":append" => TextOp::Append { value },
                _ => panic!("{line}"),
            };
            let calls = keys.entry(key.clone()).or_default();
            assert_eq!(open.insert(process, (key, calls.len())), None, "{line}");
            calls.push(Call { op, begin: time as u64, end: None, hint: 0 });
            continue;
        }
        assert_eq!(kind, ":ok", "{line}");
        let (key, at) = open.remove(process).expect("what ends has begun");
        let call = &mut keys.get_mut(&key).expect("its key is there")[at];
        call.end = Some(time as u64);
        if let TextOp::Get { saw } = &mut call.op {
            *saw = value;
        }
    }
    keys
}
