//! An ordered map whose clones are views: a copy-on-write B+ tree.
//!
//! A clone shares every node and costs one reference count. A change copies the nodes on its way that
//! somebody else shares, and no others, so a view never changes, and a map without views is changed in
//! place. Made for a store that is nothing but one such map: what counts is the memory per entry, so
//! leaves are kept full. All nodes of a kind are equally large, so what one gives back fits the next.
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
//! - Nodes are at least a third full, but for the root and those on the right edge, where keys that
//!   come in order are appended. Mostly they are far fuller: a full node first shares with one nearby
//!   that has room, and is split only when there is none.
//!
//! It never looks at what a value is, and has no order of its own: that is `K`'s.

mod build;
mod iter;
mod remove;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;
use std::{fmt, mem};

use arrayvec::ArrayVec;

pub use build::Builder;

/// The map. Wider nodes spend less on counts and separators, and copy more while a view is held; see
/// `docs/decisions/an-ordered-map-of-our-own.md`. The tests take less, for deep trees of few keys.
#[derive(Clone)]
pub struct Tree<K, V, const WIDTH: usize = 32> {
    root: Node<K, V, WIDTH>,
    len: usize,
}

/// A node, shared with every view that holds it. Its entries or children lie beside its count: one
/// jump in memory for each floor of the tree.
#[derive(Clone)]
enum Node<K, V, const WIDTH: usize> {
    Leaf(Arc<Leaf<K, V, WIDTH>>),
    Inner(Arc<Inner<K, V, WIDTH>>),
}

/// How far away a full node looks for room before it is split: further is fuller, and more to move.
const REACH: usize = 2;

type Leaf<K, V, const WIDTH: usize> = ArrayVec<(K, V), WIDTH>;

/// One separator less than children.
#[derive(Clone)]
struct Inner<K, V, const WIDTH: usize> {
    /// The one at `i` is above all keys of child `i`, and at or below all of child `i + 1`. It need
    /// not be in the map any more.
    separators: ArrayVec<K, WIDTH>,
    children: ArrayVec<Node<K, V, WIDTH>, WIDTH>,
}

impl<K: Ord + Clone, V: Clone, const WIDTH: usize> Tree<K, V, WIDTH> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = &self.root;
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
            match node {
                Node::Leaf(entries) => {
                    let at = find(entries, key).ok()?;
                    return Some(&mut Arc::make_mut(entries)[at].1);
                }
                Node::Inner(inner) => {
                    let at = inner.child_of(key);
                    node = &mut Arc::make_mut(inner).children[at];
                }
            }
        }
    }

    /// Gives a key this value. Returns the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.root.width() == WIDTH {
            let mut above = Inner { separators: ArrayVec::new(), children: ArrayVec::new() };
            above.children.push(mem::take(&mut self.root));
            above.split(0, &key, true);
            self.root = Node::Inner(Arc::new(above));
        }
        // There is room in whatever node the way down has come to: so there is for one child more.
        let (mut node, mut on_right_edge) = (&mut self.root, true);
        loop {
            match node {
                Node::Leaf(entries) => {
                    let entries = Arc::make_mut(entries);
                    match find(entries, &key) {
                        Ok(at) => return Some(mem::replace(&mut entries[at].1, value)),
                        Err(at) => entries.insert(at, (key, value)),
                    }
                    self.len += 1;
                    return None;
                }
                Node::Inner(inner) => {
                    let inner = Arc::make_mut(inner);
                    let mut at = inner.child_of(&key);
                    if inner.children[at].width() == WIDTH {
                        inner.make_room(at, &key, on_right_edge);
                        at = inner.child_of(&key);
                    }
                    on_right_edge &= at + 1 == inner.children.len();
                    node = &mut inner.children[at];
                }
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone, const WIDTH: usize> Inner<K, V, WIDTH> {
    /// Which child a key belongs to.
    fn child_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        match search(&self.separators, |separator| separator.borrow().cmp(key)) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }

    /// Makes room for a key that belongs to a full child: there, or in another child, to which the
    /// key belongs then.
    fn make_room(&mut self, at: usize, key: &K, on_right_edge: bool) {
        let last = self.children.len() - 1;
        for distance in 1..=REACH {
            // Half of the room goes each step on. Less than an eighth is not worth the moving.
            let room = (1 << distance).max(WIDTH / 8);
            let has_room = |node: &Node<K, V, WIDTH>| node.width() + room <= WIDTH;
            if distance <= at && has_room(&self.children[at - distance]) {
                (at - distance..at).for_each(|left| self.even_out(left));
                return;
            }
            if at + distance <= last && has_room(&self.children[at + distance]) {
                (at..at + distance).rev().for_each(|left| self.even_out(left));
                return;
            }
        }
        self.split(at, key, on_right_edge && at == last);
    }

    /// Splits a full child, into which this key will go.
    fn split(&mut self, at: usize, key: &K, on_right_edge: bool) {
        let (separator, right) = match &mut self.children[at] {
            Node::Leaf(entries) => {
                let in_order = entries.last().is_some_and(|(last, _)| last < key);
                if on_right_edge && in_order {
                    // Keys that come in order leave full leaves behind.
                    (key.clone(), Node::default())
                } else {
                    let right: Leaf<_, _, _> = Arc::make_mut(entries).drain(WIDTH / 2..).collect();
                    (right[0].0.clone(), Node::Leaf(Arc::new(right)))
                }
            }
            Node::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let cut = if on_right_edge { WIDTH - 2 } else { WIDTH / 2 };
                let children = inner.children.drain(cut..).collect();
                let separators = inner.separators.drain(cut..).collect();
                let separator = inner.separators.pop().expect("one between any two children");
                (separator, Node::Inner(Arc::new(Inner { separators, children })))
            }
        };
        self.separators.insert(at, separator);
        self.children.insert(at + 1, right);
    }

    /// Makes a child and the next one equally wide.
    fn even_out(&mut self, left: usize) {
        let separator = &mut self.separators[left];
        let (left, right) = self.children[left..].split_at_mut(1);
        match (&mut left[0], &mut right[0]) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                let (left, right) = (Arc::make_mut(left), Arc::make_mut(right));
                move_across(left, right);
                *separator = right[0].0.clone();
            }
            (Node::Inner(left), Node::Inner(right)) => {
                let (left, right) = (Arc::make_mut(left), Arc::make_mut(right));
                move_across(&mut left.children, &mut right.children);
                // Read as one row, the separators stay as they are.
                let mut row = mem::take(&mut left.separators).into_iter();
                let mut row =
                    row.by_ref().chain([separator.clone()]).chain(mem::take(&mut right.separators));
                left.separators = row.by_ref().take(left.children.len() - 1).collect();
                *separator = row.next().expect("one between any two children");
                right.separators = row.collect();
            }
            _ => unreachable!("all leaves are equally deep"),
        }
    }
}

impl<K, V, const WIDTH: usize> Node<K, V, WIDTH> {
    /// How many entries or children.
    fn width(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(inner) => inner.children.len(),
        }
    }
}

/// Moves items from the longer to the shorter row, of two that follow each other.
fn move_across<T, const WIDTH: usize>(
    left: &mut ArrayVec<T, WIDTH>,
    right: &mut ArrayVec<T, WIDTH>,
) {
    let half = (left.len() + right.len()) / 2;
    if left.len() < half {
        let missing = half - left.len();
        left.extend(right.drain(..missing));
    } else {
        let mut moved: ArrayVec<T, WIDTH> = left.drain(half..).collect();
        moved.extend(mem::take(right));
        *right = moved;
    }
}

/// Where the key is among these entries, or would be.
fn find<K: Borrow<Q>, V, Q: Ord + ?Sized>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    search(entries, |(held, _)| held.borrow().cmp(key))
}

/// `slice::binary_search_by` takes no branches, so each comparison waits for the one before it. Here
/// the processor can guess, and fetch the next key from memory meanwhile.
fn search<T>(items: &[T], order: impl Fn(&T) -> Ordering) -> Result<usize, usize> {
    let (mut low, mut high) = (0, items.len());
    while low < high {
        let middle = (low + high) / 2;
        match order(&items[middle]) {
            Ordering::Less => low = middle + 1,
            Ordering::Equal => return Ok(middle),
            Ordering::Greater => high = middle,
        }
    }
    Err(low)
}

impl<K, V, const WIDTH: usize> Default for Node<K, V, WIDTH> {
    fn default() -> Self {
        Node::Leaf(Arc::new(ArrayVec::new()))
    }
}

impl<K, V, const WIDTH: usize> Default for Tree<K, V, WIDTH> {
    fn default() -> Self {
        Tree { root: Node::default(), len: 0 }
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
