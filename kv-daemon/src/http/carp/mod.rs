//! `/carp` and below: the array of clusters. [`show`] tells the map and what is in the slots,
//! [`change`] takes a map and works out changes, [`ask`] is the door for requests of other clusters.

pub mod ask;
pub mod change;
pub mod show;

use std::sync::Arc;

use carp::Ownership;
use warp::http::StatusCode;

use super::reply::Problem;
use super::routes::{Asked, Refused};

/// What this cluster serves.
///
/// # Errors
/// 404: it is in no array. 503: it is not there yet.
fn owned(asked: &Asked<'_>) -> Result<Arc<Ownership>, Refused> {
    let serving = super::operate::serving(asked)?;
    serving.store.ownership().ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no-map",
            "this cluster is in no array",
            "It owns every key. PUT /carp puts it into an array; see --cluster-name.",
        )
    })
}
