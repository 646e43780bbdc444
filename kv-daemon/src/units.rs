//! Sizes and durations as people write them: `64MiB`, `75ms`. Used by flags and by query
//! parameters. Never guesses: a number without a unit is only taken for bytes, never for time.

use std::time::Duration;

/// Reads `500ms`, `5s`, `2m`, `1h`, `40us` or `7ns`; a decimal point is allowed (`1.5s`).
///
/// # Errors
/// One sentence that names the text and shows how it should look.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 6] = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let wrong = || format!("`{text}` is no duration; write a number and a unit, like 75ms or 5s");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    scale(number, *nanos).map(Duration::from_nanos).ok_or_else(wrong)
}

/// Reads `4096`, `512B`, `64KiB`, `64MiB`, `1.5GiB`, also `64kB`, `64MB`, `1GB` in steps of 1000.
///
/// # Errors
/// One sentence that names the text and shows how it should look.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("", 1),
        ("B", 1),
        ("kB", 1_000),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];
    let wrong = || format!("`{text}` is no size; write bytes or a number and a unit, like 64MiB");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    scale(number, *bytes).ok_or_else(wrong)
}

/// The shortest exact way to write a size: `64MiB`, `1000B`.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// The digits (with at most one point among them) and what follows.
fn split(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let points = number.len() - digits;
    (digits > 0 && points <= 1 && !number.starts_with('.') && !number.ends_with('.'))
        .then_some((number, unit))
}

/// `number` times `unit` in whole numbers; `None` when it does not fit or is not whole.
fn scale(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    let parts = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let scaled = fraction.parse::<u128>().ok()?.checked_mul(u128::from(unit))?;
    if !scaled.is_multiple_of(parts) {
        return None;
    }
    whole.checked_add(u64::try_from(scaled / parts).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("75ms"), Ok(Duration::from_millis(75)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "5", "s", "-5s", "1..5s", ".5s", "5.s", "5 s", "5S", "1e3s", "999999999h"]
        {
            assert!(parse_duration(wrong).unwrap_err().contains("75ms"), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_bytes_unless_they_say_more() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("64MB"), Ok(64_000_000));
        assert_eq!(parse_size("1.5KiB"), Ok(1536));
        for wrong in ["", "MiB", "64mib", "64 MiB", "0.3B", "99999999999GiB", "-1"] {
            assert!(parse_size(wrong).unwrap_err().contains("64MiB"), "{wrong}");
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for bytes in [0, 1, 1000, 1 << 10, 64 << 20, 3 << 30, (1 << 20) + 1] {
            assert_eq!(parse_size(&size(bytes)), Ok(bytes));
        }
        assert_eq!(size(64 << 20), "64MiB");
    }
}
