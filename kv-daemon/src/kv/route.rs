//! Where a request belongs, as far as this node knows: the map here may be older than that of its
//! leader, and the store itself has the last word when it applies or reads.

use carp::{Admit, MemberId, Moved, Ownership};

use super::request::Request;

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whither {
    /// It is for this cluster.
    Here,
    /// Tell the client whose key it is: it keeps a map itself.
    Tell(Box<Moved>),
    /// Hand it on.
    Send {
        /// To this cluster.
        to: MemberId,
        /// Any of these.
        urls: Vec<String>,
    },
    /// This cluster will serve the key, and nobody is known to do so now.
    NotYet,
}

/// Where a request belongs. `client_epoch` is that of the map of a client that keeps one and sent the
/// request here itself. A client with a newer map than ours is not told what it knows better.
pub(super) fn whither(own: &Ownership, request: &Request, client_epoch: Option<u64>) -> Whither {
    let Some(key) = request.key() else { return Whither::Here };
    let send =
        |to: &MemberId, urls: &[String]| Whither::Send { to: to.clone(), urls: urls.to_vec() };
    match own.admit(own.array().slot(key)) {
        Admit::Serving => Whither::Here,
        Admit::Elsewhere(owner) => {
            let tell = client_epoch.is_some_and(|epoch| epoch <= own.array().epoch().0);
            match own.moved(key).filter(|_| tell) {
                Some(moved) => Whither::Tell(Box::new(moved)),
                None => send(&owner.id, &owner.urls),
            }
        }
        Admit::Coming(Some(giver)) => send(&giver.id, &giver.urls),
        Admit::Coming(None) => Whither::NotYet,
    }
}
