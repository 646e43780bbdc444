//! What stands on disk between two starts: copied, compared, found and spoiled. Never used on the
//! files of a process that runs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What a disk writes whole or not at all.
pub const SECTOR: u64 = 512;
/// Where a batch of the log may begin.
pub const PAGE: u64 = 4096;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The offset.
    pub offset: u64,
}

/// Every file below a directory with its bytes. The lock is left out: it is of the process.
pub fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    collect(directory, &mut found);
    found.retain(|path, _| !path.ends_with("LOCK"));
    found
}

/// Copies a directory and what is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for (file, bytes) in contents(from) {
        let path = to.join(file.strip_prefix(from).expect("it was found there"));
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
        fs::write(path, bytes).expect("a file can be written");
    }
}

/// The one place where these bytes stand in the log below this data directory.
pub fn find_in_log(data: &Path, bytes: &[u8]) -> Place {
    let mut found = Vec::new();
    for (file, content) in contents(&data.join("wal")) {
        let mut from = 0;
        while let Some(at) = position(&content[from..], bytes) {
            found.push(Place { file: file.clone(), offset: (from + at) as u64 });
            from += at + 1;
        }
    }
    assert_eq!(found.len(), 1, "these bytes stand once in the log: {found:?}");
    found.remove(0)
}

impl Place {
    /// This many bytes further on.
    pub fn plus(&self, bytes: u64) -> Place {
        Place { file: self.file.clone(), offset: self.offset + bytes }
    }

    /// The next boundary of this kind from here on.
    pub fn up_to(&self, boundary: u64) -> Place {
        Place { file: self.file.clone(), offset: self.offset.next_multiple_of(boundary) }
    }

    /// Turns one bit of the byte here.
    pub fn flip(&self) {
        let file = File::options().read(true).write(true).open(&self.file).expect("a file");
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.offset).expect("a byte to turn");
        byte[0] ^= 0x10;
        file.write_all_at(&byte, self.offset).expect("a byte turned");
    }

    /// Zeroes this many bytes from here, as if they had never been written.
    pub fn zero(&self, bytes: u64) {
        let file = File::options().write(true).open(&self.file).expect("a file");
        file.write_all_at(&vec![0; bytes as usize], self.offset).expect("zeroes written");
    }

    /// Zeroes all from here to the end of the file.
    pub fn zero_rest(&self) {
        let length = fs::metadata(&self.file).expect("a file").len();
        self.zero(length.saturating_sub(self.offset));
    }

    /// Ends the file here.
    pub fn cut(&self) {
        let file = File::options().write(true).open(&self.file).expect("a file");
        file.set_len(self.offset).expect("a file cut short");
    }

    /// The name of the file.
    pub fn name(&self) -> String {
        let name = self.file.file_name().expect("a file has a name");
        name.to_string_lossy().into_owned()
    }
}

fn collect(directory: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, found);
        } else {
            let bytes = fs::read(&path).expect("a file");
            found.insert(path, bytes);
        }
    }
}

fn position(content: &[u8], bytes: &[u8]) -> Option<usize> {
    content.windows(bytes.len()).position(|window| window == bytes)
}
