//! Where servers answer, and how keys stand in a request's target. Nothing here opens a socket.

use std::fmt;
use std::str::FromStr;

/// `http://host:port`, the root of a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerUrl {
    authority: String,
}

impl ServerUrl {
    /// The server on this machine at `port`.
    pub fn local(port: u16) -> ServerUrl {
        ServerUrl { authority: format!("127.0.0.1:{port}") }
    }

    /// `host:port`, as a `Host` header and a connection want it.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl FromStr for ServerUrl {
    type Err = String;

    /// Takes `http://host:port`, `http://host` (port 80) and `host:port`, with or without a slash
    /// behind it.
    fn from_str(text: &str) -> Result<ServerUrl, String> {
        let wrong = || format!("`{text}` is no server; write one like http://127.0.0.1:8001");
        if text.starts_with("https://") {
            return Err(format!("`{text}`: there is no TLS yet; write http://"));
        }
        let bare = text.strip_prefix("http://");
        let rest = bare.unwrap_or(text);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let visible = rest.bytes().all(|byte| byte.is_ascii_graphic());
        if rest.is_empty() || !visible || rest.contains(['/', '?', '#', '@', '\\', '"']) {
            return Err(wrong());
        }
        // `[::1]:8001`: the colons in brackets are no port's.
        let host_end = rest.rfind(']').map_or(0, |at| at + 1);
        let authority = match rest[host_end..].split_once(':') {
            Some((host, port)) => {
                let host_is_there = 0 < host_end || !host.is_empty();
                let port = port.parse::<u16>().ok().filter(|port| host_is_there && *port != 0);
                port.ok_or_else(wrong)?;
                rest.to_owned()
            }
            None if bare.is_some() => format!("{rest}:80"),
            None => return Err(wrong()),
        };
        Ok(ServerUrl { authority })
    }
}

/// The path of a key: `/kv/` and the key, percent-encoded where it must be.
pub(super) fn key_path(key: &[u8]) -> String {
    let mut path = String::with_capacity(4 + key.len());
    path.push_str("/kv/");
    encode(&mut path, key, b"-._~/");
    path
}

/// Appends `name=value` to a target, after `?` or `&` as it is the first or not.
pub(super) fn push_param(target: &mut String, name: &str, value: &[u8]) {
    target.push(if target.contains('?') { '&' } else { '?' });
    target.push_str(name);
    target.push('=');
    encode(target, value, b"-._~");
}

/// Every byte that is no letter, digit or among `plain` as `%xx`.
fn encode(out: &mut String, bytes: &[u8], plain: &[u8]) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || plain.contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::path::{Route, key};

    #[test]
    fn servers_are_read_as_people_write_them() {
        let rows = [
            ("http://127.0.0.1:8001", "127.0.0.1:8001"),
            ("http://db1.example:8001/", "db1.example:8001"),
            ("localhost:8001", "localhost:8001"),
            ("http://kv", "kv:80"),
            ("http://[::1]:8001", "[::1]:8001"),
            ("http://[::1]", "[::1]:80"),
        ];
        for (text, authority) in rows {
            assert_eq!(text.parse::<ServerUrl>().unwrap().authority(), authority, "{text}");
        }
        for wrong in
            ["", "kv", "http://", "http://a:0", "a:b", ":8001", "http://a/kv", "a:1:2", "a b:1"]
        {
            let error = wrong.parse::<ServerUrl>().unwrap_err();
            assert!(error.contains("http://127.0.0.1:8001"), "{wrong}: {error}");
        }
        assert!("https://a:1".parse::<ServerUrl>().unwrap_err().contains("TLS"));
    }

    #[test]
    fn any_key_comes_back_as_it_went() {
        let all: Vec<u8> = (0..=255).collect();
        let keys: [&[u8]; 7] = [b"color", b"app/color", b"/a", b"a/", b"..", b"a b?c#d%+", &all];
        for wanted in keys {
            let path = key_path(wanted);
            let (route, raw) = Route::of(&path);
            assert_eq!(route, Route::Key);
            assert_eq!(key(raw).unwrap(), wanted);
            assert!(path.parse::<hyper::Uri>().is_ok(), "{path}");
        }
    }

    #[test]
    fn parameters_are_encoded_and_parted() {
        let mut target = "/kv".to_owned();
        push_param(&mut target, "prefix", b"a b/");
        push_param(&mut target, "limit", b"7");
        assert_eq!(target, "/kv?prefix=a%20b%2F&limit=7");
    }
}
