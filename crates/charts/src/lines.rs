//! Lines and points over one axis.

use std::fmt::Write;

use crate::axis::Axis;
use crate::page::{LEFT, Page, RIGHT};

const HEIGHT: f64 = 348.0;

/// With at most this many points, each has a dot.
const DOTS: usize = 40;

/// One value of a [`Series`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Where it is.
    pub x: f64,
    /// How high it is. One that is not finite leaves a gap.
    pub y: f64,
    /// How far the bar through the point reaches up and down; 0 for none.
    pub deviation: f64,
}

/// One line of a [`Chart`], or the points of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    name: String,
    color: String,
    points: Vec<Point>,
    connected: bool,
    counts: bool,
}

impl Series {
    /// A line through `points`, each (x, y).
    pub fn line(name: &str, color: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points = points.into_iter().map(|(x, y)| Point { x, y, deviation: 0.0 }).collect();
        Self { name: name.into(), color: color.into(), points, connected: true, counts: false }
    }

    /// A line through `values` at 1, 2, 3, …
    pub fn over_epochs(name: &str, color: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let points = values.into_iter().enumerate().map(|(index, value)| ((index + 1) as f64, value));
        Self { counts: true, ..Self::line(name, color, points) }
    }

    /// Points that no line joins, each with its deviation.
    pub fn points(name: &str, color: &str, points: impl IntoIterator<Item = Point>) -> Self {
        let points = points.into_iter().collect();
        Self { points, connected: false, ..Self::line(name, color, []) }
    }

    fn draw(&self, page: &mut Page, x: &Axis, y: &Axis) {
        let (mut line, mut dots, mut bars, mut pen) = (String::new(), String::new(), String::new(), 'M');
        let (top, bottom) = (page.top, page.bottom);
        for point in &self.points {
            if !(point.x.is_finite() && point.y.is_finite()) {
                pen = 'M';
                continue;
            }
            let across = x.place(point.x, LEFT, RIGHT);
            let up = |value: f64| y.place(value, bottom, top);
            let height = up(point.y);
            let _ = write!(line, "{pen}{across:.1} {height:.1}");
            let _ = write!(dots, "<circle cx=\"{across:.1}\" cy=\"{height:.1}\" r=\"3\"/>");
            if point.deviation > 0.0 && point.deviation.is_finite() {
                let (high, low) = (up(point.y + point.deviation), up(point.y - point.deviation));
                let (left, right) = (across - 4.0, across + 4.0);
                let _ = write!(bars, "M{left:.1} {high:.1}H{right:.1}M{across:.1} {high:.1}V{low:.1}");
                let _ = write!(bars, "M{left:.1} {low:.1}H{right:.1}");
            }
            pen = 'L';
        }
        if self.connected {
            page.path(&line, &self.color, "stroke-width=\"2\" stroke-linejoin=\"round\"");
        }
        page.path(&bars, &self.color, "stroke-width=\"1.5\"");
        if !self.connected || self.points.len() <= DOTS {
            page.line(format_args!("<g fill=\"{}\">{dots}</g>", self.color));
        }
    }
}

/// A line chart, or points in a plane.
///
/// ```
/// use wrn_sam_charts::{COLORS, Chart, Point, Series};
///
/// let seeds = Point { x: 2.0, y: 63.1, deviation: 0.2 };
/// let chart = Chart::new("WRN-16-2", "gradients a step", "top-1 (%)").with(Series::points("SAM", COLORS[0], [seeds]));
/// assert!(chart.to_svg().contains("gradients a step"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    title: String,
    x_label: String,
    y_label: String,
    from_zero: bool,
    series: Vec<Series>,
}

impl Chart {
    /// A chart without lines.
    pub fn new(title: &str, x_label: &str, y_label: &str) -> Self {
        let [title, x_label, y_label] = [title, x_label, y_label].map(String::from);
        Self { title, x_label, y_label, from_zero: false, series: Vec::new() }
    }

    /// Keeps zero in sight.
    #[must_use]
    pub fn from_zero(self) -> Self {
        Self { from_zero: true, ..self }
    }

    /// With another series.
    #[must_use]
    pub fn with(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// The chart as SVG.
    pub fn to_svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = if self.series.iter().all(|series| series.counts) {
            Axis::of_counts(self.series.iter().map(|series| series.points.len()).max().unwrap_or(1).max(1))
        } else {
            Axis::of_values(points().map(|point| point.x), false)
        };
        let ends = points().flat_map(|point| [point.y - point.deviation, point.y + point.deviation]);
        let y = Axis::of_values(ends, self.from_zero);
        let legend: Vec<_> =
            self.series.iter().map(|series| (series.name.as_str(), series.color.as_str())).collect();
        let mut page = Page::new(&self.title, &legend, HEIGHT);
        page.axes((&x, &self.x_label), (&y, &self.y_label), true);
        for series in &self.series {
            series.draw(&mut page, &x, &y);
        }
        page.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_odd_titles_are_drawn() {
        let series = Series::over_epochs("a < b", "#000", [1.0, f64::NAN, 2.0, 3.0]);
        let svg = Chart::new("R & D", "epoch", "loss").with(series).to_svg();
        assert!(svg.contains("R &amp; D") && svg.contains("a &lt; b"));
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn a_chart_of_nothing_is_a_frame() {
        assert!(Chart::new("", "", "").to_svg().contains("<path"));
        let empty = Series::over_epochs("none", "#000", []);
        assert!(!Chart::new("", "", "").with(empty).to_svg().contains("NaN"));
    }

    #[test]
    fn bars_lie_within_the_frame() {
        let point = Point { x: 1.0, y: 50.0, deviation: 20.0 };
        let svg = Chart::new("", "", "").with(Series::points("s", "#123456", [point])).to_svg();
        let bars = svg.lines().find(|line| line.contains("stroke=\"#123456\" stroke-width=\"1.5\"")).unwrap();
        let low: f64 = bars.split('V').nth(1).unwrap().split('M').next().unwrap().parse().unwrap();
        assert!((76.0..=424.0).contains(&low), "{bars}");
    }

    #[test]
    fn a_long_legend_takes_more_rows() {
        let chart = |names: usize| {
            (0..names).fold(Chart::new("", "", ""), |chart, index| {
                chart.with(Series::over_epochs(&format!("a method of some length {index}"), "#000", [1.0]))
            })
        };
        let height =
            |svg: String| svg.split("height=\"").nth(1).unwrap().split('"').next().unwrap().to_string();
        assert_eq!(height(chart(2).to_svg()), "480");
        assert_eq!(height(chart(8).to_svg()), "540"); // four rows of two
    }
}
