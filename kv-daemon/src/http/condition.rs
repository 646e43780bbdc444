//! What must hold for a request to be carried out: `If-Match`, `If-None-Match` and `?cas=`, and
//! the ETag they speak of: a key's `mod_revision` in quotes. Conditions we do not know are refused
//! by name: to ignore one would be to write what nobody wanted written.

use warp::http::HeaderMap;
use warp::http::header::{IF_MATCH, IF_NONE_MATCH};

use crate::kv::request::{Condition, Tags};

/// The ETag of a revision: `"7"`.
pub fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// The condition of a write, from its headers and its `?cas=`.
///
/// # Errors
/// A sentence that says what is wrong with which header.
pub fn of_write(headers: &HeaderMap, cas: Option<u64>) -> Result<Condition, String> {
    let condition = of_headers(headers)?;
    match cas {
        None => Ok(condition),
        Some(_) if condition != Condition::default() => {
            Err("give `cas` or a conditional header, not both".to_owned())
        }
        Some(0) => Ok(Condition { if_match: None, if_none_match: Some(Tags::Any) }),
        Some(revision) => {
            Ok(Condition { if_match: Some(Tags::Revisions(vec![revision])), if_none_match: None })
        }
    }
}

/// The condition that headers state.
///
/// # Errors
/// A sentence that says what is wrong with which header.
pub fn of_headers(headers: &HeaderMap) -> Result<Condition, String> {
    for name in headers.keys() {
        let name = name.as_str();
        if name.starts_with("if-") && name != "if-match" && name != "if-none-match" {
            return Err(format!("`{name}` is not supported; use If-Match or If-None-Match"));
        }
    }
    // RFC 9110: If-Match compares strongly (a weak tag matches nothing), If-None-Match weakly.
    Ok(Condition {
        if_match: tags(headers, IF_MATCH, false)?,
        if_none_match: tags(headers, IF_NONE_MATCH, true)?,
    })
}

/// Refuses any conditional header, for requests that know none.
///
/// # Errors
/// A sentence with its name.
pub fn refuse(headers: &HeaderMap) -> Result<(), String> {
    match headers.keys().find(|name| name.as_str().starts_with("if-")) {
        None => Ok(()),
        Some(name) => Err(format!("`{name}` does not apply to this request; leave it out")),
    }
}

/// Whether the tags name this revision (`None`: the key does not exist).
pub fn matches(tags: &Tags, revision: Option<u64>) -> bool {
    match (tags, revision) {
        (_, None) => false,
        (Tags::Any, Some(_)) => true,
        (Tags::Revisions(list), Some(revision)) => list.contains(&revision),
    }
}

fn tags(
    headers: &HeaderMap,
    name: warp::http::HeaderName,
    weak_counts: bool,
) -> Result<Option<Tags>, String> {
    if !headers.contains_key(&name) {
        return Ok(None);
    }
    let wrong = || format!("`{name}` wants *, or revisions in quotes like \"7\"");
    let mut revisions = Vec::new();
    for value in headers.get_all(&name) {
        let mut rest = value.to_str().map_err(|_| wrong())?.trim();
        if rest == "*" && headers.get_all(&name).iter().count() == 1 {
            return Ok(Some(Tags::Any));
        }
        while !rest.is_empty() {
            let weak = rest.starts_with("W/");
            let open = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"');
            let (tag, after) = open.and_then(|tag| tag.split_once('"')).ok_or_else(wrong)?;
            // A tag we never gave out is well-formed and matches nothing.
            let ours = tag.parse::<u64>().ok().filter(|revision| revision.to_string() == tag);
            revisions.extend(ours.filter(|_| weak_counts || !weak));
            rest = after.trim_start();
            if !rest.is_empty() {
                rest = rest.strip_prefix(',').ok_or_else(wrong)?.trim_start();
                if rest.is_empty() {
                    return Err(wrong());
                }
            }
        }
    }
    Ok(Some(Tags::Revisions(revisions)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn if_match(value: &'static str) -> Result<Option<Tags>, String> {
        of_headers(&headers(&[("if-match", value)])).map(|condition| condition.if_match)
    }

    fn revisions(list: &[u64]) -> Result<Option<Tags>, String> {
        Ok(Some(Tags::Revisions(list.to_vec())))
    }

    #[test]
    fn tags_are_quoted_revisions() {
        assert_eq!(if_match("\"7\""), revisions(&[7]));
        assert_eq!(if_match("\"7\", \"9\""), revisions(&[7, 9]));
        assert_eq!(if_match("*"), Ok(Some(Tags::Any)));
        assert_eq!(if_match("\"abc\""), revisions(&[]));
        assert_eq!(if_match("\"07\""), revisions(&[]));
        for wrong in ["7", "\"7", "\"7\" \"8\"", "\"7\",", "*, \"7\"", "w/\"7\""] {
            assert!(if_match(wrong).unwrap_err().contains("in quotes"), "{wrong}");
        }
    }

    #[test]
    fn weak_tags_match_weakly_only() {
        assert_eq!(if_match("W/\"7\""), revisions(&[]));
        let condition = of_headers(&headers(&[("if-none-match", "W/\"7\"")])).unwrap();
        assert_eq!(condition.if_none_match, Some(Tags::Revisions(vec![7])));
    }

    #[test]
    fn several_lines_are_one_list() {
        let lines = headers(&[("if-match", "\"1\""), ("if-match", "\"2\"")]);
        assert_eq!(of_headers(&lines).unwrap().if_match, Some(Tags::Revisions(vec![1, 2])));
    }

    #[test]
    fn cas_is_a_condition_and_zero_means_create() {
        let none = HeaderMap::new();
        assert_eq!(of_write(&none, None).unwrap(), Condition::default());
        assert_eq!(of_write(&none, Some(0)).unwrap().if_none_match, Some(Tags::Any));
        let seven = of_write(&none, Some(7)).unwrap();
        assert_eq!(seven.if_match, Some(Tags::Revisions(vec![7])));
        let both = headers(&[("if-match", "*")]);
        assert!(of_write(&both, Some(7)).unwrap_err().contains("not both"));
    }

    #[test]
    fn unknown_conditions_are_refused_by_name() {
        let since = headers(&[("if-unmodified-since", "Sat, 29 Oct 1994 19:43:31 GMT")]);
        assert!(of_headers(&since).unwrap_err().contains("if-unmodified-since"));
        assert!(refuse(&headers(&[("if-match", "*")])).unwrap_err().contains("if-match"));
        assert!(refuse(&headers(&[("accept", "*/*")])).is_ok());
    }

    #[test]
    fn a_missing_key_matches_nothing() {
        assert!(!matches(&Tags::Any, None));
        assert!(matches(&Tags::Any, Some(3)));
        assert!(matches(&Tags::Revisions(vec![1, 3]), Some(3)));
        assert!(!matches(&Tags::Revisions(vec![]), Some(3)));
        assert_eq!(etag(3), "\"3\"");
    }
}
