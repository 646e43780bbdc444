//! Holds the pages against the repository: links lead somewhere, and the tour's files and functions
//! are there. What pages *do* is held by `kv-daemon/tests/docs.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file below `folder` with this extension.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The page without its fenced blocks.
fn prose(page: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

/// What stands between backticks, with whether only white space parts it from the span before.
fn code_spans(prose: &str) -> Vec<(bool, &str)> {
    let parts: Vec<&str> = prose.split('`').collect();
    let spans = parts.iter().enumerate().filter(|(at, _)| at % 2 == 1);
    spans.map(|(at, span)| (1 < at && parts[at - 1].trim().is_empty(), *span)).collect()
}

/// The targets of `[text](target)`.
fn links(prose: &str) -> Vec<&str> {
    let targets = prose.split("](").skip(1);
    targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target)).collect()
}

/// As GitHub names the anchor of a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(page: &str) -> BTreeSet<String> {
    let text = prose(page);
    text.lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut pages = files(&root().join("docs"), "md");
    pages.extend(["README.md", "CHANGELOG.md"].map(|name| root().join(name)));
    let mut seen = 0;
    for page in pages {
        let text = fs::read_to_string(&page).expect("a page");
        for link in links(&prose(&text)) {
            if link.contains("://") {
                continue;
            }
            seen += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("pages are in folders").join(file),
            };
            assert!(target.exists(), "{}: {link} is not there", page.display());
            if !heading.is_empty() {
                let there = anchors(&fs::read_to_string(&target).expect("a page"));
                assert!(there.contains(heading), "{}: {link}: no such heading", page.display());
            }
        }
    }
    assert!(20 < seen, "only {seen} links were found");
}

/// Every page of `docs/` is in the crate, so that its Rust blocks are compiled.
#[test]
fn every_page_is_in_the_crate() {
    let docs = root().join("docs");
    let included = fs::read_to_string(docs.join("lib.rs")).expect("lib.rs");
    for page in files(&docs, "md") {
        let name = page.strip_prefix(&docs).expect("below docs").display().to_string();
        assert!(included.contains(&format!("include_str!(\"{name}\")")), "{name} is left out");
    }
}

/// In the tour a span that ends in `.rs` is a file, a word right behind it a function of that file,
/// and any other word in backticks a function of some file, but for those of the error body.
#[test]
fn the_tour_names_what_is_there() {
    let sources: Vec<(String, String)> = ["kv-daemon/src", "raft-core/src", "kv-daemon/tests"]
        .iter()
        .flat_map(|folder| files(&root().join(folder), "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source");
            let path = path.strip_prefix(root()).expect("below the root").display().to_string();
            (path, text)
        })
        .collect();
    let defines = |text: &str, name: &str| {
        text.contains(&format!("fn {name}(")) || text.contains(&format!("fn {name}<"))
    };
    let is_word = |span: &str| span.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let page = fs::read_to_string(root().join("docs/tour.md")).expect("the tour");
    let prose = prose(&page);
    let mut file: Option<&(String, String)> = None;
    let (mut named_files, mut named_functions) = (0, 0);
    for (follows, span) in code_spans(&prose) {
        if span.ends_with(".rs") {
            // A test is named with its folders.
            let fits = |path: &str| {
                let in_tests = path.contains("/tests/");
                format!("/{path}").ends_with(&format!("/{span}"))
                    && in_tests == span.contains("/tests/")
            };
            let mut fit = sources.iter().filter(|(path, _)| fits(path));
            file = fit.next();
            assert!(file.is_some(), "{span} is not there");
            assert!(fit.next().is_none(), "{span} may be several files");
            named_files += 1;
        } else if is_word(span) && !["busy", "info", "n", "unknown"].contains(&span) {
            let there = match file.filter(|_| follows) {
                Some((_, text)) => defines(text, span),
                None => sources.iter().any(|(_, text)| defines(text, span)),
            };
            assert!(there, "no function `{span}`, named behind {:?}", file.map(|file| &file.0));
            named_functions += 1;
        }
    }
    assert!(20 < named_files && 20 < named_functions, "{named_files}, {named_functions}");
}

#[test]
fn spans_links_and_anchors_are_found() {
    assert_eq!(code_spans("a `x.rs` `y` and `z`"), [(false, "x.rs"), (true, "y"), (false, "z")]);
    assert_eq!(links("see [a](b.md#c) and [d](#e)"), ["b.md#c", "#e"]);
    assert_eq!(anchor("## `PUT /kv/{key}`"), "put-kvkey");
    assert_eq!(prose("a\n```sh\nb\n```\nc\n"), "a\nc\n");
}
