//! The map beside the standard library's, with views that must not change; and how full its nodes are.

use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::collection::vec;
use proptest::prelude::*;

use super::remove::least;
use super::{Builder, Node, Tree};

/// A deep tree of few keys.
type Narrow = Tree<u16, u32, 8>;

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u32),
    Change(u16, u32),
    Remove(u16),
    /// Runs of neighbours empty whole nodes.
    RemoveRun(u16, u16),
    AppendRun(u16),
    View,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..400_u16;
    let step = prop_oneof![
        6 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
        1 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Change(key, value)),
        3 => key.clone().prop_map(Step::Remove),
        1 => (key, 0..60_u16).prop_map(|(key, count)| Step::RemoveRun(key, count)),
        1 => (0..60_u16).prop_map(Step::AppendRun),
        1 => Just(Step::View),
    ];
    vec(step, 0..300)
}

proptest! {
    /// The law: whatever is done, the map is what the standard library's is, its views are what it
    /// was when they were taken, and its rules hold.
    #[test]
    fn a_tree_is_a_map_and_its_views_do_not_change(steps in steps()) {
        let (mut tree, mut model) = (Narrow::default(), BTreeMap::new());
        let mut views = Vec::new();
        for step in steps {
            match step {
                Step::Insert(key, value) => {
                    prop_assert_eq!(tree.insert(key, value), model.insert(key, value));
                }
                Step::Change(key, value) => {
                    let (ours, theirs) = (tree.get_mut(&key), model.get_mut(&key));
                    prop_assert_eq!(&ours, &theirs);
                    if let (Some(ours), Some(theirs)) = (ours, theirs) {
                        (*ours, *theirs) = (value, value);
                    }
                }
                Step::Remove(key) => prop_assert_eq!(tree.remove(&key), model.remove(&key)),
                Step::RemoveRun(from, count) => for key in from..from + count {
                    prop_assert_eq!(tree.remove(&key), model.remove(&key));
                },
                Step::AppendRun(count) => {
                    let last = model.last_key_value().map_or(0, |(last, _)| *last);
                    for key in (last..last.saturating_add(count)).map(|key| key + 1) {
                        prop_assert_eq!(tree.insert(key, 1), model.insert(key, 1));
                    }
                }
                Step::View => views.push((tree.clone(), model.clone())),
            }
            check(&tree);
            prop_assert_eq!(tree.len(), model.len());
        }
        views.push((tree, model));
        for (view, model) in views {
            prop_assert!(view.iter().eq(&model), "{view:?} should be {model:?}");
            for key in 0..400 {
                prop_assert_eq!(view.get(&key), model.get(&key));
            }
        }
    }

    /// A range of a map is that of the standard library's, from keys that are there or are not.
    #[test]
    fn ranges_begin_where_they_should(keys in vec(0..200_u16, 0..120), from in 0..200_u16) {
        let (mut tree, mut model) = (Narrow::default(), BTreeMap::new());
        for key in keys {
            tree.insert(key, u32::from(key));
            model.insert(key, u32::from(key));
        }
        for bound in [Bound::Unbounded, Bound::Included(&from), Bound::Excluded(&from)] {
            prop_assert!(tree.range(bound).eq(model.range((bound.cloned(), Bound::Unbounded))));
        }
    }

    /// Built or inserted, it is the same map; a built one can be changed like any other.
    #[test]
    fn a_built_tree_is_a_tree(count in 0..1500_u16, removed in vec(0..1500_u16, 0..200)) {
        let (mut built, mut inserted) = (built::<8>(count), Narrow::default());
        (0..count).for_each(|key| _ = inserted.insert(key, u32::from(key)));
        check(&built);
        prop_assert_eq!(&built, &inserted);
        for key in removed {
            prop_assert_eq!(built.remove(&key), inserted.remove(&key));
            check(&built);
        }
        prop_assert_eq!(&built, &inserted);
    }
}

#[test]
fn keys_in_order_leave_full_leaves() {
    let mut tree = Tree::<u16, u32>::default();
    (0..10_000).for_each(|key| _ = tree.insert(key, 0));
    assert!(0.99 < fill(&tree), "{}", fill(&tree));
}

/// Nearly in order is as many clients together write keys in order.
#[test]
fn keys_in_any_other_order_leave_leaves_about_four_fifths_full() {
    type Order = fn(u16) -> u16;
    let orders: [(&str, Order); 3] = [
        ("falling", |number| 9_999 - number),
        ("nearly in order", |number| number ^ 0xa5),
        ("in no order", |number| (u32::from(number) * 7919 % 10_007) as u16),
    ];
    for (name, key) in orders {
        let mut tree = Tree::<u16, u32>::default();
        (0..10_000).for_each(|number| _ = tree.insert(key(number), 0));
        check(&tree);
        assert!(0.8 < fill(&tree), "{name}: {}", fill(&tree));
    }
}

#[test]
fn a_built_tree_has_no_room_at_all() {
    assert!(0.99 < fill(&built::<32>(10_000)));
}

/// All deletes are followed by joins, until one empty leaf is left.
#[test]
fn removing_everything_leaves_nothing() {
    let orders: [fn(u16) -> u16; 3] = [|key| key, |key| 4999 - key, |key| key * 3 % 5000];
    for order in orders {
        let mut tree = built::<6>(5000);
        for key in (0..5000).map(order) {
            assert_eq!(tree.remove(&key), Some(u32::from(key)));
            assert_eq!(tree.remove(&key), None);
        }
        check(&tree);
        assert_eq!((tree.len(), tree.iter().next(), leaves(&tree).len()), (0, None, 1));
    }
}

/// A put of one key does not copy a store.
#[test]
fn a_change_copies_the_way_to_it_and_nothing_else() {
    let mut tree = built::<32>(10_000);
    let view = tree.clone();
    tree.remove(&60_000);
    assert!(leaves(&tree) == leaves(&view) && changed(&tree, &view) == 0, "nothing was changed");
    *tree.get_mut(&5000).expect("one of the keys") = 7;
    assert_eq!(changed(&tree, &view), 1);
    assert_eq!((tree.get(&5000), view.get(&5000)), (Some(&7), Some(&5000)));
}

fn built<const WIDTH: usize>(count: u16) -> Tree<u16, u32, WIDTH> {
    let mut builder = Builder::new();
    (0..count).for_each(|key| builder.push(key, u32::from(key)));
    builder.finish()
}

/// Entries by the entries there is room for.
fn fill<const WIDTH: usize>(tree: &Tree<u16, u32, WIDTH>) -> f64 {
    tree.len() as f64 / (leaves(tree).len() * WIDTH) as f64
}

/// How many leaves are not the same, of as many.
fn changed<const WIDTH: usize>(
    one: &Tree<u16, u32, WIDTH>,
    other: &Tree<u16, u32, WIDTH>,
) -> usize {
    let pairs = leaves(one).into_iter().zip(leaves(other));
    pairs.filter(|(one, other)| one.as_ptr() != other.as_ptr()).count()
}

fn leaves<const WIDTH: usize>(tree: &Tree<u16, u32, WIDTH>) -> Vec<&[(u16, u32)]> {
    let mut leaves = Vec::new();
    walk(&tree.root, &mut |node| {
        if let Node::Leaf(entries) = node {
            leaves.push(&entries[..]);
        }
    });
    leaves
}

fn walk<'a, const WIDTH: usize>(
    node: &'a Node<u16, u32, WIDTH>,
    visit: &mut impl FnMut(&'a Node<u16, u32, WIDTH>),
) {
    visit(node);
    if let Node::Inner(inner) = node {
        inner.children.iter().for_each(|child| walk(child, visit));
    }
}

/// The rules at the head of `mod.rs`.
fn check<const WIDTH: usize>(tree: &Tree<u16, u32, WIDTH>) {
    check_node::<WIDTH>(&tree.root, (None, None), true, true);
    assert!(tree.keys().is_sorted_by(|a, b| a < b), "keys rise strictly");
    assert_eq!(tree.iter().count(), tree.len());
}

/// Returns how deep the leaves are.
fn check_node<const WIDTH: usize>(
    node: &Node<u16, u32, WIDTH>,
    (low, high): (Option<u16>, Option<u16>),
    is_root: bool,
    on_right_edge: bool,
) -> usize {
    let may_be_narrow = is_root || on_right_edge;
    match node {
        Node::Leaf(entries) => {
            assert!(entries.len() <= WIDTH && (may_be_narrow || least(WIDTH) <= entries.len()));
            assert!(is_root || !entries.is_empty(), "a leaf is not empty");
            let is_inside =
                |key| low.is_none_or(|low| low <= key) && high.is_none_or(|it| key < it);
            assert!(entries.iter().all(|(key, _)| is_inside(*key)), "keys keep to separators");
            0
        }
        Node::Inner(inner) => {
            let width = inner.children.len();
            assert!((2..=WIDTH).contains(&width) && (may_be_narrow || least(WIDTH) <= width));
            assert_eq!(inner.separators.len(), width - 1);
            let bound = |at: usize| inner.separators.get(at).copied();
            let depth = |(at, child): (usize, &Node<u16, u32, WIDTH>)| {
                let low = at.checked_sub(1).and_then(bound).or(low);
                let on_right_edge = on_right_edge && at + 1 == width;
                check_node::<WIDTH>(child, (low, bound(at).or(high)), false, on_right_edge)
            };
            let mut depths = inner.children.iter().enumerate().map(depth);
            let first = depths.next().expect("two or more children");
            assert!(depths.all(|depth| depth == first), "all leaves are equally deep");
            first + 1
        }
    }
}
