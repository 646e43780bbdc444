//! How data is shown: columns for people, tab-parted lines for shells, JSON for programs. Nothing
//! here knows what the data means.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use crate::args::Format;

/// Rows under headings. As columns for people, or as plain lines: fields parted by tabs, no headings.
#[derive(Debug, Default)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table. A heading that begins with `>` is of a column that stands to the right.
    pub fn new(headings: &[&'static str]) -> Table {
        Table { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// One more row, with a field for each heading.
    pub fn row(&mut self, fields: impl IntoIterator<Item = String>) {
        let fields: Vec<String> = fields.into_iter().collect();
        assert_eq!(fields.len(), self.headings.len(), "a field for each heading");
        self.rows.push(fields);
    }

    /// In the way that was asked for; JSON has no tables.
    ///
    /// # Errors
    /// As `out` has them.
    pub fn show(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        match format {
            Format::Plain | Format::Json => self.write_plain(out),
            Format::Table => self.write(out),
        }
    }

    /// Columns for people.
    ///
    /// # Errors
    /// As `out` has them.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let titles: Vec<&str> =
            self.headings.iter().map(|title| title.trim_start_matches('>')).collect();
        let width = |at: usize| {
            let fields = self.rows.iter().map(|row| row[at].chars().count());
            fields.chain([titles[at].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..titles.len()).map(width).collect();
        let line = |fields: Vec<&str>| {
            let mut line = String::new();
            for (at, field) in fields.into_iter().enumerate() {
                let width = widths[at];
                match self.headings[at].starts_with('>') {
                    true => line += &format!("{field:>width$}  "),
                    false => line += &format!("{field:width$}  "),
                }
            }
            line
        };
        writeln!(out, "{}", line(titles.clone()).trim_end())?;
        for row in &self.rows {
            let fields = row.iter().map(String::as_str).collect();
            writeln!(out, "{}", line(fields).trim_end())?;
        }
        Ok(())
    }

    /// A line per row, fields parted by tabs.
    fn write_plain(&self, out: &mut impl Write) -> io::Result<()> {
        self.rows.iter().try_for_each(|row| writeln!(out, "{}", row.join("\t")))
    }
}

/// stdout, gathered so that a long list is not written line by line.
pub fn stdout() -> io::BufWriter<io::Stdout> {
    io::BufWriter::new(io::stdout())
}

/// One JSON document on a line of its own.
///
/// # Errors
/// stdout cannot be written.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = stdout();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// A table, or the document that says the same, as was asked for.
///
/// # Errors
/// stdout cannot be written.
pub fn data(format: Format, table: &Table, document: &impl Serialize) -> io::Result<()> {
    match format {
        Format::Json => json(document),
        format => {
            let mut out = stdout();
            table.show(format, &mut out)?;
            out.flush()
        }
    }
}

/// A field for people; what is not known is `-`.
pub fn field(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            format!("{:.2}", number.as_f64().unwrap_or_default())
        }
        other => other.to_string(),
    }
}

/// Bytes as text on one line: what is not printable is escaped, so that each item stays one line.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\t' => text.push_str("\\t"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                c if c.is_control() => text.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["name", ">slots"]);
        table.row(["a".to_owned(), "5462".to_owned()]);
        table.row(["cluster-2".to_owned(), "1".to_owned()]);
        table
    }

    #[test]
    fn columns_line_up_and_numbers_stand_to_the_right() {
        let mut out = Vec::new();
        table().write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "name       slots\na           5462\ncluster-2      1\n");
    }

    #[test]
    fn plain_lines_have_tabs_and_no_headings() {
        let mut out = Vec::new();
        table().write_plain(&mut out).unwrap();
        assert_eq!(out, b"a\t5462\ncluster-2\t1\n");
    }

    #[test]
    fn an_item_stays_one_line() {
        assert_eq!(escaped(b"a\tb\nc\\d\xff\0"), "a\\tb\\nc\\\\d\\xff\\u{0}");
        assert_eq!(escaped("grün".as_bytes()), "grün");
    }
}
