//! Numbers for Prometheus: what the HTTP shell counts itself, and the writer of the text format.
//! Counting is one relaxed atomic addition; nothing here decides anything. Which families there
//! are, and from where their numbers come, is in `status::metrics`.

use std::fmt::{self, Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use warp::http::{Method, StatusCode};

use crate::http::path::Route;

/// Upper bounds of the duration histograms, in microseconds; one more bucket holds the rest.
pub const BUCKETS_MICROS: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];

/// The methods that are told apart; others count as the last.
const METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "DELETE", "POST", "OPTIONS", "other"];

/// The status codes that are told apart, sorted; others count as 500.
const CODES: [u16; 25] = [
    200, 201, 204, 304, 400, 404, 405, 408, 409, 411, 412, 413, 414, 415, 421, 422, 429, 431, 500,
    501, 503, 504, 505, 507, 508,
];

/// A distribution of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_MICROS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// One more.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The counts of each bucket (not cumulative) and the sum in microseconds.
    pub fn read(&self) -> (Vec<u64>, u64) {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        (counts, self.micros.load(Ordering::Relaxed))
    }
}

/// What the HTTP shell counts: requests by route, method and code.
#[derive(Debug)]
pub struct HttpMetrics {
    requests: Vec<AtomicU64>,
    durations: Vec<Histogram>,
    inflight: AtomicU64,
    /// How long proposals of this node took, from the proposal to its answer.
    pub commits: Histogram,
    /// Elections this node won.
    pub elections_won: AtomicU64,
}

impl Default for HttpMetrics {
    fn default() -> HttpMetrics {
        let pairs = Route::ALL.len() * METHODS.len();
        HttpMetrics {
            requests: (0..pairs * CODES.len()).map(|_| AtomicU64::new(0)).collect(),
            durations: (0..pairs).map(|_| Histogram::default()).collect(),
            inflight: AtomicU64::new(0),
            commits: Histogram::default(),
            elections_won: AtomicU64::new(0),
        }
    }
}

impl HttpMetrics {
    /// A request begins; it ends when what is returned is dropped.
    pub fn begin(&self) -> InFlight<'_> {
        self.inflight.fetch_add(1, Ordering::Relaxed);
        InFlight(&self.inflight)
    }

    /// Requests being answered.
    pub fn inflight(&self) -> u64 {
        self.inflight.load(Ordering::Relaxed)
    }

    /// A request was answered.
    pub fn answered(&self, route: Route, method: &Method, status: StatusCode, took: Duration) {
        let pair = pair(route, method);
        let code = CODES
            .binary_search(&status.as_u16())
            .unwrap_or_else(|_| CODES.binary_search(&500).expect("500 is in the list"));
        self.requests[pair * CODES.len() + code].fetch_add(1, Ordering::Relaxed);
        self.durations[pair].observe(took);
    }

    /// Writes the families of the shell; what never happened has no line.
    pub fn write(&self, text: &mut Text) {
        text.family("kv_http_requests_total", "counter", "Requests answered.");
        for (route, method, pair) in pairs() {
            for (at, code) in CODES.iter().enumerate() {
                let count = self.requests[pair * CODES.len() + at].load(Ordering::Relaxed);
                if 0 < count {
                    let labels =
                        [("route", route.label()), ("method", method), ("code", &code.to_string())];
                    text.line("kv_http_requests_total", &labels, count);
                }
            }
        }
        let name = "kv_http_request_duration_seconds";
        text.family(name, "histogram", "From the end of the headers to the start of the answer.");
        for (route, method, pair) in pairs() {
            let (counts, micros) = self.durations[pair].read();
            if counts.iter().any(|count| 0 < *count) {
                let labels = [("route", route.label()), ("method", method)];
                text.histogram(name, &labels, &BUCKETS_MICROS, &counts, micros);
            }
        }
        text.gauge("kv_http_inflight", "Requests being answered.", self.inflight());
    }
}

/// Counts as a request under way until dropped.
#[derive(Debug)]
pub struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn pair(route: Route, method: &Method) -> usize {
    let method = METHODS[..METHODS.len() - 1].iter().position(|name| *name == method.as_str());
    route as usize * METHODS.len() + method.unwrap_or(METHODS.len() - 1)
}

fn pairs() -> impl Iterator<Item = (Route, &'static str, usize)> {
    Route::ALL.into_iter().flat_map(|route| {
        let first = route as usize * METHODS.len();
        METHODS.into_iter().enumerate().map(move |(at, method)| (route, method, first + at))
    })
}

/// The text format, version 0.0.4: `# HELP`, `# TYPE`, then lines.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
}

impl Text {
    /// Opens a family; its lines follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One line.
    pub fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.push(format_args!("{name}"));
        for (at, (label, text)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.push(format_args!("{open}{label}=\"{text}\""));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        self.push(format_args!("{close} {value}\n"));
    }

    /// A family of one line that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.line(name, &[], value);
    }

    /// A family of one line that only goes up.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.line(name, &[], value);
    }

    /// The lines of one histogram: `counts` is one longer than `bounds`, which are microseconds.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: &[u64],
        counts: &[u64],
        micros: u64,
    ) {
        let mut sum = 0;
        for (at, count) in counts.iter().enumerate() {
            sum += count;
            let bound = bounds.get(at).map_or("+Inf".to_owned(), |bound| seconds(*bound));
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.line(&format!("{name}_bucket"), &labels, sum);
        }
        self.line(&format!("{name}_sum"), labels, seconds(micros));
        self.line(&format!("{name}_count"), labels, sum);
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.out
    }

    fn push(&mut self, text: fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("writing to a string cannot fail");
    }
}

/// Microseconds as exact decimal seconds: `0.00025`, `1`.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let mut text = Text::default();
        text.gauge("kv_a", "Help.", 7);
        text.family("kv_b", "counter", "More.");
        text.line("kv_b", &[("x", "1"), ("y", "a\"b\\")], 0);
        assert_eq!(
            text.finish(),
            "# HELP kv_a Help.\n# TYPE kv_a gauge\nkv_a 7\n\
             # HELP kv_b More.\n# TYPE kv_b counter\nkv_b{x=\"1\",y=\"a\\\"b\\\\\"} 0\n"
        );
    }

    #[test]
    fn histograms_are_cumulative() {
        let histogram = Histogram::default();
        for micros in [1, 100, 101, 9_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let (counts, micros) = histogram.read();
        let mut text = Text::default();
        text.histogram("h", &[], &BUCKETS_MICROS, &counts, micros);
        let text = text.finish();
        assert!(text.starts_with("h_bucket{le=\"0.0001\"} 2\nh_bucket{le=\"0.00025\"} 3\n"));
        assert!(text.contains("h_bucket{le=\"5\"} 3\nh_bucket{le=\"+Inf\"} 4\n"));
        assert!(text.ends_with("h_sum 9.000202\nh_count 4\n"), "{text}");
    }

    #[test]
    fn requests_are_counted_by_route_method_and_code() {
        let metrics = HttpMetrics::default();
        let micros = Duration::from_micros(300);
        metrics.answered(Route::Key, &Method::PUT, StatusCode::CREATED, micros);
        metrics.answered(Route::Unknown, &Method::TRACE, StatusCode::NOT_FOUND, micros);
        metrics.answered(Route::Root, &Method::GET, StatusCode::IM_A_TEAPOT, micros);
        let begun = metrics.begin();
        let mut text = Text::default();
        metrics.write(&mut text);
        drop(begun);
        let text = text.finish();
        for line in [
            "kv_http_requests_total{route=\"/kv/{key}\",method=\"PUT\",code=\"201\"} 1\n",
            "kv_http_requests_total{route=\"other\",method=\"other\",code=\"404\"} 1\n",
            "kv_http_requests_total{route=\"/\",method=\"GET\",code=\"500\"} 1\n",
            "kv_http_request_duration_seconds_count{route=\"/kv/{key}\",method=\"PUT\"} 1\n",
            "kv_http_inflight 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert_eq!(metrics.inflight(), 0);
    }

    #[test]
    fn codes_are_sorted() {
        assert!(CODES.is_sorted());
    }
}
