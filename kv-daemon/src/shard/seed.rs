//! The map a node is started with: `--carp FILE`. It is only a beginning: once the log holds a map,
//! a file with a lower epoch changes nothing. Reads the file, once; proposes nothing.

use std::path::Path;

use carp::json::JSON_BYTES_MAX;
use carp::{Array, ArrayFault, MemberId};

/// A file with a map, read and found to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Where it was.
    pub path: String,
    text: Vec<u8>,
}

impl Seed {
    /// Reads it.
    ///
    /// # Errors
    /// One sentence: it cannot be read, is no map, or `me` is not in it.
    pub fn read(path: &Path, me: &MemberId) -> Result<Seed, String> {
        let shown = path.display();
        let unreadable = |why: String| format!("--carp {shown}: {why}");
        let bytes = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
        if (JSON_BYTES_MAX as u64) < bytes {
            return Err(unreadable(ArrayFault::TooLong { bytes: bytes as usize }.to_string()));
        }
        let text = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
        let array = Array::found_from_json(&text).map_err(|fault| unreadable(fault.to_string()))?;
        if array.member(me).is_none() {
            let members: Vec<&str> = array.members().iter().map(|one| one.id.as_str()).collect();
            return Err(unreadable(format!(
                "--cluster-name {me} is no member; the members are {}",
                members.join(", ")
            )));
        }
        Ok(Seed { path: shown.to_string(), text })
    }

    /// The map it asks for where `now` is in force.
    ///
    /// # Errors
    /// It must not follow that one.
    pub fn array(&self, now: Option<&Array>) -> Result<Array, ArrayFault> {
        match now {
            Some(now) => now.asked_by_json(&self.text),
            None => Array::found_from_json(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_is_refused_in_one_sentence() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("carp.json");
        let a = MemberId::new("a").unwrap();
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Seed::read(&path, &a)
        };
        let members = |list: &str| format!("{{\"carp\":2,\"name\":\"kv\",\"members\":[{list}]}}");
        for (text, part) in [
            ("".to_owned(), "not an array in JSON"),
            (members(""), "no members"),
            (
                members(r#"{"id":"b"},{"id":"c"}"#),
                "--cluster-name a is no member; the members are b, c",
            ),
            (members(r#"{"id":"a"},{"id":"a"}"#), "two members are called a"),
        ] {
            let fault = read(&text).unwrap_err();
            assert!(fault.contains(part) && fault.contains("carp.json"), "{fault}");
        }
        assert!(read(&members(r#"{"id":"a"},{"id":"b"}"#)).is_ok());
        let gone = Seed::read(&dir.path().join("none.json"), &a).unwrap_err();
        assert!(gone.starts_with("--carp ") && gone.contains("none.json"), "{gone}");
    }
}
