//! `kv put`, `get`, `delete`, `list`.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kv_daemon::client::{Item, Wanted, When};
use kv_daemon::kv::request::Record;
use serde_json::{Map, Value, json};

use crate::args::{DeleteArgs, Format, GetArgs, ListArgs, PutArgs};
use crate::exit::{Failed, NO_KEY};
use crate::output::{self, Table, escaped};
use crate::session::Session;

/// Items asked for at a time: what a server gives unless asked for another number.
const PAGE: u64 = 1000;

/// `kv put`.
pub async fn put(session: &Session, args: PutArgs) -> Result<(), Failed> {
    let value = match (&args.file, args.value.as_deref()) {
        (Some(path), _) => fs::read(path)
            .map_err(|error| Failed::other(format!("cannot read {}: {error}", path.display())))?,
        (None, Some("-")) => {
            let mut value = Vec::new();
            let read = io::stdin().read_to_end(&mut value);
            read.map_err(|error| Failed::other(format!("cannot read stdin: {error}")))?;
            value
        }
        (None, value) => value.unwrap_or_default().as_bytes().to_vec(),
    };
    let when = if args.create { When::Absent } else { at_revision(args.if_rev) };
    let put = session.client.put(args.key.as_bytes(), value, when).await?;
    match session.format {
        Format::Json => {
            let key = args.key;
            output::json(&json!({
                "key": key, "revision": put.revision, "version": put.version, "created": put.created,
            }))?;
        }
        Format::Plain | Format::Table => {
            let done = if put.created { "created" } else { "replaced" };
            session.note(format!("{done}, revision {}", put.revision));
        }
    }
    Ok(())
}

/// `kv get`.
pub async fn get(session: &Session, args: GetArgs) -> Result<(), Failed> {
    let key = args.key.as_bytes();
    let Some(record) = session.client.get(key, session.level).await? else {
        return Err(Failed::new(NO_KEY, format!("there is no key `{}`", escaped(key))));
    };
    let mut out = output::stdout();
    if args.rev {
        writeln!(out, "{}", record.mod_revision)?;
    } else if args.meta || (session.format == Format::Json && !args.raw) {
        let shown = fields(key, &record, !args.meta);
        match session.format {
            Format::Json => writeln!(out, "{}", Value::Object(shown))?,
            Format::Plain | Format::Table => {
                for (name, value) in shown {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    writeln!(out, "{name}\t{}", escaped(value.as_bytes()))?;
                }
            }
        }
    } else {
        out.write_all(&record.value)?;
        // So that the next prompt stands on a line of its own; elsewhere every byte counts.
        if !args.raw && io::stdout().is_terminal() && !record.value.ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    Ok(())
}

/// `kv delete`.
pub async fn delete(session: &Session, args: DeleteArgs) -> Result<(), Failed> {
    let when = at_revision(args.if_rev);
    let deleted = session.client.delete(args.key.as_bytes(), when).await?;
    match session.format {
        Format::Json => output::json(&json!({
            "deleted": deleted.deleted, "revision": deleted.revision,
        }))?,
        Format::Plain | Format::Table => {
            let done = if deleted.deleted == 0 { "there was no such key" } else { "deleted" };
            session.note(format!("{done}, revision {}", deleted.revision));
        }
    }
    Ok(())
}

/// `kv list`: page by page, so that a list of any length takes little memory (a table needs all of
/// it, for its columns).
pub async fn list(session: &Session, args: ListArgs) -> Result<(), Failed> {
    let mut listing = session.client.list(Wanted {
        prefix: Bytes::from(args.prefix.into_bytes()),
        keys_only: args.keys,
        level: session.level,
    });
    let mut left = if args.all { u64::MAX } else { args.limit };
    let headings: &[&str] = match args.keys {
        true => &["key", ">revision", ">version"],
        false => &["key", "value", ">revision", ">version"],
    };
    let mut table = Table::new(headings);
    let mut out = output::stdout();
    let (mut count, mut more) = (0u64, true);
    if session.format == Format::Json {
        write!(out, "{{\"items\":[")?;
    }
    while more && 0 < left {
        // At most 1000.
        let page = listing.next(left.min(PAGE) as u32).await?;
        more = page.more;
        for item in page.items {
            match session.format {
                Format::Json => {
                    let comma = if count == 0 { "\n" } else { ",\n" };
                    let shown = fields(&item.key, &item.record, !args.keys);
                    write!(out, "{comma}{}", Value::Object(shown))?;
                }
                Format::Plain if args.keys => writeln!(out, "{}", escaped(&item.key))?,
                Format::Plain => {
                    writeln!(out, "{}\t{}", escaped(&item.key), escaped(&item.record.value))?;
                }
                Format::Table => table.row(columns(&item, args.keys)),
            }
            count += 1;
            left -= 1;
        }
    }
    match session.format {
        Format::Json => writeln!(out, "\n],\"count\":{count},\"more\":{more}}}")?,
        Format::Plain => {}
        Format::Table => table.write(&mut out)?,
    }
    out.flush()?;
    if more {
        session.note(format!("there are more than {count}: see --limit and --all"));
    }
    Ok(())
}

fn at_revision(revision: Option<u64>) -> When {
    match revision {
        None => When::Always,
        Some(0) => When::Absent,
        Some(revision) => When::AtRevision(revision),
    }
}

fn columns(item: &Item, keys_only: bool) -> Vec<String> {
    const SHOWN: usize = 60;
    let mut fields = vec![escaped(&item.key)];
    if !keys_only {
        let value = escaped(&item.record.value);
        fields.push(match value.char_indices().nth(SHOWN) {
            Some((at, _)) => format!("{}... ({} bytes)", &value[..at], item.record.value.len()),
            None => value,
        });
    }
    fields.extend([item.record.mod_revision.to_string(), item.record.version.to_string()]);
    fields
}

/// The stable JSON of a key: what is not UTF-8 stands as base64 under another name.
fn fields(key: &[u8], record: &Record, with_value: bool) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut bytes = |name: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => fields.insert(name.to_owned(), text.into()),
        Err(_) => fields.insert(format!("{name}_b64"), STANDARD.encode(bytes).into()),
    };
    bytes("key", key);
    if with_value {
        bytes("value", &record.value);
    }
    fields.insert("revision".to_owned(), record.mod_revision.into());
    fields.insert("create_revision".to_owned(), record.create_revision.into());
    fields.insert("version".to_owned(), record.version.into());
    if !with_value {
        fields.insert("bytes".to_owned(), record.value.len().into());
    }
    fields
}
