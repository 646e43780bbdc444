//! What all commands share: the client, and how its owner wants to see things.

use std::io::{self, IsTerminal, Write as _};
use std::sync::Arc;

use kv_daemon::client::wire::Broken;
use kv_daemon::client::{Client, Exchange, ServerUrl, Settings};
use kv_daemon::kv::request::ReadLevel;

use crate::args::{Consistency, Format, Global};
use crate::exit::Failed;

/// The port of a server that was started without `--port`.
const PORT: u16 = 8001;

/// One call of the program.
pub struct Session {
    /// Asks the servers that were named.
    pub client: Client,
    /// How data is written.
    pub format: Format,
    /// How fresh reads have to be.
    pub level: ReadLevel,
    /// Nothing but data and errors is told.
    pub quiet: bool,
}

impl Session {
    /// From the flags that every command takes.
    ///
    /// # Errors
    /// A flag makes no sense.
    pub fn new(global: &Global) -> Result<Session, Failed> {
        if global.timeout.is_zero() {
            return Err(Failed::usage("--timeout 0 leaves no time for an answer"));
        }
        let servers = match (global.local_port, global.servers.as_slice()) {
            (Some(port), _) => vec![ServerUrl::local(port)],
            (None, []) => vec![ServerUrl::local(PORT)],
            (None, servers) => servers.to_vec(),
        };
        let mut settings = Settings::new(servers);
        settings.timeout = global.timeout;
        if global.verbose {
            settings.watch = Some(Arc::new(tell));
        }
        let on_terminal = io::stdout().is_terminal();
        let format = if on_terminal { Format::Table } else { Format::Plain };
        Ok(Session {
            client: Client::new(settings),
            format: global.format.unwrap_or(format),
            level: match global.consistency {
                Consistency::Linearizable => ReadLevel::Linearizable,
                Consistency::Stale => ReadLevel::Stale { max_stale: None },
            },
            quiet: global.quiet,
        })
    }

    /// Tells people how far something is, on a line that the next one replaces; an empty one ends it.
    /// Nothing when stderr is no terminal.
    pub fn progress(&self, line: &str) {
        if !self.quiet && io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        }
    }

    /// Tells people something that is no data.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            // Nobody listens: no reason to fail.
            let _ = writeln!(io::stderr(), "{}", text.as_ref());
        }
    }
}

/// An exchange as a curl line that repeats it, and what came of it.
fn tell(exchange: &Exchange<'_>) {
    let Exchange { server, call, result, took } = exchange;
    let mut line = String::from("curl");
    if call.method != "GET" {
        line += &format!(" -X {}", call.method);
    }
    for (name, value) in &call.headers {
        line += &format!(" -H '{name}: {}'", String::from_utf8_lossy(value.as_bytes()));
    }
    if !call.body.is_empty() {
        match std::str::from_utf8(&call.body) {
            Ok(text) if text.len() <= 200 && !text.starts_with('@') => {
                line += &format!(" --data-binary '{}'", text.replace('\'', r"'\''"));
            }
            _ => line += &format!(" --data-binary @VALUE_OF_{}_BYTES", call.body.len()),
        }
    }
    let came = match result {
        Ok(reply) => format!("{}, {} bytes", reply.status.as_u16(), reply.body.len()),
        Err(Broken::NothingSent(why)) => format!("nothing sent: {why}"),
        Err(Broken::MaybeSent(why)) => format!("no answer: {why}"),
    };
    let millis = took.as_secs_f64() * 1000.0;
    let _ = writeln!(io::stderr(), "{line} '{server}{}'  # {came}, {millis:.1} ms", call.target);
}
