//! Why a node does not form yet, in one sentence that says what would help. Never decides: only
//! [`obstacle`] has a say, and that says no.

use std::collections::{BTreeMap, BTreeSet};

use super::forming::Forming;
use super::{Hello, Identity, PROTOCOL, Standing};

/// What forbids this set whatever else is answered: it has to be mended by hand.
pub(super) fn obstacle(forming: &Forming) -> Option<String> {
    foreign_protocol(forming).or_else(|| wrong_name(forming)).or_else(|| shared_name(forming))
}

/// The most helpful reason among those that hold, from "cannot be" to "soon".
pub(super) fn why(forming: &Forming) -> String {
    established(forming)
        .or_else(|| obstacle(forming))
        .or_else(|| only_ourselves(forming))
        .or_else(|| missing(forming))
        .or_else(|| disagreement(forming))
        .unwrap_or_else(|| "waiting for all peers to agree on the set of nodes".to_owned())
}

fn established(forming: &Forming) -> Option<String> {
    let formed = forming.others().find_map(|(_, hello)| match hello.standing {
        Standing::Formed { cluster } => Some((hello, cluster)),
        Standing::Fresh { .. } => None,
    });
    let (hello, cluster) = formed?;
    // While the set is incomplete this may yet turn out to be our own cluster.
    if forming.digest().is_none() && lists(hello, forming.me()) {
        return missing(forming).or_else(|| obstacle(forming)).map(|reason| {
            format!("{} has formed cluster {cluster} with this node; {reason}", hello.identity)
        });
    }
    let members = spelled(&hello.set);
    Some(format!(
        "{} already belongs to cluster {cluster} with the members {members}, and this node's data \
         directory is new: it does not vote and stores nothing until it is a member; joining an \
         existing cluster comes with a later version, so start it on the data directory it had (as it \
         was left, never an older copy), or start new, empty nodes to form another cluster",
        hello.identity
    ))
}

fn foreign_protocol(forming: &Forming) -> Option<String> {
    let (_, other) = forming.others().find(|(_, hello)| hello.protocol != PROTOCOL)?;
    Some(format!(
        "{} runs version {} which speaks protocol {}, this node speaks {PROTOCOL}: run the same \
         version on all nodes",
        other.identity, other.version, other.protocol
    ))
}

fn wrong_name(forming: &Forming) -> Option<String> {
    forming.peers.iter().find_map(|peer| {
        let wanted = peer.spec.name.as_ref()?;
        let (_, hello) = peer.answer.as_ref()?;
        (*wanted != hello.identity.name).then(|| {
            format!(
                "--peers calls the node at {} {wanted}, but it says its name is {}: correct --peers \
                 here or --id there",
                peer.spec.address, hello.identity.name
            )
        })
    })
}

fn shared_name(forming: &Forming) -> Option<String> {
    let mut by_name: BTreeMap<String, Identity> = BTreeMap::new();
    for identity in forming.known().into_values() {
        if let Some(other) = by_name.insert(identity.name.clone(), identity.clone()) {
            return Some(format!(
                "two nodes are called {}, at {} and at {}: start one of them with another --id",
                identity.name, other.address, identity.address
            ));
        }
    }
    None
}

fn only_ourselves(forming: &Forming) -> Option<String> {
    let all_answered = forming.peers.iter().all(|peer| peer.answer.is_some());
    (all_answered && forming.known().len() < 2).then(|| {
        format!(
            "every address of --peers ({}) is this node itself: name the other nodes, or leave \
             --peers out to form a cluster of one",
            addresses(forming)
        )
    })
}

fn missing(forming: &Forming) -> Option<String> {
    let silent =
        forming.peers.iter().filter(|peer| peer.answer.is_none() || peer.failure.is_some());
    let silent: Vec<String> = silent
        .map(|peer| match &peer.failure {
            Some(error) => format!("{} ({error})", peer.spec.address),
            None => peer.spec.address.clone(),
        })
        .collect();
    (!silent.is_empty()).then(|| {
        format!("the first start needs every node once: waiting for {}", silent.join(", "))
    })
}

/// All have answered, but not with our digest: the sets side by side, with the flag that mends it.
fn disagreement(forming: &Forming) -> Option<String> {
    let ours: BTreeSet<Identity> = forming.known().into_values().collect();
    let fresh = forming.others().map(|(_, hello)| hello);
    let differing: Vec<&Hello> = fresh.filter(|hello| set_of(hello) != ours).collect();
    let first = differing.first()?;
    if let Standing::Fresh { digest: None } = first.standing
        && set_of(first).is_subset(&ours)
    {
        return Some(format!(
            "{} has heard from {} so far; its --peers are {}",
            first.identity,
            spelled(&first.set),
            first.peers.join(",")
        ));
    }
    let mut union = ours.clone();
    let mut sides = vec![format!("{} would form with {}", forming.me(), spelled(&ours))];
    for hello in &differing {
        sides.push(format!("{} with {}", hello.identity, spelled(&hello.set)));
        union.extend(hello.set.iter().cloned());
    }
    let mut mends = Vec::new();
    let with_sets = differing.iter().map(|hello| (&hello.identity, set_of(hello)));
    for (node, set) in with_sets.chain([(forming.me(), ours.clone())]) {
        if set != union {
            let others = union.iter().filter(|other| other.node_id != node.node_id);
            let flag: Vec<&str> = others.map(|other| other.address.as_str()).collect();
            mends.push(format!("{} with --peers {}", node.name, flag.join(",")));
        }
    }
    Some(format!(
        "the nodes were started with different sets: {}; start {}",
        sides.join(", "),
        mends.join(" and ")
    ))
}

fn lists(hello: &Hello, identity: &Identity) -> bool {
    hello.set.contains(identity)
}

fn set_of(hello: &Hello) -> BTreeSet<Identity> {
    hello.set.iter().cloned().collect()
}

fn spelled<'a>(set: impl IntoIterator<Item = &'a Identity>) -> String {
    set.into_iter().map(Identity::to_string).collect::<Vec<_>>().join(", ")
}

fn addresses(forming: &Forming) -> String {
    let spelled: Vec<&str> = forming.peers.iter().map(|peer| peer.spec.address.as_str()).collect();
    spelled.join(",")
}
