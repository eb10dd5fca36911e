//! What every figure has: a title, a frame with ticks, and a legend above it.

use std::fmt::Write;

use crate::axis::Axis;

/// The page's width, and the frame's sides on it.
const WIDTH: f64 = 760.0;
pub(crate) const LEFT: f64 = 72.0;
pub(crate) const RIGHT: f64 = 736.0;
/// From the page's top to the legend's first row, from row to row, and from the last row to the frame.
const LEGEND: f64 = 55.0;
const LEGEND_ROW: f64 = 20.0;
const LEGEND_TO_FRAME: f64 = 21.0;
/// Below the frame: ticks and the axis's label.
const BELOW: f64 = 56.0;
/// The sample of an entry's color, and about what a letter takes.
const SAMPLE: f64 = 28.0;
const LETTER: f64 = 7.0;

pub(crate) const MIDDLE: &str = "text-anchor=\"middle\"";

/// An SVG that is being written.
pub(crate) struct Page {
    svg: String,
    /// The frame's upper and lower side.
    pub top: f64,
    pub bottom: f64,
}

impl Page {
    /// A page with title and legend (names with colors), and room for a frame of the given height.
    pub fn new(title: &str, legend: &[(&str, &str)], frame_height: f64) -> Self {
        let (places, rows) = legend_places(legend);
        let top = LEGEND + LEGEND_ROW * (rows as f64 - 1.0) + LEGEND_TO_FRAME;
        let bottom = top + frame_height;
        let height = bottom + BELOW;
        let title = escape(title);
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#333\">\n\
             <title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n",
        );
        let mut page = Self { svg, top, bottom };
        let centered = "text-anchor=\"middle\" font-size=\"18\" font-weight=\"bold\"";
        page.line(format_args!(
            "<text x=\"{:.1}\" y=\"30.0\" {centered}>{title}</text>",
            (LEFT + RIGHT) / 2.0
        ));
        for ((name, color), (left, y)) in legend.iter().zip(places) {
            let right = left + SAMPLE;
            page.path(&format!("M{left:.1} {y}H{right:.1}"), color, "stroke-width=\"3\"");
            page.text(right + 8.0, y + 4.5, "", name);
        }
        page
    }

    /// A line of SVG.
    pub fn line(&mut self, line: impl std::fmt::Display) {
        let _ = writeln!(self.svg, "{line}");
    }

    pub fn text(&mut self, x: f64, y: f64, attributes: &str, text: &str) {
        self.line(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{}</text>", escape(text)));
    }

    pub fn path(&mut self, path: &str, color: &str, attributes: &str) {
        if !path.is_empty() {
            let color = escape(color);
            self.line(format_args!("<path d=\"{path}\" stroke=\"{color}\" {attributes} fill=\"none\"/>"));
        }
    }

    /// Ticks, labels and the frame's lines; with `grid` also a line through the frame at each tick.
    pub fn axes(&mut self, (x, x_label): (&Axis, &str), (y, y_label): (&Axis, &str), grid: bool) {
        let (top, bottom) = (self.top, self.bottom);
        let label = "text-anchor=\"middle\" font-size=\"14\"";
        self.text((LEFT + RIGHT) / 2.0, bottom + 42.0, label, x_label);
        let y_middle = (top + bottom) / 2.0;
        self.text(22.0, y_middle, &format!("{label} transform=\"rotate(-90 22 {y_middle})\""), y_label);
        let mut lines = String::new();
        for &tick in &x.ticks {
            let place = x.place(tick, LEFT, RIGHT);
            self.text(place, bottom + 20.0, MIDDLE, &x.label(tick));
            let _ = write!(lines, "M{place:.1} {top}V{bottom}");
        }
        for &tick in &y.ticks {
            let place = y.place(tick, bottom, top);
            self.text(LEFT - 10.0, place + 4.5, "text-anchor=\"end\"", &y.label(tick));
            let _ = write!(lines, "M{LEFT} {place:.1}H{RIGHT}");
        }
        if grid {
            self.path(&lines, "#e4e4e4", "");
            self.path(&format!("M{LEFT} {top}V{bottom}H{RIGHT}"), "#333", "");
        } else {
            self.path(&format!("M{LEFT} {top}V{bottom}H{RIGHT}V{top}Z"), "#333", "");
        }
    }

    pub fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

/// Where each entry begins, in rows above the frame, where they can hide nothing; and how many rows there are. A row that
/// fills less than the frame's width is spread over it.
fn legend_places(legend: &[(&str, &str)]) -> (Vec<(f64, f64)>, usize) {
    let width = RIGHT - LEFT;
    let longest = legend.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let entry = SAMPLE + 24.0 + LETTER * longest as f64;
    let columns = ((width / entry).floor() as usize).clamp(1, legend.len().max(1));
    let rows = legend.len().div_ceil(columns).max(1);
    let place = |index: usize| {
        let (row, column) = (index / columns, index % columns);
        let left = LEFT + width / columns as f64 * column as f64 + 8.0;
        (left, LEGEND + LEGEND_ROW * row as f64)
    };
    ((0..legend.len()).map(place).collect(), rows)
}

/// `text` as it is written between or within the tags of SVG and HTML.
///
/// ```
/// assert_eq!(wrn_sam_charts::escape("a < \"b\""), "a &lt; &quot;b&quot;");
/// ```
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
