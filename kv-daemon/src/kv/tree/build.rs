//! Building a map from entries that come in order: full leaves, and no search.

use std::mem;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::{Inner, Leaf, Node, Tree};

/// Takes entries with rising keys and makes a map of them.
pub struct Builder<K, V, const WIDTH: usize = 32> {
    /// The full leaves, each with its first key.
    leaves: Vec<(K, Node<K, V, WIDTH>)>,
    /// The leaf being filled.
    entries: Leaf<K, V, WIDTH>,
}

impl<K: Ord + Clone, V, const WIDTH: usize> Builder<K, V, WIDTH> {
    pub fn new() -> Self {
        Builder { leaves: Vec::new(), entries: ArrayVec::new() }
    }

    /// The next entry. Its key has to be above the last one's.
    pub fn push(&mut self, key: K, value: V) {
        assert!(self.last_key().is_none_or(|last| *last < key), "keys rise");
        if self.entries.is_full() {
            self.leaf_is_whole();
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
        self.leaf_is_whole();
        let mut level = self.leaves;
        while 1 < level.len() {
            level = level_above(level);
        }
        let (_, root) = level.remove(0);
        Tree { root, len }
    }

    fn leaf_is_whole(&mut self) {
        let first_key = self.entries[0].0.clone();
        self.leaves.push((first_key, Node::Leaf(Arc::new(mem::take(&mut self.entries)))));
    }
}

/// The inner nodes above these nodes: as few as can be, and equally wide, give or take one.
fn level_above<K, V, const WIDTH: usize>(
    nodes: Vec<(K, Node<K, V, WIDTH>)>,
) -> Vec<(K, Node<K, V, WIDTH>)> {
    let (count, inner_count) = (nodes.len(), nodes.len().div_ceil(WIDTH));
    let mut nodes = nodes.into_iter();
    let inner = |number: usize| {
        let here = (number + 1) * count / inner_count - number * count / inner_count;
        let (first_key, first) = nodes.next().expect("two or more for each");
        let mut inner = Inner { separators: ArrayVec::new(), children: ArrayVec::new() };
        inner.children.push(first);
        for (separator, child) in nodes.by_ref().take(here - 1) {
            inner.separators.push(separator);
            inner.children.push(child);
        }
        (first_key, Node::Inner(Arc::new(inner)))
    };
    (0..inner_count).map(inner).collect()
}
