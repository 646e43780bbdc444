//! The Proxy Array Membership Table: an array as the draft's proxies fetch it, as text.
//!
//! ```text
//! Proxy Array Information/1.0        the version; a reader that meets another does not route by it
//! ArrayEnabled: 1                    0: speaks CARP but is in no array
//! ConfigID: 7                        changes with the table; has no order
//! ArrayName: kv
//! ListTTL: 600                       seconds (the draft says seconds in one place, minutes in another)
//!
//! name address port url agent seconds-in-state UP|DOWN load-factor cache-megabytes
//! ```
//!
//! Lines end in CR LF; a bare LF is read too. What is written can be read, and is then the same.

use std::fmt;

use super::{Draft, DraftFault, MEMBERS_MAX};

/// The longest text that is read, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

const VERSION_LINE: &str = "Proxy Array Information/";
const VERSION: &str = "1.0";

/// The table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipTable {
    /// Whether the sender is in the array.
    pub enabled: bool,
    /// Another number for another table; larger does not mean newer.
    pub config_id: u32,
    /// The array's name: any text on one line without spaces at its ends.
    pub array_name: String,
    /// How long the table may be used, in seconds.
    pub list_ttl_s: u32,
    /// In the order of the text.
    pub members: Vec<TableMember>,
}

/// A line of the table. Texts have no white space in them and are not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMember {
    /// The name that is hashed.
    pub name: String,
    /// Its IP address or host name.
    pub address: String,
    /// Its TCP port.
    pub port: u16,
    /// Where its own table can be fetched.
    pub table_url: String,
    /// What program it is.
    pub agent: String,
    /// For how long it has been up or down, in seconds.
    pub state_time_s: u32,
    /// Whether it is up.
    pub up: bool,
    /// Its load factor, from 1.
    pub load_factor: u32,
    /// Its cache, in megabytes; for information only.
    pub cache_mb: u32,
}

/// What is wrong with a table. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableFault {
    /// Longer than [`TEXT_BYTES_MAX`].
    TooLong,
    /// Not UTF-8.
    NotText,
    /// Not the first line of a table.
    NotATable,
    /// Of another version than 1.0.
    Version(String),
    /// The text ends before this line.
    Ends {
        /// The line that is missing.
        line: usize,
    },
    /// A line does not hold this, or not as the draft writes it.
    Field {
        /// Which line.
        line: usize,
        /// Which field.
        field: &'static str,
    },
    /// More members than an array may have.
    TooManyMembers,
    /// Text to be written that could not be read again: empty, or with white space in it.
    Unwritable(&'static str),
}

impl fmt::Display for TableFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableFault::TooLong => write!(f, "longer than {TEXT_BYTES_MAX} bytes"),
            TableFault::NotText => write!(f, "not UTF-8"),
            TableFault::NotATable => write!(f, "line 1: not a Proxy Array Membership Table"),
            TableFault::Version(version) => write!(f, "line 1: version {version}, not {VERSION}"),
            TableFault::Ends { line } => write!(f, "line {line}: is missing"),
            TableFault::Field { line, field } => write!(f, "line {line}: no good {field}"),
            TableFault::TooManyMembers => write!(f, "more than {MEMBERS_MAX} members"),
            TableFault::Unwritable(field) => {
                write!(f, "the {field} is empty or has white space in it")
            }
        }
    }
}

impl std::error::Error for TableFault {}

impl MembershipTable {
    /// Reads a table.
    pub fn parse(text: &[u8]) -> Result<MembershipTable, TableFault> {
        if TEXT_BYTES_MAX < text.len() {
            return Err(TableFault::TooLong);
        }
        let text = std::str::from_utf8(text).map_err(|_| TableFault::NotText)?;
        // `lines` takes a CR before the LF away.
        let mut lines = text.lines().enumerate().map(|(before, line)| (before + 1, line));

        let (_, first) = lines.next().ok_or(TableFault::Ends { line: 1 })?;
        let version = first.strip_prefix(VERSION_LINE).ok_or(TableFault::NotATable)?;
        if version != VERSION {
            return Err(TableFault::Version(version.chars().take(40).collect()));
        }
        let mut global = |line: usize, name: &'static str| -> Result<&str, TableFault> {
            let (_, text) = lines.next().ok_or(TableFault::Ends { line })?;
            let fault = TableFault::Field { line, field: name };
            let value =
                text.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')).ok_or(fault)?;
            Ok(value.trim())
        };
        let enabled = match global(2, "ArrayEnabled")? {
            "0" => false,
            "1" => true,
            _ => return Err(TableFault::Field { line: 2, field: "ArrayEnabled" }),
        };
        let config_id = number(3, "ConfigID", global(3, "ConfigID")?)?;
        let array_name = global(4, "ArrayName")?.to_owned();
        let list_ttl_s = number(5, "ListTTL", global(5, "ListTTL")?)?;
        match lines.next() {
            Some((_, "")) => {}
            Some((line, _)) => return Err(TableFault::Field { line, field: "empty line" }),
            None => return Err(TableFault::Ends { line: 6 }),
        }

        let mut members = Vec::new();
        for (line, text) in lines.filter(|(_, text)| !text.is_empty()) {
            if members.len() == MEMBERS_MAX {
                return Err(TableFault::TooManyMembers);
            }
            members.push(member(line, text)?);
        }
        Ok(MembershipTable { enabled, config_id, array_name, list_ttl_s, members })
    }

    /// Writes the table. Refuses texts that could not be read again.
    pub fn to_text(&self) -> Result<String, TableFault> {
        let name = &self.array_name;
        if name.trim() != name || name.contains(['\r', '\n']) {
            return Err(TableFault::Unwritable("ArrayName"));
        }
        if MEMBERS_MAX < self.members.len() {
            return Err(TableFault::TooManyMembers);
        }
        let mut text = format!(
            "{VERSION_LINE}{VERSION}\r\nArrayEnabled: {}\r\nConfigID: {}\r\nArrayName: {name}\r\n\
             ListTTL: {}\r\n\r\n",
            u8::from(self.enabled),
            self.config_id,
            self.list_ttl_s
        );
        for member in &self.members {
            for (field, word) in member.words() {
                if word.is_empty() || word.contains(char::is_whitespace) {
                    return Err(TableFault::Unwritable(field));
                }
            }
            if member.load_factor == 0 {
                return Err(TableFault::Unwritable("load factor"));
            }
            let TableMember { name, address, port, table_url, agent, state_time_s, .. } = member;
            let (up, load, cache) = (state(member.up), member.load_factor, member.cache_mb);
            text += &format!(
                "{name} {address} {port} {table_url} {agent} {state_time_s} {up} {load} {cache}\r\n"
            );
        }
        if TEXT_BYTES_MAX < text.len() {
            return Err(TableFault::TooLong);
        }
        Ok(text)
    }

    /// The array that routes by this table. A member that is down keeps its keys: it is for the
    /// caller to go on to the next of [`Draft::rank`].
    pub fn draft(&self) -> Result<Draft, DraftFault> {
        let members: Vec<(&str, u32)> =
            self.members.iter().map(|member| (member.name.as_str(), member.load_factor)).collect();
        Draft::new(&members)
    }
}

impl TableMember {
    fn words(&self) -> [(&'static str, &str); 4] {
        [
            ("name", &self.name),
            ("address", &self.address),
            ("table URL", &self.table_url),
            ("agent", &self.agent),
        ]
    }
}

fn member(line: usize, text: &str) -> Result<TableMember, TableFault> {
    let mut fields = text.split(' ');
    let mut next = |field: &'static str| -> Result<&str, TableFault> {
        let word = fields.next().unwrap_or_default();
        let good = !word.is_empty() && !word.contains(char::is_whitespace);
        if good { Ok(word) } else { Err(TableFault::Field { line, field }) }
    };
    let member = TableMember {
        name: next("name")?.to_owned(),
        address: next("address")?.to_owned(),
        port: number(line, "port", next("port")?)?,
        table_url: next("table URL")?.to_owned(),
        agent: next("agent")?.to_owned(),
        state_time_s: number(line, "state time", next("state time")?)?,
        up: match next("state")? {
            "UP" => true,
            "DOWN" => false,
            _ => return Err(TableFault::Field { line, field: "state" }),
        },
        load_factor: number(line, "load factor", next("load factor")?)?,
        cache_mb: number(line, "cache size", next("cache size")?)?,
    };
    if member.load_factor == 0 {
        return Err(TableFault::Field { line, field: "load factor" });
    }
    match fields.next() {
        Some(_) => Err(TableFault::Field { line, field: "end of line" }),
        None => Ok(member),
    }
}

fn number<T: std::str::FromStr>(
    line: usize,
    field: &'static str,
    text: &str,
) -> Result<T, TableFault> {
    // `parse` would take a plus sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = if digits { text.parse().ok() } else { None };
    parsed.ok_or(TableFault::Field { line, field })
}

fn state(up: bool) -> &'static str {
    if up { "UP" } else { "DOWN" }
}
