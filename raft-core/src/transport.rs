//! How messages reach other nodes: the trait a node sends through, and a network inside one
//! process for tests, examples and embedders that run several nodes together.
//!
//! A transport may lose, double, delay and reorder messages; the core stands that. What it must not
//! do is block: `send` is called in a node's pass, between a client's proposal and its sync.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::message::Message;
use crate::node::{Handle, lock};
use crate::state_machine::StateMachine;
use crate::types::NodeId;

/// Takes messages to other nodes.
pub trait Transport: Send + 'static {
    /// Sends each message to the node it names (`message.to`), in this order if it can. Returns at
    /// once: queues what it can hold and drops the rest. What comes back from peers is handed to
    /// [`Handle::receive`], by a thread that holds no lock which `send` takes: what the node has to
    /// answer it may send at once, from within that call.
    fn send(&mut self, messages: Vec<Message>);
}

/// Reaches nobody: the transport of a cluster of one.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTransport;

impl Transport for NoTransport {
    fn send(&mut self, _messages: Vec<Message>) {}
}

/// Connects nodes of one process. Clones are the same network.
///
/// A message goes straight into the receiver's inbox, which is bounded, so that nothing grows and
/// nobody waits. Links can be cut and mended, each direction on its own.
#[derive(Clone, Default)]
pub struct InMemoryNetwork {
    shared: Arc<Mutex<Wiring>>,
}

#[derive(Default)]
struct Wiring {
    nodes: BTreeMap<NodeId, Arc<dyn Inlet>>,
    cut: BTreeSet<(NodeId, NodeId)>,
}

/// A node as its network sees it, whatever its state machine.
trait Inlet: Send + Sync {
    fn receive(&self, messages: Vec<Message>);
    fn peer_down(&self, peer: NodeId);
}

impl<S: StateMachine> Inlet for Handle<S> {
    fn receive(&self, messages: Vec<Message>) {
        Handle::receive(self, messages);
    }

    fn peer_down(&self, peer: NodeId) {
        Handle::peer_down(self, peer);
    }
}

impl InMemoryNetwork {
    /// A network without nodes.
    pub fn new() -> InMemoryNetwork {
        InMemoryNetwork::default()
    }

    /// What a node that is about to start sends through. It is reached by the others only after
    /// [`connect`](InMemoryNetwork::connect).
    pub fn transport(&self) -> impl Transport {
        InMemoryTransport { network: self.clone() }
    }

    /// Messages to `id` go to this node from now on.
    pub fn connect<S: StateMachine>(&self, id: NodeId, node: Handle<S>) {
        lock(&self.shared).nodes.insert(id, Arc::new(node));
    }

    /// This node is gone, as a process that ended: messages to it are lost, and the others are told
    /// at once, as a refused connection would tell them.
    pub fn disconnect(&self, id: NodeId) {
        let mut wiring = lock(&self.shared);
        wiring.nodes.remove(&id);
        let others: Vec<Arc<dyn Inlet>> = wiring.nodes.values().cloned().collect();
        drop(wiring);
        for other in others {
            other.peer_down(id);
        }
    }

    /// Loses every message from `from` to `to`; the other direction is left as it is. Nobody is
    /// told.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        lock(&self.shared).cut.insert((from, to));
    }

    /// Loses every message from and to this node. Nobody is told.
    pub fn isolate(&self, id: NodeId) {
        let mut wiring = lock(&self.shared);
        let others: Vec<NodeId> = wiring.nodes.keys().copied().filter(|&o| o != id).collect();
        for other in others {
            wiring.cut.insert((id, other));
            wiring.cut.insert((other, id));
        }
    }

    /// Mends every cut.
    pub fn heal(&self) {
        lock(&self.shared).cut.clear();
    }
}

struct InMemoryTransport {
    network: InMemoryNetwork,
}

impl Transport for InMemoryTransport {
    fn send(&mut self, messages: Vec<Message>) {
        // Gathered by receiver first, so that one inbox is entered once and no lock is held while
        // another node's inbox is.
        let mut outgoing: BTreeMap<NodeId, Vec<Message>> = BTreeMap::new();
        for message in messages {
            outgoing.entry(message.to).or_default().push(message);
        }
        for (to, messages) in outgoing {
            let wiring = lock(&self.network.shared);
            let reached: Vec<Message> =
                messages.into_iter().filter(|m| !wiring.cut.contains(&(m.from, to))).collect();
            let node = wiring.nodes.get(&to).cloned();
            drop(wiring);
            if let Some(node) = node {
                node.receive(reached);
            }
        }
    }
}
