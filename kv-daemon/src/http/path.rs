//! From the target of a request to a route and a key, and from a query string to parameters. Keys
//! are bytes: what is not percent-encoded stands for itself, and decoding happens once. Never looks
//! at a header or a body.

use std::borrow::Cow;

use bytes::Bytes;

use crate::kv::request::KEY_BYTES_MAX;

/// What a path names. The label (never the key) is what metrics show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/`
    Root,
    /// `/kv`
    List,
    /// `/kv/{key}`
    Key,
    /// `/health`
    Health,
    /// `/livez`, `/health/live`
    Livez,
    /// `/readyz`, `/health/ready`
    Readyz,
    /// `/cluster/status`
    ClusterStatus,
    /// `/cluster/leader`
    ClusterLeader,
    /// `/cluster/snapshot`
    ClusterSnapshot,
    /// `/carp`
    Carp,
    /// `/carp.txt`
    CarpText,
    /// `/carp/route`
    CarpRoute,
    /// `/carp/slots/{n}`
    CarpSlot,
    /// `/carp/stats`
    CarpStats,
    /// `/carp/plan`
    CarpPlan,
    /// `/carp/check`
    CarpCheck,
    /// `/carp/ask`
    CarpAsk,
    /// `/config`
    Config,
    /// `/metrics`
    Metrics,
    /// `/version`
    Version,
    /// Anything else.
    Unknown,
}

impl Route {
    /// All of them, in the order of their numbers.
    pub const ALL: [Route; 21] = [
        Route::Root,
        Route::List,
        Route::Key,
        Route::Health,
        Route::Livez,
        Route::Readyz,
        Route::ClusterStatus,
        Route::ClusterLeader,
        Route::ClusterSnapshot,
        Route::Carp,
        Route::CarpText,
        Route::CarpRoute,
        Route::CarpSlot,
        Route::CarpStats,
        Route::CarpPlan,
        Route::CarpCheck,
        Route::CarpAsk,
        Route::Config,
        Route::Metrics,
        Route::Version,
        Route::Unknown,
    ];

    /// The route of a path (without its query), and what follows `/kv/` or `/carp/slots/` as it
    /// stands there.
    pub fn of(path: &str) -> (Route, &str) {
        if let Some(key) = path.strip_prefix("/kv/") {
            return (Route::Key, key);
        }
        if let Some(slot) = path.strip_prefix("/carp/slots/") {
            return (Route::CarpSlot, slot);
        }
        let route = match path {
            "/" | "" => Route::Root,
            "/kv" => Route::List,
            "/health" => Route::Health,
            "/livez" | "/health/live" => Route::Livez,
            "/readyz" | "/health/ready" => Route::Readyz,
            "/cluster/status" => Route::ClusterStatus,
            "/cluster/leader" => Route::ClusterLeader,
            "/cluster/snapshot" => Route::ClusterSnapshot,
            "/carp" => Route::Carp,
            "/carp.txt" => Route::CarpText,
            "/carp/route" => Route::CarpRoute,
            "/carp/stats" => Route::CarpStats,
            "/carp/plan" => Route::CarpPlan,
            "/carp/check" => Route::CarpCheck,
            "/carp/ask" => Route::CarpAsk,
            "/config" => Route::Config,
            "/metrics" => Route::Metrics,
            "/version" => Route::Version,
            _ => Route::Unknown,
        };
        (route, "")
    }

    /// The pattern that stands for the route in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Route::Root => "/",
            Route::List => "/kv",
            Route::Key => "/kv/{key}",
            Route::Health => "/health",
            Route::Livez => "/livez",
            Route::Readyz => "/readyz",
            Route::ClusterStatus => "/cluster/status",
            Route::ClusterLeader => "/cluster/leader",
            Route::ClusterSnapshot => "/cluster/snapshot",
            Route::Carp => "/carp",
            Route::CarpText => "/carp.txt",
            Route::CarpRoute => "/carp/route",
            Route::CarpSlot => "/carp/slots/{n}",
            Route::CarpStats => "/carp/stats",
            Route::CarpPlan => "/carp/plan",
            Route::CarpCheck => "/carp/check",
            Route::CarpAsk => "/carp/ask",
            Route::Config => "/config",
            Route::Metrics => "/metrics",
            Route::Version => "/version",
            Route::Unknown => "other",
        }
    }

    /// The methods it answers, as an `Allow` header lists them.
    pub fn allow(self) -> &'static str {
        match self {
            Route::Key => "GET, HEAD, PUT, DELETE, OPTIONS",
            Route::ClusterLeader => "GET, HEAD, POST, OPTIONS",
            Route::Carp => "GET, HEAD, PUT, OPTIONS",
            Route::ClusterSnapshot | Route::CarpPlan | Route::CarpCheck | Route::CarpAsk => {
                "POST, OPTIONS"
            }
            _ => "GET, HEAD, OPTIONS",
        }
    }
}

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// `/kv/` without a key.
    Empty,
    /// More than [`KEY_BYTES_MAX`] bytes.
    TooLong,
    /// A `%` that is not followed by two hex digits.
    BadEscape,
}

/// The key of a `/kv/{key}` path: everything after `/kv/`, percent-decoded once.
///
/// # Errors
/// The rule it breaks.
pub fn key(raw: &str) -> Result<Bytes, KeyFault> {
    let key = percent_decode(raw.as_bytes(), false).ok_or(KeyFault::BadEscape)?;
    match key.len() {
        0 => Err(KeyFault::Empty),
        len if KEY_BYTES_MAX < len => Err(KeyFault::TooLong),
        _ => Ok(Bytes::from(key.into_owned())),
    }
}

/// The parameters of a query. Each handler takes those it knows; [`Params::finish`] refuses the
/// rest by name, so that a misspelt condition is never ignored.
#[derive(Debug, Default)]
pub struct Params<'a> {
    left: Vec<Param<'a>>,
}

/// A name and its value, decoded.
type Param<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

impl<'a> Params<'a> {
    /// Splits and decodes a query, as forms do: `+` is a space, `%2B` is a plus.
    ///
    /// # Errors
    /// A sentence about the first fault: a broken escape, or a name that stands there twice.
    pub fn parse(query: &'a str) -> Result<Params<'a>, String> {
        let mut left: Vec<Param<'a>> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text: &'a str| {
                percent_decode(text.as_bytes(), true)
                    .ok_or_else(|| format!("`{text}` has a % that no two hex digits follow"))
            };
            let (name, value) = (decoded(name)?, decoded(value)?);
            if left.iter().any(|(other, _)| *other == name) {
                return Err(format!("`{}` is given twice", String::from_utf8_lossy(&name)));
            }
            left.push((name, value));
        }
        Ok(Params { left })
    }

    /// The bytes of a parameter, if it is there.
    pub fn take(&mut self, name: &str) -> Option<Cow<'a, [u8]>> {
        if self.left.is_empty() {
            return None;
        }
        let at = self.left.iter().position(|(other, _)| other.as_ref() == name.as_bytes())?;
        Some(self.left.swap_remove(at).1)
    }

    /// The text of a parameter.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn take_text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => String::from_utf8(value.into_owned())
                .map(Some)
                .map_err(|_| format!("`{name}` is not UTF-8")),
        }
    }

    /// A switch: `?keys`, `?keys=true`, `?keys=1` are on; `false` and `0` are off.
    ///
    /// # Errors
    /// Any other value.
    pub fn take_flag(&mut self, name: &str) -> Result<bool, String> {
        match self.take(name).as_deref() {
            None | Some(b"false" | b"0") => Ok(false),
            Some(b"" | b"true" | b"1") => Ok(true),
            Some(_) => Err(format!("`{name}` is a switch: give it no value, or true or false")),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// It is none, or does not fit.
    pub fn take_number(&mut self, name: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.take_text(name)? else { return Ok(None) };
        match text.parse::<u64>() {
            Ok(number) if !text.starts_with('+') => Ok(Some(number)),
            _ => Err(format!("`{name}` is a whole number, not `{text}`")),
        }
    }

    /// Refuses what nobody took.
    ///
    /// # Errors
    /// The name of the first unknown parameter.
    pub fn finish(self) -> Result<(), String> {
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) => {
                let name = String::from_utf8_lossy(name);
                Err(format!("`{name}` is not a parameter of this request; check its spelling"))
            }
        }
    }
}

/// Replaces each `%xx` by its byte (and `+` by a space in a query); `None` for a broken escape.
fn percent_decode(raw: &[u8], plus_is_space: bool) -> Option<Cow<'_, [u8]>> {
    if !raw.iter().any(|b| *b == b'%' || (plus_is_space && *b == b'+')) {
        return Some(Cow::Borrowed(raw));
    }
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut decoded = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(byte) = raw.get(at) {
        match byte {
            b'%' => {
                let value = hex(raw.get(at + 1))? << 4 | hex(raw.get(at + 2))?;
                decoded.push(u8::try_from(value).ok()?);
                at += 3;
                continue;
            }
            b'+' if plus_is_space => decoded.push(b' '),
            other => decoded.push(*other),
        }
        at += 1;
    }
    Some(Cow::Owned(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_all_that_follows_decoded_once() {
        let rows: [(&str, &[u8]); 11] = [
            ("/kv/color", b"color"),
            ("/kv/app/color", b"app/color"),
            ("/kv//a", b"/a"),
            ("/kv/a/", b"a/"),
            ("/kv//", b"/"),
            ("/kv/a+b", b"a+b"),
            ("/kv/..", b".."),
            ("/kv/%00", b"\0"),
            ("/kv/%ff%FE", b"\xff\xfe"),
            ("/kv/%252F", b"%2F"),
            ("/kv/a%2Fb%3Fc", b"a/b?c"),
        ];
        for (path, wanted) in rows {
            let (route, raw) = Route::of(path);
            assert_eq!(route, Route::Key, "{path}");
            assert_eq!(key(raw).unwrap(), wanted, "{path}");
        }
    }

    #[test]
    fn keys_outside_the_rules_are_refused() {
        assert_eq!(key(""), Err(KeyFault::Empty));
        assert_eq!(key("%"), Err(KeyFault::BadEscape));
        assert_eq!(key("a%2"), Err(KeyFault::BadEscape));
        assert_eq!(key("a%zz"), Err(KeyFault::BadEscape));
        assert_eq!(key("%+1"), Err(KeyFault::BadEscape));
        assert_eq!(key(&"k".repeat(KEY_BYTES_MAX + 1)), Err(KeyFault::TooLong));
        assert!(key(&"%6b".repeat(KEY_BYTES_MAX)).is_ok());
    }

    #[test]
    fn the_list_is_kv_without_a_slash() {
        assert_eq!(Route::of("/kv"), (Route::List, ""));
        assert_eq!(Route::of("/kvx"), (Route::Unknown, ""));
        assert_eq!(Route::of("/health/live").0, Route::Livez);
        assert_eq!(Route::of("/health/").0, Route::Unknown);
    }

    #[test]
    fn routes_are_numbered_as_listed() {
        for (number, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, number);
        }
    }

    #[test]
    fn parameters_are_taken_or_refused_by_name() {
        let mut params = Params::parse("prefix=app%2F&keys&limit=7&count=false").unwrap();
        assert_eq!(params.take("prefix").as_deref(), Some(&b"app/"[..]));
        assert_eq!(params.take_flag("keys"), Ok(true));
        assert_eq!(params.take_flag("count"), Ok(false));
        assert_eq!(params.take_number("limit"), Ok(Some(7)));
        assert_eq!(params.take_number("limit"), Ok(None));
        assert_eq!(params.finish(), Ok(()));

        let params = Params::parse("csa=7").unwrap();
        assert!(params.finish().unwrap_err().contains("`csa`"));
    }

    #[test]
    fn parameters_are_decoded_as_forms_are() {
        let mut params = Params::parse("a=x+y&b=x%2By&c=1=2&d=%ff").unwrap();
        assert_eq!(params.take("a").as_deref(), Some(&b"x y"[..]));
        assert_eq!(params.take("b").as_deref(), Some(&b"x+y"[..]));
        assert_eq!(params.take("c").as_deref(), Some(&b"1=2"[..]));
        assert!(params.take_text("d").unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn broken_queries_are_refused() {
        assert!(Params::parse("a=%2").unwrap_err().contains('%'));
        assert!(Params::parse("cas=1&cas=2").unwrap_err().contains("twice"));
        let number = |text| Params::parse(text).unwrap().take_number("n").unwrap_err();
        for text in ["n=", "n=-1", "n=%2B1", "n=1.5", "n=99999999999999999999"] {
            assert!(number(text).contains("whole number"), "{text}");
        }
        let mut params = Params::parse("keys=maybe").unwrap();
        assert!(params.take_flag("keys").unwrap_err().contains("switch"));
    }
}
