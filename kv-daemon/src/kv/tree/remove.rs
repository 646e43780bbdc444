//! Taking entries away, and keeping nodes at least a third full: one that is not is joined with its
//! neighbour, and cut in the middle again if that is too much for one node.

use std::borrow::Borrow;
use std::sync::Arc;

use super::{Inner, Node, SPARE, Tree, find};

impl<K: Ord + Clone, V: Clone, const WIDTH: usize> Tree<K, V, WIDTH> {
    /// Takes a key away. Returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // For a key that is absent nothing is copied.
        self.get(key)?;
        let value = Arc::make_mut(&mut self.root).remove::<Q, WIDTH>(key);
        self.len -= 1;
        // No other node is left with one child.
        if let Node::Inner(inner) = &*self.root
            && let [only] = &*inner.children
        {
            self.root = Arc::clone(only);
        }
        Some(value)
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    /// Takes away a key that is there.
    fn remove<Q: Ord + ?Sized, const WIDTH: usize>(&mut self, key: &Q) -> V
    where
        K: Borrow<Q>,
    {
        match self {
            Node::Leaf(entries) => {
                let at = find(entries, key).expect("the key is there");
                let (_, value) = entries.remove(at);
                if entries.len() + 2 * SPARE < entries.capacity() {
                    entries.shrink_to(entries.len() + SPARE);
                }
                value
            }
            Node::Inner(inner) => {
                let at = inner.child_of(key);
                let child = Arc::make_mut(&mut inner.children[at]);
                let value = child.remove::<Q, WIDTH>(key);
                if child.width() < const { least(WIDTH) } {
                    inner.mend::<WIDTH>(at);
                }
                value
            }
        }
    }

    /// How many entries or children.
    fn width(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(inner) => inner.children.len(),
        }
    }

    /// Takes in the next node of the same depth. Returns the upper half and what separates them, if
    /// that is too much for one.
    fn join<const WIDTH: usize>(&mut self, separator: K, right: Self) -> Option<(K, Self)> {
        match (self, right) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                left.reserve_exact(right.len());
                left.extend(right);
                if left.len() <= WIDTH {
                    return None;
                }
                let right = left.split_off(left.len() / 2);
                left.shrink_to_fit();
                Some((right[0].0.clone(), Node::Leaf(right)))
            }
            (Node::Inner(left), Node::Inner(right)) => {
                left.separators.push(separator);
                left.separators.extend(right.separators);
                left.children.extend(right.children);
                if left.children.len() <= WIDTH {
                    return None;
                }
                let (separator, right) = left.split_off(left.children.len() / 2);
                Some((separator, Node::Inner(right)))
            }
            _ => unreachable!("all leaves are equally deep"),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Inner<K, V> {
    /// Joins a child that holds too little with a neighbour: there are at least two children.
    fn mend<const WIDTH: usize>(&mut self, at: usize) {
        let left = at.saturating_sub(1);
        let separator = self.separators.remove(left);
        let right = Arc::unwrap_or_clone(self.children.remove(left + 1));
        let joined = Arc::make_mut(&mut self.children[left]).join::<WIDTH>(separator, right);
        if let Some((separator, right)) = joined {
            self.separators.insert(left, separator);
            self.children.insert(left + 1, Arc::new(right));
        }
    }
}

/// The least entries or children of a node that is neither the root nor on the right edge.
pub(super) const fn least(width: usize) -> usize {
    assert!(6 <= width, "a third of it is two: no inner node has less children");
    width / 3
}
