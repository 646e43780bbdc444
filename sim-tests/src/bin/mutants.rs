//! `cargo mutants-run`: how many seeds it takes to notice that something is wrong.
//!
//! Each patch in `sim-tests/mutants` makes the product wrong in one way. It is applied to a copy of
//! the workspace, built there, and seeds run until one fails; then it is taken back. The product
//! itself stays clean. One target folder serves all.
#![expect(clippy::disallowed_methods, reason = "a build takes people's time")]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;

/// Applies one wrong patch after the other and counts the seeds until each is caught.
#[derive(Parser)]
#[command(name = "mutants")]
struct Args {
    /// Only these (`M7`).
    only: Vec<String>,
    /// Most seeds for each.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// Stops beginning new seeds of a mutant after so many seconds.
    #[arg(long, default_value_t = 900)]
    seconds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
}

/// What became of one mutant.
struct Score {
    name: String,
    what: String,
    /// The rule that caught it, and after how many seeds.
    caught: Result<(String, u64), String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "mutants: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> io::Result<bool> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = home.parent().expect("the package lies in the workspace");
    let mut patches: Vec<PathBuf> =
        fs::read_dir(home.join("mutants"))?.map(|it| Ok(it?.path())).collect::<io::Result<_>>()?;
    patches.retain(|it| it.extension().is_some_and(|it| it == "patch"));
    patches.sort();
    let work = workspace.join("target/mutants");
    let tree = work.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    copy(workspace, &tree)?;
    let mut scores = Vec::new();
    writeln!(io::stdout(), "| mutant | what is wrong | caught by | seeds |\n|---|---|---|---|")?;
    for patch in &patches {
        let text = fs::read_to_string(patch)?;
        let (name, what) =
            text.lines().next().and_then(|it| it.split_once(": ")).ok_or_else(|| {
                io::Error::other(format!("{} has no name in its first line", patch.display()))
            })?;
        if !args.only.is_empty() && !args.only.iter().any(|it| it == name) {
            continue;
        }
        let began = Instant::now();
        let caught = attempt(args, &tree, &work, patch)?;
        let score = Score { name: name.to_owned(), what: what.to_owned(), caught };
        writeln!(io::stdout(), "{}", score.line())?;
        writeln!(io::stderr(), "{name}: {} s", began.elapsed().as_secs())?;
        scores.push(score);
    }
    summary(&scores)
}

/// Builds one mutant and runs seeds until one fails.
fn attempt(
    args: &Args,
    tree: &Path,
    work: &Path,
    patch: &Path,
) -> io::Result<Result<(String, u64), String>> {
    let apply = |back: &[&str]| {
        let mut command = Command::new("git");
        // The copy is no repository of its own, and must not be taken for a part of ours.
        command.env("GIT_CEILING_DIRECTORIES", work);
        command.arg("apply").args(back).arg(patch).current_dir(tree).status()
    };
    if !apply(&[])?.success() {
        return Ok(Err("the patch does not fit any more".to_owned()));
    }
    let target = work.join("target");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--profile", "mutants", "-p", "sim-tests", "--bin", "sim"])
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", "--cap-lints=allow")
        .current_dir(tree)
        .status()?;
    let caught = if built.success() {
        let Args { seeds, seconds, from, .. } = args;
        let output = Command::new(target.join("mutants/sim"))
            .args(["--seeds", &seeds.to_string(), "--seconds", &seconds.to_string()])
            .args(["--from", &from.to_string(), "--failures", "1", "--out"])
            .arg(work.join("plans"))
            .output()?;
        let told = String::from_utf8_lossy(&output.stdout);
        let run = told.split(" seeds from ").next().unwrap_or_default();
        first_failure(&told, *from).ok_or_else(|| format!("not caught in {run} seeds"))
    } else {
        Err("does not build".to_owned())
    };
    if !apply(&["--reverse"])?.success() {
        return Err(io::Error::other("the patch cannot be taken back"));
    }
    Ok(caught)
}

/// `seed 7: I6 is broken after 1.5 s`: the rule of the first such seed, and its place in the row.
fn first_failure(told: &str, from: u64) -> Option<(String, u64)> {
    let failures = told.lines().filter_map(|line| {
        let (seed, rest) = line.strip_prefix("seed ")?.split_once(": ")?;
        let (rule, _) = rest.split_once(" is broken after")?;
        Some((seed.parse::<u64>().ok()?, rule.to_owned()))
    });
    let (seed, rule) = failures.min()?;
    Some((rule, seed.wrapping_sub(from) + 1))
}

impl Score {
    fn line(&self) -> String {
        let Score { name, what, caught } = self;
        match caught {
            Ok((rule, seeds)) => format!("| {name} | {what} | {rule} | {seeds} |"),
            Err(why) => format!("| {name} | {what} | {why} | |"),
        }
    }
}

/// The last line of the scoreboard. Whether all are caught.
fn summary(scores: &[Score]) -> io::Result<bool> {
    let mut seeds: Vec<u64> =
        scores.iter().filter_map(|it| it.caught.as_ref().ok()).map(|it| it.1).collect();
    seeds.sort_unstable();
    let median = seeds.get(seeds.len() / 2).copied().unwrap_or(0);
    let most = seeds.last().copied().unwrap_or(0);
    let (caught, all) = (seeds.len(), scores.len());
    writeln!(io::stdout(), "\n{caught} of {all} caught, median {median} seeds, most {most}")?;
    Ok(caught == all)
}

/// Copies the sources: everything but build output and history.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if name == "target" || name == ".git" {
            continue;
        }
        if kind.is_dir() {
            copy(&entry.path(), &to.join(name))?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_counts() {
        let told = "20 seeds from 5 in 7.2 s\n\nseed 9: I6 is broken after 1.5 s\nn1 commits\n\
                    seed 6: I20 is broken after 2 s\n";
        assert_eq!(first_failure(told, 5), Some(("I20".to_owned(), 2)));
        assert_eq!(first_failure("20 seeds from 5 in 7.2 s\n", 5), None);
    }
}
