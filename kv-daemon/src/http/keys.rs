//! `/kv` and `/kv/{key}`: from a request to a [`Request`] of the service, and from its answer to a
//! response. What the answer is, the service decides.

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::{Buf, Bytes};
use futures_util::Stream;
use serde::{Serialize, Serializer, ser::SerializeMap};
use warp::http::header::{ACCEPT, ETAG, HeaderName, X_CONTENT_TYPE_OPTIONS};
use warp::http::{HeaderMap, HeaderValue, StatusCode};

use super::reply::{self, Problem, Response};
use super::routes::{Asked, REVISION, Refused, bad_param, nothing_else};
use super::{body, condition};
use crate::daemon::{Asker, Daemon};
use crate::kv::request::{
    Answer, KEY_BYTES_MAX, LIST_ITEMS_MAX, ListQuery, ListShape, Listed, ReadLevel, Record, Request,
};
use crate::shard::scatter;
use crate::units::parse_duration;

/// Items of a page that does not say how many it wants.
const LIST_ITEMS: u64 = 1000;

const CONSISTENCY: HeaderName = HeaderName::from_static("kv-consistency");
const CREATE_REVISION: HeaderName = HeaderName::from_static("kv-create-revision");
const VERSION: HeaderName = HeaderName::from_static("kv-version");
const LAST_CONTACT: HeaderName = HeaderName::from_static("kv-last-contact-ms");

/// `GET /kv/{key}`: the raw value, or JSON when the client accepts that.
///
/// # Errors
/// 404 for a key that does not exist, 412, and what the service says.
pub async fn get(mut asked: Asked<'_>, key: Bytes) -> Result<Response, Refused> {
    let level = read_level(&mut asked)?;
    asked.params.finish().map_err(bad_param)?;
    let condition = condition::of_headers(asked.headers).map_err(bad_param)?;
    let asker = asker(asked.headers)?;
    let request = Request::Get { key: key.clone(), level };
    let answer = asked.daemon.ask(request, asked.deadline, asker).await?;
    let Answer::Got { record, revision } = answer else { return Err(astray()) };

    let current = record.as_ref().map(|record| record.mod_revision);
    if condition.if_match.is_some_and(|tags| !condition::matches(&tags, current)) {
        return Err(Problem::condition_failed(current, revision));
    }
    let Some(record) = record else { return Err(Problem::no_key(revision)) };
    let unchanged = condition.if_none_match.is_some_and(|tags| condition::matches(&tags, current));
    let etag = tag(record.mod_revision);
    let (created, version) = (record.create_revision, record.version);
    let mut response = if unchanged {
        reply::empty(StatusCode::NOT_MODIFIED)
    } else if accepts_json(asked.headers) {
        reply::json(StatusCode::OK, &Item { key: &key, record: &record, value: true }, asked.pretty)
    } else {
        reply::with_type(StatusCode::OK, "application/octet-stream", record.value)
    };
    let headers = response.headers_mut();
    // A browser must never take a stored value for a page or a script.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(ETAG, etag);
    headers.insert(CREATE_REVISION, HeaderValue::from(created));
    headers.insert(VERSION, HeaderValue::from(version));
    seen(asked.daemon, headers, level, revision);
    Ok(response)
}

/// `PUT /kv/{key}`: the body is the value, whatever its content type.
///
/// # Errors
/// 412 when the condition does not hold, 413, 408, and what the service says.
pub async fn put<S, B, E>(mut asked: Asked<'_>, key: Bytes, body: S) -> Result<Response, Refused>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    #[derive(Serialize)]
    struct Put<'a> {
        #[serde(flatten)]
        key: KeyFields<'a>,
        revision: u64,
        version: u64,
        created: bool,
    }
    let condition = write_condition(&mut asked)?;
    let asker = asker(asked.headers)?;
    let (daemon, limits) = (asked.daemon, &asked.daemon.limits);
    let patience = limits.body_timeout;
    let body_begun = Instant::now();
    let body =
        body::read(body, asked.headers, daemon.value_bytes_max, patience, &daemon.bodies).await?;
    // The request's time is for answering it; how long a body may take has its own rule.
    let deadline = asked.deadline + body_begun.elapsed();

    let request = Request::Put { key: key.clone(), value: body.bytes.clone(), condition };
    match daemon.ask(request, deadline, asker).await? {
        Answer::Put { revision, created, version } => {
            let mut response = if wants_minimal(asked.headers) {
                let mut response = reply::empty(StatusCode::NO_CONTENT);
                let applied = HeaderValue::from_static("return=minimal");
                response.headers_mut().insert("preference-applied", applied);
                response
            } else {
                let status = if created { StatusCode::CREATED } else { StatusCode::OK };
                let put = Put { key: KeyFields(&key), revision, version, created };
                reply::json(status, &put, asked.pretty)
            };
            response.headers_mut().insert(ETAG, tag(revision));
            response.headers_mut().insert(REVISION, HeaderValue::from(revision));
            Ok(response)
        }
        Answer::ConditionFailed { current, revision } => {
            Err(Problem::condition_failed(current, revision))
        }
        _ => Err(astray()),
    }
}

/// `DELETE /kv/{key}`: absent is no error, so that retries are safe.
///
/// # Errors
/// 412 when the condition does not hold, and what the service says.
pub async fn delete(mut asked: Asked<'_>, key: Bytes) -> Result<Response, Refused> {
    #[derive(Serialize)]
    struct Deleted {
        deleted: u64,
        revision: u64,
    }
    let condition = write_condition(&mut asked)?;
    let request = Request::Delete { key, condition };
    match asked.daemon.ask(request, asked.deadline, asker(asked.headers)?).await? {
        Answer::Deleted { deleted, revision } => {
            let mut response = if wants_minimal(asked.headers) {
                reply::empty(StatusCode::NO_CONTENT)
            } else {
                reply::json(StatusCode::OK, &Deleted { deleted, revision }, asked.pretty)
            };
            response.headers_mut().insert(REVISION, HeaderValue::from(revision));
            Ok(response)
        }
        Answer::ConditionFailed { current, revision } => {
            Err(Problem::condition_failed(current, revision))
        }
        _ => Err(astray()),
    }
}

/// `GET /kv`: a page of the keys in order: those of this cluster, or with `?scatter` those of all
/// clusters of the array.
///
/// # Errors
/// What the service says.
pub async fn list(mut asked: Asked<'_>) -> Result<Response, Refused> {
    let level = read_level(&mut asked)?;
    let query = list_query(&mut asked)?;
    let everywhere = asked.params.take_flag("scatter").map_err(bad_param)?;
    nothing_else(&mut asked)?;
    let (shape, asker) = (query.shape, asker(asked.headers)?);
    let listed = if everywhere {
        scatter::list(asked.daemon, query, level, asked.deadline, asker).await?
    } else {
        let request = Request::List { query, level };
        let answer = asked.daemon.ask(request, asked.deadline, asker).await?;
        let Answer::Listed(listed) = answer else { return Err(astray()) };
        listed
    };
    let page = Page { listed: &listed, shape };
    let mut response = reply::json(StatusCode::OK, &page, asked.pretty);
    seen(asked.daemon, response.headers_mut(), level, listed.revision);
    Ok(response)
}

fn list_query(asked: &mut Asked<'_>) -> Result<ListQuery, Refused> {
    let params = &mut asked.params;
    let keys = params.take_flag("keys").map_err(bad_param)?;
    let count = params.take_flag("count").map_err(bad_param)?;
    let shape = match (keys, count) {
        (true, true) => return Err(bad_param("give `keys` or `count`, not both".to_owned())),
        (true, false) => ListShape::Keys,
        (false, true) => ListShape::Count,
        (false, false) => ListShape::Items,
    };
    let limit = params.take_number("limit").map_err(bad_param)?.unwrap_or(LIST_ITEMS);
    let limit = u32::try_from(limit).ok().filter(|limit| (1..=LIST_ITEMS_MAX).contains(limit));
    let limit =
        limit.ok_or_else(|| bad_param(format!("`limit` is between 1 and {LIST_ITEMS_MAX}")))?;
    let mut key = |name: &str| match params.take(name) {
        Some(key) if KEY_BYTES_MAX < key.len() => {
            Err(bad_param(format!("`{name}` is longer than a key may be: {KEY_BYTES_MAX} bytes")))
        }
        key => Ok(key.map(|key| Bytes::from(key.into_owned()))),
    };
    let (prefix, start) = (key("prefix")?, key("start")?);
    let after = match params.take("cursor") {
        None => None,
        Some(cursor) => {
            let key = URL_SAFE_NO_PAD.decode(cursor).ok();
            let key = key.filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
            let wrong = || bad_param("`cursor` is not the `next` of an earlier page".to_owned());
            Some(Bytes::from(key.ok_or_else(wrong)?))
        }
    };
    Ok(ListQuery {
        prefix: prefix.unwrap_or_default(),
        start: start.unwrap_or_default(),
        after,
        limit,
        shape,
    })
}

/// How fresh a read is to be: `consistency=`, or `?stale`, `?consistent` as Consul has them.
fn read_level(asked: &mut Asked<'_>) -> Result<ReadLevel, Refused> {
    let params = &mut asked.params;
    let named = params.take_text("consistency").map_err(bad_param)?;
    let stale = params.take_flag("stale").map_err(bad_param)?;
    let consistent = params.take_flag("consistent").map_err(bad_param)?;
    let stale = match (named.as_deref(), stale, consistent) {
        (None, false, _) => false,
        (None, true, false) => true,
        // A lease read is promised less than a linearizable one gives.
        (Some("linearizable" | "strong" | "l" | "lease" | "weak" | "default"), false, _) => false,
        (Some("stale" | "none" | "s"), _, false) => true,
        (Some(other), false, false) => {
            return Err(bad_param(format!(
                "`consistency` is linearizable or stale, not `{other}`"
            )));
        }
        _ => return Err(bad_param("the consistency is given twice".to_owned())),
    };
    let max_stale = params.take_text("max_stale").map_err(bad_param)?;
    let max_stale = max_stale.map(|text| parse_duration(&text)).transpose().map_err(bad_param)?;
    match (stale, max_stale) {
        (true, max_stale) => Ok(ReadLevel::Stale { max_stale }),
        (false, None) => Ok(ReadLevel::Linearizable),
        (false, Some(_)) => Err(bad_param("`max_stale` needs `consistency=stale`".to_owned())),
    }
}

fn write_condition(asked: &mut Asked<'_>) -> Result<crate::kv::request::Condition, Refused> {
    let cas = asked.params.take_number("cas").map_err(bad_param)?;
    std::mem::take(&mut asked.params).finish().map_err(bad_param)?;
    // To take the key and forget it would break the promise its sender relies on.
    if asked.headers.contains_key("idempotency-key") {
        return Err(bad_param("`Idempotency-Key` is not supported; use If-Match".to_owned()));
    }
    condition::of_write(asked.headers, cas).map_err(bad_param)
}

/// How often other nodes or proxies have handed the request on, and the map of a client that keeps
/// one.
///
/// # Errors
/// 400: what should be a number is none.
pub fn asker(headers: &HeaderMap) -> Result<Asker, Refused> {
    fn number<T: std::str::FromStr>(
        headers: &HeaderMap,
        name: &str,
        what: &str,
    ) -> Result<Option<T>, Refused> {
        let Some(value) = headers.get(name) else { return Ok(None) };
        let number = value.to_str().ok().and_then(|value| value.parse().ok());
        number.map(Some).ok_or_else(|| bad_param(format!("{what}: a number")))
    }
    Ok(Asker {
        hops: number(headers, "kv-forwarded", "`KV-Forwarded` counts hops")?.unwrap_or(0),
        epoch: number(headers, "carp-epoch", "`Carp-Epoch` is the epoch of a map")?,
    })
}

/// What an answer to a read says of its freshness.
fn seen(daemon: &Daemon, headers: &mut HeaderMap, level: ReadLevel, revision: u64) {
    headers.insert(REVISION, HeaderValue::from(revision));
    let name = match level {
        ReadLevel::Linearizable => "linearizable",
        ReadLevel::Stale { .. } => "stale",
    };
    headers.insert(CONSISTENCY, HeaderValue::from_static(name));
    if let (ReadLevel::Stale { .. }, Some(serving)) = (level, daemon.serving())
        && let Some(contact) = serving.contact(&serving.handle.status())
    {
        let ago = serving.handle.now().since(contact);
        let millis = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        headers.insert(LAST_CONTACT, HeaderValue::from(millis));
    }
}

/// `Prefer: return=minimal` (RFC 7240); other preferences are ignored, as it wants.
fn wants_minimal(headers: &HeaderMap) -> bool {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case("return=minimal")))
}

fn accepts_json(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value
            .split(',')
            .any(|one| one.split(';').next().is_some_and(|kind| kind.trim() == "application/json"))
    })
}

fn tag(revision: u64) -> HeaderValue {
    HeaderValue::from_str(&condition::etag(revision)).expect("digits and quotes are visible ASCII")
}

/// The service gave the answer to another question: our own mistake, told instead of a panic
/// because the answer may have come from another node.
fn astray() -> Refused {
    let title = "the answer does not fit the question";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", title, "This is a bug; report it.")
}

/// `key`, or `key_b64` when it is not UTF-8.
struct KeyFields<'a>(&'a [u8]);

impl Serialize for KeyFields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        bytes_entry(&mut map, "key", "key_b64", self.0)?;
        map.end()
    }
}

/// A key with what is known of it.
struct Item<'a> {
    key: &'a [u8],
    record: &'a Record,
    value: bool,
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        bytes_entry(&mut map, "key", "key_b64", self.key)?;
        if self.value {
            bytes_entry(&mut map, "value", "value_b64", &self.record.value)?;
        }
        map.serialize_entry("revision", &self.record.mod_revision)?;
        map.serialize_entry("create_revision", &self.record.create_revision)?;
        map.serialize_entry("version", &self.record.version)?;
        map.end()
    }
}

fn bytes_entry<M: SerializeMap>(
    map: &mut M,
    name: &str,
    name_b64: &str,
    bytes: &[u8],
) -> Result<(), M::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => map.serialize_entry(name, text),
        Err(_) => map.serialize_entry(name_b64, &STANDARD.encode(bytes)),
    }
}

/// A page of a list: `items`, `next`, `count`, `revision`.
struct Page<'a> {
    listed: &'a Listed,
    shape: ListShape,
}

impl Serialize for Page<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if self.shape != ListShape::Count {
            let value = self.shape == ListShape::Items;
            map.serialize_entry("items", &Items(&self.listed.items, value))?;
            let next = self.listed.next.as_ref().map(|key| URL_SAFE_NO_PAD.encode(key));
            map.serialize_entry("next", &next)?;
        }
        map.serialize_entry("count", &self.listed.count)?;
        map.serialize_entry("revision", &self.listed.revision)?;
        map.end()
    }
}

struct Items<'a>(&'a [(Bytes, Record)], bool);

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let items = self.0.iter().map(|(key, record)| Item { key, record, value: self.1 });
        serializer.collect_seq(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &'static [u8]) -> Record {
        let value = Bytes::from_static(value);
        Record { value, create_revision: 1, mod_revision: 7, version: 3 }
    }

    #[test]
    fn what_is_not_text_is_base64() {
        let items = [
            (Bytes::from_static(b"a"), record(b"blue")),
            (Bytes::from_static(b"\xff"), record(b"\xfe")),
        ];
        let listed = Listed { items: items.into(), count: 2, next: Some("z".into()), revision: 9 };
        let json = |shape| serde_json::to_string(&Page { listed: &listed, shape }).unwrap();
        assert_eq!(
            json(ListShape::Items),
            "{\"items\":[{\"key\":\"a\",\"value\":\"blue\",\"revision\":7,\"create_revision\":1,\
             \"version\":3},{\"key_b64\":\"/w==\",\"value_b64\":\"/g==\",\"revision\":7,\
             \"create_revision\":1,\"version\":3}],\"next\":\"eg\",\"count\":2,\"revision\":9}"
        );
        assert!(!json(ListShape::Keys).contains("value"));
        assert_eq!(json(ListShape::Count), "{\"count\":2,\"revision\":9}");
    }

    #[test]
    fn preferences_and_types_are_lists() {
        let mut headers = HeaderMap::new();
        headers.insert("prefer", "respond-async, return=minimal".parse().unwrap());
        headers.insert(ACCEPT, "text/html, application/json;q=0.9".parse().unwrap());
        assert!(wants_minimal(&headers) && accepts_json(&headers));
        headers.insert("prefer", "return=representation".parse().unwrap());
        headers.insert(ACCEPT, "*/*".parse().unwrap());
        assert!(!wants_minimal(&headers) && !accepts_json(&headers));
    }
}
