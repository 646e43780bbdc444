//! The state machine of the simulated nodes: the list of everything applied. Its snapshot is the
//! list itself, so any command lost, doubled or out of order shows.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft_core::types::{Entry, Index, LogPosition, Payload, Term};

/// What one node has applied.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct App {
    /// The last entry applied, of whatever kind.
    pub at: LogPosition,
    /// The commands, with their places.
    pub commands: Vec<(LogPosition, Bytes)>,
}

impl App {
    /// Applies the next entry.
    pub fn apply(&mut self, entry: &Entry) {
        assert_eq!(
            self.at.index.next(),
            entry.index(),
            "applied {entry} right after {}: not the next one",
            self.at
        );
        self.at = entry.position;
        if let Payload::Command(command) = &entry.payload {
            self.commands.push((entry.position, command.clone()));
        }
    }

    /// The whole state as bytes.
    pub fn body(&self) -> Bytes {
        let mut body = BytesMut::new();
        put_position(&mut body, self.at);
        for (position, command) in &self.commands {
            put_position(&mut body, *position);
            body.put_u64(command.len() as u64);
            body.put_slice(command);
        }
        body.freeze()
    }

    /// The state these bytes hold.
    pub fn of_body(mut body: Bytes) -> App {
        let mut app = App { at: get_position(&mut body), commands: Vec::new() };
        while body.has_remaining() {
            let position = get_position(&mut body);
            let length = usize::try_from(body.get_u64()).expect("a length we wrote");
            app.commands.push((position, body.split_to(length)));
        }
        app
    }
}

fn put_position(body: &mut BytesMut, position: LogPosition) {
    body.put_u64(position.index.0);
    body.put_u64(position.term.0);
}

fn get_position(body: &mut Bytes) -> LogPosition {
    LogPosition::new(Index(body.get_u64()), Term(body.get_u64()))
}
