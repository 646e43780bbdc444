//! Taking entries away, and keeping nodes at least a third full: one that is not is joined with its
//! neighbour, or, if that is too much for one node, the two share what they have.

use std::borrow::Borrow;
use std::sync::Arc;

use super::{Inner, Node, Tree, find};

impl<K: Ord + Clone, V: Clone, const WIDTH: usize> Tree<K, V, WIDTH> {
    /// Takes a key away. Returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // For a key that is absent nothing is copied.
        self.get(key)?;
        let value = self.root.remove(key);
        self.len -= 1;
        // No other node is left with one child.
        if let Node::Inner(inner) = &self.root
            && let [only] = inner.children.as_slice()
        {
            self.root = only.clone();
        }
        Some(value)
    }
}

impl<K: Ord + Clone, V: Clone, const WIDTH: usize> Node<K, V, WIDTH> {
    /// Takes away a key that is there.
    fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> V
    where
        K: Borrow<Q>,
    {
        match self {
            Node::Leaf(entries) => {
                let at = find(entries, key).expect("the key is there");
                Arc::make_mut(entries).remove(at).1
            }
            Node::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let at = inner.child_of(key);
                let value = inner.children[at].remove(key);
                if inner.children[at].width() < const { least(WIDTH) } {
                    inner.mend(at);
                }
                value
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone, const WIDTH: usize> Inner<K, V, WIDTH> {
    /// Brings a child that holds too little together with a neighbour: there are at least two children.
    fn mend(&mut self, at: usize) {
        let left = at.saturating_sub(1);
        if WIDTH < self.children[left].width() + self.children[left + 1].width() {
            self.even_out(left);
            return;
        }
        let separator = self.separators.remove(left);
        let right = self.children.remove(left + 1);
        match (&mut self.children[left], right) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                Arc::make_mut(left).extend(Arc::unwrap_or_clone(right));
            }
            (Node::Inner(left), Node::Inner(right)) => {
                let (left, right) = (Arc::make_mut(left), Arc::unwrap_or_clone(right));
                left.separators.push(separator);
                left.separators.extend(right.separators);
                left.children.extend(right.children);
            }
            _ => unreachable!("all leaves are equally deep"),
        }
    }
}

/// The least entries or children of a node that is neither the root nor on the right edge.
pub(super) const fn least(width: usize) -> usize {
    assert!(6 <= width, "a third of it is two: no inner node has less children");
    width / 3
}
