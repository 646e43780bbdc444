//! A picture as SVG text: shapes with classes, one style for all pictures, no script. The colours change
//! with the reader's light or dark theme; the background is the page's own.

use std::fmt::{Display, Write as _};

/// A picture under construction. Lengths are in pixels, from the upper left corner.
pub struct Svg {
    width: f64,
    height: f64,
    title: String,
    body: String,
}

/// Where a text stands against its point.
#[derive(Clone, Copy)]
pub enum Anchor {
    /// To the right of it.
    Start,
    /// On both sides of it.
    Middle,
    /// To the left of it.
    End,
}

/// Blue and orange stay apart for every eye; names of classes: `a`, `b`, `c` for series, `axis`,
/// `grid`, `ideal`, `soft` and `strong` for text, `owner-0` to `owner-7` for areas.
const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#24292f}\
.strong{font-size:17px;font-weight:600}.soft{font-size:12px;fill:#57606a}\
.end{text-anchor:end}.middle{text-anchor:middle}\
.a{fill:#e07b39}.b{fill:#2f6fb5}.c{fill:#7d8590}\
path.a,path.b,path.c{fill:none;stroke-width:2.5;stroke-linejoin:round}\
path.a{stroke:#e07b39}path.b{stroke:#2f6fb5}path.c{stroke:#7d8590}\
text.a,text.b,text.c{font-weight:600}\
.axis{stroke:#8c959f;stroke-width:1}.grid{stroke:#8c959f;stroke-opacity:.25;stroke-width:1}\
.ideal{stroke:#24292f;stroke-width:1.5;stroke-dasharray:5 3}\
.owner-0{fill:#2f6fb5}.owner-1{fill:#e07b39}.owner-2{fill:#4a9f5b}.owner-3{fill:#b84a62}\
.owner-4{fill:#7e5bb5}.owner-5{fill:#b9972f}.owner-6{fill:#3ba3a8}.owner-7{fill:#7d8590}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9198a1}\
.ideal{stroke:#e6edf3}.a{fill:#f0935a}.b{fill:#5a9be0}path.a{stroke:#f0935a}path.b{stroke:#5a9be0}}";

impl Svg {
    /// An empty picture; `title` is for those who do not see it.
    pub fn new(width: f64, height: f64, title: &str) -> Svg {
        Svg { width, height, title: title.to_owned(), body: String::new() }
    }

    /// A filled rectangle with slightly rounded corners.
    pub fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        let radius = 2.0f64.min(width / 4.0);
        self.put(format_args!(
            r#"<rect class="{class}" x="{}" y="{}" width="{}" height="{}" rx="{}"/>"#,
            Short(x),
            Short(y),
            Short(width),
            Short(height.max(0.0)),
            Short(radius)
        ));
    }

    /// Filled squares, by their upper left corners, that show `share` (0 to 1) of their colour.
    pub fn squares(&mut self, class: &str, share: f64, side: f64, corners: &[(f64, f64)]) {
        let side = Short(side);
        let one =
            |(x, y): &(f64, f64)| format!("M{} {}h{side}v{side}h-{side}z", Short(*x), Short(*y));
        let path: String = corners.iter().map(one).collect();
        let share = Short(share);
        self.put(format_args!(r#"<path class="{class}" opacity="{share}" d="{path}"/>"#));
    }

    /// A dot.
    pub fn dot(&mut self, class: &str, x: f64, y: f64) {
        let (x, y) = (Short(x), Short(y));
        self.put(format_args!(r#"<circle class="{class}" cx="{x}" cy="{y}" r="3.5"/>"#));
    }

    /// A straight line.
    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        self.put(format_args!(
            r#"<line class="{class}" x1="{}" y1="{}" x2="{}" y2="{}"/>"#,
            Short(from.0),
            Short(from.1),
            Short(to.0),
            Short(to.1)
        ));
    }

    /// A line through points, in this order.
    pub fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        let step = |(number, (x, y)): (usize, &(f64, f64))| {
            format!("{}{} {}", if number == 0 { 'M' } else { 'L' }, Short(*x), Short(*y))
        };
        let path: String = points.iter().enumerate().map(step).collect();
        self.put(format_args!(r#"<path class="{class}" d="{path}"/>"#));
    }

    /// A text, its foot at `y`.
    pub fn text(&mut self, class: &str, anchor: Anchor, x: f64, y: f64, text: impl Display) {
        let class = match anchor {
            Anchor::Start => class.to_owned(),
            Anchor::Middle => format!("{class} middle"),
            Anchor::End => format!("{class} end"),
        };
        let text = escaped(&text.to_string());
        let (x, y) = (Short(x), Short(y));
        self.put(format_args!(r#"<text class="{}" x="{x}" y="{y}">{text}</text>"#, class.trim()));
    }

    /// The file.
    pub fn finish(self) -> String {
        let (width, height) = (Short(self.width), Short(self.height));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">\n<title>{}</title>\n\
             <style>{STYLE}</style>\n{}</svg>\n",
            escaped(&self.title),
            self.body
        )
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.body, "{element}").expect("a String takes everything");
    }
}

/// A length with at most one digit behind the point: no eye sees more, and files stay small.
struct Short(f64);

impl Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tenths = (self.0 * 10.0).round() / 10.0;
        write!(f, "{tenths}")
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_break_out() {
        let mut svg = Svg::new(10.0, 10.0, "a & b");
        svg.text("", Anchor::End, 1.25, 2.0, "<script>");
        let file = svg.finish();
        assert!(file.contains("<title>a &amp; b</title>"));
        assert!(
            file.contains(r#"<text class="end" x="1.3" y="2">&lt;script&gt;</text>"#),
            "{file}"
        );
    }
}
