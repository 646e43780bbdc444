//! Walking the entries in order, from any place: along the leaves, with the way back up on a stack.

use std::borrow::Borrow;
use std::ops::Bound;
use std::slice;

use super::{Node, Tree, find};

/// The entries from some place on, by key.
pub struct Range<'a, K, V, const WIDTH: usize> {
    /// The children still to be walked, of each inner node above the leaf.
    above: Vec<slice::Iter<'a, Node<K, V, WIDTH>>>,
    /// What is left of the leaf.
    entries: slice::Iter<'a, (K, V)>,
}

impl<K: Ord + Clone, V: Clone, const WIDTH: usize> Tree<K, V, WIDTH> {
    /// The entries from a key on, with it or without.
    pub fn range<Q: Ord + ?Sized>(&self, from: Bound<&Q>) -> Range<'_, K, V, WIDTH>
    where
        K: Borrow<Q>,
    {
        let mut above = Vec::new();
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(inner) => {
                    let at = match from {
                        Bound::Unbounded => 0,
                        Bound::Included(key) | Bound::Excluded(key) => inner.child_of(key),
                    };
                    above.push(inner.children[at + 1..].iter());
                    node = &inner.children[at];
                }
                Node::Leaf(entries) => {
                    let at = match from {
                        Bound::Unbounded => 0,
                        Bound::Included(key) => find(entries, key).unwrap_or_else(|at| at),
                        Bound::Excluded(key) => {
                            find(entries, key).map_or_else(|at| at, |at| at + 1)
                        }
                    };
                    return Range { above, entries: entries[at..].iter() };
                }
            }
        }
    }

    /// All entries.
    pub fn iter(&self) -> Range<'_, K, V, WIDTH> {
        self.range(Bound::Unbounded::<&K>)
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }
}

impl<'a, K, V, const WIDTH: usize> Iterator for Range<'a, K, V, WIDTH> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                return Some((key, value));
            }
            // Up to where something is left, and down to its first leaf.
            match self.above.last_mut()?.next() {
                None => _ = self.above.pop(),
                Some(Node::Inner(inner)) => self.above.push(inner.children.iter()),
                Some(Node::Leaf(entries)) => self.entries = entries.iter(),
            }
        }
    }
}

impl<'a, K: Ord + Clone, V: Clone, const WIDTH: usize> IntoIterator for &'a Tree<K, V, WIDTH> {
    type Item = (&'a K, &'a V);
    type IntoIter = Range<'a, K, V, WIDTH>;

    fn into_iter(self) -> Range<'a, K, V, WIDTH> {
        self.iter()
    }
}
