//! From warp to a handler: one filter takes a request apart, one table sends it on. The table is
//! our own because warp answers 405 without `Allow` and does not take HEAD for GET; so the rules
//! about methods, the common headers and the counting are in one place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Buf;
use futures_util::Stream;
use warp::http::header::ALLOW;
use warp::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use warp::{Filter, Rejection};

use super::path::{self, Params, Route};
use super::reply::{self, Problem, Response};
use super::{carp, keys, operate};
use crate::daemon::Daemon;
use crate::kv::request::{Failure, Outcome, Reason};
use crate::units::parse_duration;

/// The time a request has when it does not say.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most it may ask for. Longer: abandoned requests stay.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// The store's revision that an answer is of.
pub const REVISION: HeaderName = HeaderName::from_static("kv-revision");
/// The node that answers.
const SERVED_BY: HeaderName = HeaderName::from_static("kv-served-by");

/// Why a handler did not do what was asked.
pub type Refused = Box<Problem>;

/// A request without its body, as every handler gets it.
pub struct Asked<'a> {
    /// The node.
    pub daemon: &'a Daemon,
    /// HEAD comes as GET: hyper leaves the body out.
    pub method: &'a Method,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// What no handler takes is refused.
    pub params: Params<'a>,
    /// When its answer is of no use any more.
    pub deadline: Instant,
    /// Whether JSON is to be indented.
    pub pretty: bool,
}

/// Everything a client may ask for, as a warp filter. `Peers`' endpoints come before it.
pub fn client(
    daemon: Arc<Daemon>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::any()
        .map(move || Arc::clone(&daemon))
        .and(warp::method())
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(
            |daemon: Arc<Daemon>,
             method,
             path: warp::path::FullPath,
             query: String,
             headers,
             body| async move {
                answer(&daemon, &method, path.as_str(), &query, &headers, body).await
            },
        )
}

/// One request, from its parts to its response.
async fn answer<S, B, E>(
    daemon: &Daemon,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: S,
) -> Response
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let begun = Instant::now();
    let _inflight = daemon.metrics.begin();
    let (route, rest) = Route::of(path);
    let mut pretty = false;
    let target = Target { route, path, rest, query };
    let result = dispatch(daemon, method, target, begun, headers, body, &mut pretty);
    let response = match result.await {
        Ok(response) => response,
        Err(mut problem) => {
            // Whatever refused a write before it was proposed: nothing was applied.
            let writes = matches!(route, Route::Key | Route::Carp)
                && matches!(*method, Method::PUT | Method::DELETE);
            if writes {
                problem.outcome.get_or_insert(Outcome::NotApplied);
            }
            problem.into_response(&daemon.teller(), pretty)
        }
    };
    daemon.metrics.answered(route, method, response.status(), begun.elapsed());
    finish(daemon, response)
}

/// What a request asks for, taken apart.
struct Target<'a> {
    route: Route,
    path: &'a str,
    /// What follows `/kv/`.
    rest: &'a str,
    query: &'a str,
}

async fn dispatch<S, B, E>(
    daemon: &Daemon,
    method: &Method,
    target: Target<'_>,
    begun: Instant,
    headers: &HeaderMap,
    body: S,
    pretty: &mut bool,
) -> Result<Response, Refused>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let Target { route, path, rest, query } = target;
    if route == Route::Unknown {
        return Err(Problem::no_route(path));
    }
    // Only here, by its head: a request that was let in before is carried to its end.
    if matches!(route, Route::Key | Route::List | Route::CarpAsk) && daemon.is_stopping() {
        return Err(Failure { reason: Reason::ShuttingDown, outcome: None }.into());
    }
    if *method == Method::OPTIONS {
        let mut response = reply::empty(StatusCode::NO_CONTENT);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(route.allow()));
        return Ok(response);
    }
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    if !route.allow().split(", ").any(|allowed| allowed == method.as_str()) {
        return Err(Problem::wrong_method(method.as_str(), route.allow()));
    }
    let mut params = Params::parse(query).map_err(bad_param)?;
    *pretty = params.take_flag("pretty").map_err(bad_param)?;
    let deadline = begun + timeout(route, &mut params)?;
    let asked = Asked { daemon, method, headers, params, deadline, pretty: *pretty };
    match (route, method.as_str()) {
        (Route::Key, "GET") => keys::get(asked, path::key(rest)?).await,
        (Route::Key, "PUT") => keys::put(asked, path::key(rest)?, body).await,
        (Route::Key, _) => keys::delete(asked, path::key(rest)?).await,
        (Route::List, _) => keys::list(asked).await,
        (Route::Root, _) => operate::root(asked),
        (Route::Health, _) => operate::health(asked),
        (Route::Livez, _) => operate::livez(asked),
        (Route::Readyz, _) => operate::readyz(asked).await,
        (Route::ClusterStatus, _) => operate::cluster_status(asked),
        (Route::ClusterLeader, "POST") => operate::transfer(asked, body).await,
        (Route::ClusterLeader, _) => operate::leader(asked),
        (Route::ClusterSnapshot, _) => operate::snapshot(asked).await,
        (Route::Carp, "PUT") => carp::change::put(asked, body).await,
        (Route::Carp, _) => carp::show::map(asked).await,
        (Route::CarpText, _) => carp::show::text(asked),
        (Route::CarpRoute, _) => carp::show::route(asked),
        (Route::CarpSlot, _) => carp::show::slot(asked, rest),
        (Route::CarpStats, _) => carp::show::stats(asked).await,
        (Route::CarpPlan, _) => carp::change::plan(asked, body).await,
        (Route::CarpCheck, _) => carp::change::check(asked).await,
        (Route::CarpAsk, _) => carp::ask::ask(asked, body).await,
        (Route::Config, _) => operate::config(asked),
        (Route::Metrics, _) => operate::metrics(asked),
        (Route::Version, _) => operate::version(asked),
        (Route::Unknown, _) => unreachable!("answered above"),
    }
}

/// A parameter that cannot be read; the text is a sentence without its end.
pub fn bad_param(fault: String) -> Refused {
    Problem::invalid(format!("{fault}."))
}

/// Refuses the parameters and the conditional headers that the handler does not know.
///
/// # Errors
/// A 400 with the name of the first one.
pub fn nothing_else(asked: &mut Asked<'_>) -> Result<(), Refused> {
    std::mem::take(&mut asked.params).finish().map_err(bad_param)?;
    super::condition::refuse(asked.headers).map_err(bad_param)
}

fn timeout(route: Route, params: &mut Params<'_>) -> Result<Duration, Refused> {
    let Some(text) = params.take_text("timeout").map_err(bad_param)? else {
        // A snapshot takes its time, so that clients do not feel it.
        return Ok(if route == Route::ClusterSnapshot { TIMEOUT_MAX } else { TIMEOUT });
    };
    match parse_duration(&text).map_err(bad_param)? {
        Duration::ZERO => Err(bad_param("`timeout` must be longer than zero".to_owned())),
        timeout if TIMEOUT_MAX < timeout => Err(bad_param("`timeout` is at most 10m".to_owned())),
        timeout => Ok(timeout),
    }
}

/// The headers that every response carries.
fn finish(daemon: &Daemon, mut response: Response) -> Response {
    let headers = response.headers_mut();
    if !headers.contains_key(REVISION) {
        headers.insert(REVISION, HeaderValue::from(daemon.revision()));
    }
    if let Some(epoch) = daemon.serving().and_then(|serving| serving.store.map_epoch()) {
        headers.insert("carp-epoch", HeaderValue::from(epoch));
    }
    headers.insert(SERVED_BY, daemon.served_by.clone());
    response
}
