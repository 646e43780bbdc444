//! How the log looks: one line per fact on stderr, for people or as JSON. `RUST_LOG` chooses what
//! is told; unset, that is everything from `info` up.

use std::io::Write as _;

use env_logger::{Builder, Env, TimestampPrecision};
use serde::Serialize;

use crate::config::LogFormat;

/// Starts logging; later calls change nothing.
pub fn start(format: LogFormat) {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info"));
    match format {
        LogFormat::Text => {
            builder.format_timestamp(Some(TimestampPrecision::Millis));
        }
        LogFormat::Json => {
            builder.format(|out, record| {
                let time = out.timestamp_millis().to_string();
                writeln!(out, "{}", json_line(&time, record))
            });
        }
    }
    // Tests in one process share the first.
    let _ = builder.try_init();
}

fn json_line(time: &str, record: &log::Record<'_>) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        time: &'a str,
        level: &'a str,
        target: &'a str,
        message: String,
    }
    let line = Line {
        time,
        level: record.level().as_str(),
        target: record.target(),
        message: record.args().to_string(),
    };
    serde_json::to_string(&line).expect("a line is made of strings")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_line_is_one_object() {
        let record = log::Record::builder()
            .level(log::Level::Warn)
            .target("kv_daemon::run")
            .args(format_args!("two\nlines \"quoted\""))
            .build();
        assert_eq!(
            json_line("2026-01-01T00:00:00.000Z", &record),
            "{\"time\":\"2026-01-01T00:00:00.000Z\",\"level\":\"WARN\",\
             \"target\":\"kv_daemon::run\",\"message\":\"two\\nlines \\\"quoted\\\"\"}"
        );
    }
}
