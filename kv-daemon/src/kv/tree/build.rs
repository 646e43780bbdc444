//! Building a map from entries that come in order: full leaves, and no search.

use std::sync::Arc;

use super::{Inner, Node, Tree};

/// Takes entries with rising keys and makes a map of them.
pub struct Builder<K, V, const WIDTH: usize = 64> {
    /// The full leaves, each with its first key.
    leaves: Vec<(K, Arc<Node<K, V>>)>,
    /// The leaf being filled.
    entries: Vec<(K, V)>,
}

impl<K: Ord + Clone, V, const WIDTH: usize> Builder<K, V, WIDTH> {
    pub fn new() -> Self {
        Builder { leaves: Vec::new(), entries: Vec::with_capacity(WIDTH) }
    }

    /// The next entry. Its key has to be above the last one's.
    pub fn push(&mut self, key: K, value: V) {
        assert!(self.last_key().is_none_or(|last| *last < key), "keys rise");
        if self.entries.len() == WIDTH {
            self.leaf_is_full();
        }
        self.entries.push((key, value));
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.leaves.len() * WIDTH + self.entries.len()
    }

    /// The key of the last entry.
    pub fn last_key(&self) -> Option<&K> {
        // A full leaf is put away by the entry that follows it, so the last one is always here.
        self.entries.last().map(|(key, _)| key)
    }

    /// The map of all these entries.
    pub fn finish(mut self) -> Tree<K, V, WIDTH> {
        let len = self.len();
        if len == 0 {
            return Tree::default();
        }
        self.entries.shrink_to_fit();
        self.leaf_is_full();
        let mut level = self.leaves;
        while 1 < level.len() {
            level = level_above(level, WIDTH);
        }
        let (_, root) = level.remove(0);
        Tree { root, len }
    }

    fn leaf_is_full(&mut self) {
        let entries = std::mem::replace(&mut self.entries, Vec::with_capacity(WIDTH));
        self.leaves.push((entries[0].0.clone(), Arc::new(Node::Leaf(entries))));
    }
}

/// The inner nodes above these nodes: as few as can be, and equally wide, give or take one.
fn level_above<K, V>(nodes: Vec<(K, Arc<Node<K, V>>)>, width: usize) -> Vec<(K, Arc<Node<K, V>>)> {
    let (count, inner_count) = (nodes.len(), nodes.len().div_ceil(width));
    let mut nodes = nodes.into_iter();
    let inner = |number: usize| {
        let here = (number + 1) * count / inner_count - number * count / inner_count;
        let (first_key, first) = nodes.next().expect("two or more for each");
        let (mut separators, mut children) =
            (Vec::with_capacity(here - 1), Vec::with_capacity(here));
        children.push(first);
        for (separator, child) in nodes.by_ref().take(here - 1) {
            separators.push(separator);
            children.push(child);
        }
        (first_key, Arc::new(Node::Inner(Inner { separators, children })))
    };
    (0..inner_count).map(inner).collect()
}
