//! The floors of `docs/architecture.md`, read from the `use` lines: who may know whom, and who never
//! touches a clock, a file, a socket, a thread or a hashed map.

use std::fs;
use std::path::{Path, PathBuf};

/// The floor of each module of raft-core. The two halves of floor 2 must not know each other.
const FLOORS: [(&str, u8); 17] = [
    ("types", 0),
    ("buffer", 0),
    ("membership", 0),
    ("message", 1),
    ("write", 1),
    ("config", 1),
    ("codec", 1),
    ("state_machine", 1),
    ("consensus", 2),
    ("storage", 2),
    ("replica", 3),
    ("keeper", 3),
    ("proposals", 3),
    ("transport", 4),
    ("node", 4),
    ("single_node", 4),
    ("lib", 5),
];

/// What a part never names, wherever in its code.
const NEVER: [(&str, &[&str]); 7] = [
    (
        "raft-core/src/consensus",
        &[
            "std::fs",
            "std::net",
            "std::time::Instant",
            "SystemTime",
            "std::thread",
            "HashMap",
            "HashSet",
        ],
    ),
    ("raft-core/src/storage", &["std::net", "std::thread", "SystemTime", "HashMap", "HashSet"]),
    (
        "raft-core/src/replica",
        &["std::fs", "std::net", "std::thread", "Instant", "HashMap", "HashSet"],
    ),
    ("raft-core/src/codec", &["std::fs", "std::net", "std::thread", "Instant", "HashMap"]),
    ("raft-core/src", &["tokio", "warp"]),
    (
        "kv-daemon/src/kv",
        &[
            "std::net",
            "std::thread",
            "Instant",
            "SystemTime",
            "HashMap",
            "HashSet",
            "tokio",
            "warp",
        ],
    ),
    (
        "carp/src",
        &[
            "std::fs",
            "std::net",
            "std::io",
            "std::time",
            "std::thread",
            "std::process",
            "std::env",
            "Instant",
            "SystemTime",
            "HashMap",
            "HashSet",
            "raft_core",
            "kv_daemon",
            "tokio",
            "warp",
        ],
    ),
];

#[test]
fn modules_use_their_own_floor_and_lower_ones() {
    let src = root().join("raft-core/src");
    for file in rust_files(&src) {
        let module = module_of(&src, &file);
        let floor = floor_of(&module).unwrap_or_else(|| panic!("{module} stands on no floor"));
        for used in used_modules(&code_of(&file)) {
            let Some(other) = floor_of(&used) else { continue };
            let apart = floor == 2 && other == 2 && module != used;
            assert!(
                other <= floor && !apart,
                "{}: {module} (floor {floor}) must not use {used} (floor {other})",
                file.display()
            );
        }
    }
}

#[test]
fn nobody_touches_what_it_must_not() {
    for (part, banned) in NEVER {
        let path = root().join(part);
        let files = if path.is_dir() { rust_files(&path) } else { vec![path.with_extension("rs")] };
        assert!(!files.is_empty(), "{part} is gone");
        for file in files {
            let code = code_of(&file);
            for word in banned {
                assert!(!names(&code, word), "{}: must not name {word}", file.display());
            }
        }
    }
}

#[test]
fn only_the_real_disk_opens_files() {
    for file in rust_files(&root().join("raft-core/src")) {
        let real = file.ends_with("storage/disk.rs");
        assert!(real || !names(&code_of(&file), "std::fs"), "{}: std::fs", file.display());
    }
}

#[test]
fn only_the_codec_knows_bincode() {
    for part in ["raft-core/src", "kv-daemon/src"] {
        for file in rust_files(&root().join(part)) {
            let codec = file.ends_with("raft-core/src/codec.rs")
                || file.parent().is_some_and(|dir| dir.ends_with("codec"));
            assert!(codec || !code_of(&file).contains("bincode::"), "{}: bincode", file.display());
        }
    }
}

#[test]
fn a_name_is_found_only_as_a_whole_word() {
    assert!(names("use std::time::Instant;", "Instant"));
    assert!(!names("let Instantly = 1;", "Instant"));
    assert!(!names("warped", "warp"));
    assert_eq!(
        used_modules("use crate::storage::wal;\nuse crate::{types, codec::x};"),
        ["storage", "types", "codec"]
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// The top-level module a file belongs to.
fn module_of(src: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(src).unwrap();
    let first = inside.iter().next().unwrap().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with("tests.rs") {
                // Unit tests in a file of their own may do more.
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// A file without its comments and without what follows `#[cfg(test)]` (unit tests may do more).
fn code_of(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Whether `word` stands in the code as a whole word.
fn names(code: &str, word: &str) -> bool {
    let part_of_word =
        |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    code.match_indices(word).any(|(at, _)| {
        let before = at.checked_sub(1).map(|at| code.as_bytes()[at]);
        let after = code.as_bytes().get(at + word.len()).copied();
        !part_of_word(before) && !part_of_word(after)
    })
}

/// Every top-level module that the code names after `crate::`, in braces too.
fn used_modules(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| -> String {
            text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
        };
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split(';').next().unwrap_or_default();
                modules.extend(list.split(',').map(|item| word(item.trim())));
            }
            None => modules.push(word(rest)),
        }
    }
    modules.retain(|module| !module.is_empty());
    modules
}
