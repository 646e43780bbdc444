//! An ordered map whose clones are views: a copy-on-write B+ tree.
//!
//! A clone shares every node and costs one reference count. A change copies the nodes on its way that
//! somebody else shares, and no others, so a view never changes, and a map without views is changed in
//! place. Made for a store that is nothing but one such map: what counts is the memory per entry. Entries
//! lie side by side in leaves, and a leaf has room for little more than it holds.
//!
//! ```text
//!   inner      [ ..  m  .. ]           separators: "m" is above all on its left,
//!               /         \                        at or below all on its right
//!   leaf  [(a, 1) (c, 3)] [(m, 7) (p, 2) (x, 9)]
//! ```
//!
//! Rules, checked by the tests after every change:
//! - All leaves are equally deep. Keys rise strictly along the leaves.
//! - A leaf holds at most `WIDTH` entries, an inner node at most `WIDTH` children and at least two.
//! - Nodes are at least a third full, but for those on the right edge, where keys that come in order
//!   are appended, and the root.
//! - A leaf has room for at most [`SPARE`] entries that it does not hold yet, or twice as many that were
//!   removed.
//!
//! It never looks at what a value is, and has no order of its own: that is `K`'s.

mod build;
mod iter;
mod remove;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::sync::Arc;
use std::{fmt, mem};

pub use build::Builder;

/// The map. `WIDTH` is measured for the store, see `docs/decisions/our-own-ordered-map.md`; the tests
/// take less, for deep trees of few keys.
pub struct Tree<K, V, const WIDTH: usize = 64> {
    root: Arc<Node<K, V>>,
    len: usize,
}

#[derive(Clone)]
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    Inner(Inner<K, V>),
}

/// One separator less than children.
#[derive(Clone)]
struct Inner<K, V> {
    /// The one at `i` is above all keys of child `i`, and at or below all of child `i + 1`. It need
    /// not be in the map any more.
    separators: Vec<K>,
    children: Vec<Arc<Node<K, V>>>,
}

/// What became of an insert, seen from the node above.
enum Inserted<K, V> {
    Replaced(V),
    Fits,
    /// The node keeps its lower part; here is the rest, and what separates them.
    Split(K, Node<K, V>),
}

/// How much room a full vector gets: room is memory, growing is a copy.
const SPARE: usize = 8;

impl<K, V, const WIDTH: usize> Tree<K, V, WIDTH> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }
}

impl<K: Ord + Clone, V: Clone, const WIDTH: usize> Tree<K, V, WIDTH> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(entries) => return Some(&entries[find(entries, key).ok()?].1),
                Node::Inner(inner) => node = &inner.children[inner.child_of(key)],
            }
        }
    }

    /// The value of a key, to be changed. The nodes on the way that views share are copied.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let mut node = &mut self.root;
        loop {
            match Arc::make_mut(node) {
                Node::Leaf(entries) => {
                    let at = find(entries, key).ok()?;
                    return Some(&mut entries[at].1);
                }
                Node::Inner(inner) => {
                    let at = inner.child_of(key);
                    node = &mut inner.children[at];
                }
            }
        }
    }

    /// Gives a key this value. Returns the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let root = Arc::make_mut(&mut self.root);
        match root.insert::<WIDTH>(key, value, true) {
            Inserted::Replaced(old) => return Some(old),
            Inserted::Fits => {}
            Inserted::Split(separator, right) => {
                let children = vec![Arc::clone(&self.root), Arc::new(right)];
                let separators = vec![separator];
                self.root = Arc::new(Node::Inner(Inner { separators, children }));
            }
        }
        self.len += 1;
        None
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    fn insert<const WIDTH: usize>(
        &mut self,
        key: K,
        value: V,
        on_right_edge: bool,
    ) -> Inserted<K, V> {
        match self {
            Node::Leaf(entries) => match find(entries, &key) {
                Ok(at) => Inserted::Replaced(mem::replace(&mut entries[at].1, value)),
                Err(at) if entries.len() < WIDTH => {
                    insert_tight(entries, at, (key, value));
                    Inserted::Fits
                }
                Err(at) => {
                    // Keys that come in order leave full leaves behind.
                    let in_order = on_right_edge && at == WIDTH;
                    let cut = if in_order { WIDTH } else { WIDTH / 2 };
                    let mut right = entries.split_off(cut);
                    entries.shrink_to_fit();
                    match at.checked_sub(cut) {
                        Some(at) => insert_tight(&mut right, at, (key, value)),
                        None => insert_tight(entries, at, (key, value)),
                    }
                    Inserted::Split(right[0].0.clone(), Node::Leaf(right))
                }
            },
            Node::Inner(inner) => {
                let at = inner.child_of(&key);
                let on_right_edge = on_right_edge && at + 1 == inner.children.len();
                let child = Arc::make_mut(&mut inner.children[at]);
                match child.insert::<WIDTH>(key, value, on_right_edge) {
                    Inserted::Split(separator, right) => {
                        insert_tight(&mut inner.separators, at, separator);
                        insert_tight(&mut inner.children, at + 1, Arc::new(right));
                        if inner.children.len() <= WIDTH {
                            return Inserted::Fits;
                        }
                        // As in a leaf, but no inner node has less than two children.
                        let cut = if on_right_edge { WIDTH - 1 } else { WIDTH / 2 };
                        let (separator, right) = inner.split_off(cut);
                        Inserted::Split(separator, Node::Inner(right))
                    }
                    fits_or_replaced => fits_or_replaced,
                }
            }
        }
    }
}

impl<K: Ord, V> Inner<K, V> {
    /// Which child a key belongs to.
    fn child_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.separators.partition_point(|separator| separator.borrow() <= key)
    }

    /// Keeps the first `cut` children. Returns the rest, and what separates them.
    fn split_off(&mut self, cut: usize) -> (K, Inner<K, V>) {
        let children = self.children.split_off(cut);
        let separators = self.separators.split_off(cut);
        let separator = self.separators.pop().expect("one between any two children");
        self.children.shrink_to_fit();
        self.separators.shrink_to_fit();
        (separator, Inner { separators, children })
    }
}

/// Where the key is among these entries, or would be.
fn find<K: Borrow<Q>, V, Q: Ord + ?Sized>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    entries.binary_search_by(|(held, _)| held.borrow().cmp(key))
}

/// Inserts one more, without room for twice as many as `Vec::insert` would make.
fn insert_tight<T>(items: &mut Vec<T>, at: usize, item: T) {
    if items.len() == items.capacity() {
        items.reserve_exact(SPARE);
    }
    items.insert(at, item);
}

impl<K, V, const WIDTH: usize> Clone for Tree<K, V, WIDTH> {
    fn clone(&self) -> Self {
        Tree { root: Arc::clone(&self.root), len: self.len }
    }
}

impl<K, V, const WIDTH: usize> Default for Tree<K, V, WIDTH> {
    fn default() -> Self {
        Tree { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

/// Maps of the same entries are equal, whatever their nodes.
impl<K: Ord + Clone, V: Clone + PartialEq, const WIDTH: usize> PartialEq for Tree<K, V, WIDTH> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone, V: Clone + Eq, const WIDTH: usize> Eq for Tree<K, V, WIDTH> {}

impl<K, V, const WIDTH: usize> fmt::Debug for Tree<K, V, WIDTH>
where
    K: Ord + Clone + fmt::Debug,
    V: Clone + fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}
