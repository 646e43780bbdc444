//! A place for one test: a directory of its own and ports nobody else takes meanwhile.
//!
//! Ports lie below the range from which the system takes the near ends of outgoing connections:
//! else a connection could sit on a killed node's port when it starts again, or, asking for a port
//! where nobody listens, even meet itself. A UDP socket held on the same number keeps other test
//! processes from choosing it.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::TempDir;

use super::random::Random;

const PORTS: std::ops::Range<usize> = 10_000..32_000;

/// A directory and reserved ports, given back on drop.
pub struct Area {
    dir: TempDir,
    reserved: Mutex<Vec<UdpSocket>>,
}

impl Area {
    /// A new, empty place. It stays on disk when `KEEP` is set in the environment.
    pub fn new() -> Area {
        let mut dir = tempfile::Builder::new().prefix("kv-daemon-").tempdir().expect("a directory");
        if std::env::var_os("KEEP").is_some() {
            dir.disable_cleanup(true);
            println!("keeping {}", dir.path().display());
        }
        Area { dir, reserved: Mutex::default() }
    }

    /// Where in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// A loopback port that is free, and reserved while this area lives.
    pub fn port(&self) -> u16 {
        self.ports(1)
    }

    /// The first of so many such ports in a row.
    pub fn ports(&self, count: u16) -> u16 {
        let nanos = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_nanos() as u64;
        let mut random = Random::new(nanos ^ (u64::from(std::process::id()) << 32));
        for _ in 0..10_000 {
            let first = (PORTS.start + random.below(PORTS.len())) as u16;
            let reserve = |port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
            let row = first..first + count;
            let Ok(reserved) = row.clone().map(reserve).collect::<Result<Vec<_>, _>>() else {
                continue;
            };
            let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if row.into_iter().all(is_free) {
                self.reserved.lock().unwrap().extend(reserved);
                return first;
            }
        }
        panic!("no {count} free ports in a row between {} and {}", PORTS.start, PORTS.end);
    }
}
