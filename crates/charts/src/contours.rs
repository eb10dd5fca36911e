//! A function of two variables by its contours.

use std::fmt::Write;

use crate::axis::Axis;
use crate::page::{LEFT, MIDDLE, Page, RIGHT};

/// A line over [`Contours`].
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    name: String,
    color: String,
    points: Vec<(f64, f64)>,
    dots: bool,
}

impl Path {
    /// A line through `points`, each (x, y).
    pub fn new(name: &str, color: &str, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let points = points.into_iter().collect();
        Self { name: name.into(), color: color.into(), points, dots: false }
    }

    /// With a dot at each point.
    #[must_use]
    pub fn with_dots(self) -> Self {
        Self { dots: true, ..self }
    }
}

/// A function's contours over a grid, with paths and labels over them. A unit is as long upwards as it is to the right.
///
/// ```
/// use wrn_sam_charts::{Contours, Path};
///
/// let axis = [-1.0, -0.5, 0.0, 0.5, 1.0];
/// let bowl = |x: f64, y: f64| x * x + 2.0 * y * y;
/// let values: Vec<f64> = axis.iter().flat_map(|&y| axis.map(|x| bowl(x, y))).collect();
/// let picture = Contours::new("A bowl", "x", "y", &axis, &axis, values).with_levels([0.5, 1.0, 2.0]);
/// let picture = picture.with_path(Path::new("way down", "#b2182b", [(1.0, 1.0), (0.0, 0.0)]));
/// assert!(picture.to_svg().contains("way down"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Contours {
    title: String,
    x_label: String,
    y_label: String,
    x: Vec<f64>,
    y: Vec<f64>,
    values: Vec<f64>,
    levels: Vec<f64>,
    level_labels: bool,
    paths: Vec<Path>,
    labels: Vec<(f64, f64, String)>,
}

impl Contours {
    /// The function whose values on the grid are given row by row: `values[row * x.len() + column]` is that at
    /// (`x[column]`, `y[row]`). Both axes ascend. Missing values, and those that are not finite, leave a hole.
    pub fn new(
        title: &str,
        x_label: &str,
        y_label: &str,
        x: &[f64],
        y: &[f64],
        mut values: Vec<f64>,
    ) -> Self {
        values.resize(x.len() * y.len(), f64::NAN);
        let [title, x_label, y_label] = [title, x_label, y_label].map(String::from);
        let (x, y, levels) = (x.to_vec(), y.to_vec(), log_levels(&values, 12));
        Self {
            title,
            x_label,
            y_label,
            x,
            y,
            values,
            levels,
            level_labels: false,
            paths: vec![],
            labels: vec![],
        }
    }

    /// With contours at these values, in ascending order, in place of twelve by [`log_levels`].
    #[must_use]
    pub fn with_levels(self, levels: impl IntoIterator<Item = f64>) -> Self {
        Self { levels: levels.into_iter().collect(), ..self }
    }

    /// With its value at each contour.
    #[must_use]
    pub fn with_level_labels(self) -> Self {
        Self { level_labels: true, ..self }
    }

    /// With another path.
    #[must_use]
    pub fn with_path(mut self, path: Path) -> Self {
        self.paths.push(path);
        self
    }

    /// With a text at (x, y).
    #[must_use]
    pub fn with_label(mut self, x: f64, y: f64, text: &str) -> Self {
        self.labels.push((x, y, text.into()));
        self
    }

    /// The picture as SVG.
    pub fn to_svg(&self) -> String {
        let ends = |axis: &[f64]| {
            Axis::between(axis.first().copied().unwrap_or(0.0), axis.last().copied().unwrap_or(1.0))
        };
        let (x, y) = (ends(&self.x), ends(&self.y));
        let height = (RIGHT - LEFT) * (y.high - y.low) / (x.high - x.low);
        let named = self.paths.iter().filter(|path| !path.name.is_empty());
        let legend: Vec<_> = named.map(|path| (path.name.as_str(), path.color.as_str())).collect();
        let mut page = Page::new(&self.title, &legend, height);
        let (top, bottom) = (page.top, page.bottom);
        let place = |(across, up): (f64, f64)| (x.place(across, LEFT, RIGHT), y.place(up, bottom, top));
        page.axes((&x, &self.x_label), (&y, &self.y_label), false);

        let mut texts = Vec::new();
        for (index, &level) in self.levels.iter().enumerate() {
            let color = shade(index as f64 / (self.levels.len().max(2) - 1) as f64);
            let segments = self.contour(level);
            let mut path = String::new();
            for &[from, to] in &segments {
                let ((a, b), (c, d)) = (place(from), place(to));
                let _ = write!(path, "M{a:.1} {b:.1}L{c:.1} {d:.1}");
            }
            page.path(&path, &color, "");
            if let Some((at, _)) = self.label_place(&segments).filter(|_| self.level_labels) {
                texts.push((place(at), format!("{level:.3}")));
            }
        }
        // Outlined in white, so that they can be read over lines.
        let outlined = "text-anchor=\"middle\" font-size=\"11\" stroke=\"#fff\" stroke-width=\"3\" \
                        paint-order=\"stroke\"";
        for ((across, down), text) in texts {
            page.text(across, down + 4.0, outlined, text.trim_end_matches('0').trim_end_matches('.'));
        }
        // What lies outside the frame is cut off at it.
        page.line(format_args!(
            "<clipPath id=\"frame\"><rect x=\"{LEFT}\" y=\"{top}\" width=\"{}\" height=\"{height}\"/></clipPath>",
            RIGHT - LEFT
        ));
        page.line("<g clip-path=\"url(#frame)\">");
        for path in &self.paths {
            let (mut line, mut dots, mut pen) = (String::new(), String::new(), 'M');
            for &point in &path.points {
                let (across, down) = place(point);
                if !(across.is_finite() && down.is_finite()) {
                    pen = 'M';
                    continue;
                }
                let _ = write!(line, "{pen}{across:.1} {down:.1}");
                // A line of no length with round ends, which takes a third of a circle's bytes.
                let _ = write!(dots, "M{across:.1} {down:.1}h0");
                pen = 'L';
            }
            page.path(&line, &path.color, "stroke-width=\"2\" stroke-linejoin=\"round\"");
            if path.dots {
                page.path(&dots, &path.color, "stroke-width=\"4.8\" stroke-linecap=\"round\"");
            }
        }
        page.line("</g>");
        let outlined = "stroke=\"#fff\" stroke-width=\"4\" paint-order=\"stroke\" font-size=\"14\"";
        for (across, up, text) in &self.labels {
            let (across, down) = place((*across, *up));
            page.text(across, down, &format!("{MIDDLE} {outlined}"), text);
        }
        page.finish()
    }

    /// Where the function is `level`: a segment through each half of a cell that the contour crosses.
    fn contour(&self, level: f64) -> Vec<[(f64, f64); 2]> {
        let columns = self.x.len();
        let mut segments = Vec::new();
        for row in 1..self.y.len() {
            for column in 1..columns {
                let above = row * columns + column;
                let (corner, right, up) = (above - columns - 1, above - columns, above - 1);
                for [a, b, c] in [[corner, right, up], [right, up, above]] {
                    let crossed = [(a, b), (b, c), (c, a)].map(|edge| self.cross(edge, level));
                    let mut ends = crossed.into_iter().flatten();
                    if let (Some(from), Some(to)) = (ends.next(), ends.next()) {
                        segments.push([from, to]);
                    }
                }
            }
        }
        segments
    }

    /// Where the function passes `level` between two grid points.
    fn cross(&self, (a, b): (usize, usize), level: f64) -> Option<(f64, f64)> {
        let (low, high) = (self.values[a] - level, self.values[b] - level);
        if !(low.is_finite() && high.is_finite()) || (low < 0.0) == (high < 0.0) {
            return None;
        }
        let share = low / (low - high);
        let columns = self.x.len();
        let between = |from: f64, to: f64| from + share * (to - from);
        let across = between(self.x[a % columns], self.x[b % columns]);
        Some((across, between(self.y[a / columns], self.y[b / columns])))
    }

    /// The place on a contour that lies closest to the ray from the lowest grid point to the upper right, and how close.
    fn label_place(&self, segments: &[[(f64, f64); 2]]) -> Option<((f64, f64), f64)> {
        let finite = self.values.iter().enumerate().filter(|(_, value)| value.is_finite());
        let (lowest, _) = finite.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let (x, y) = (self.x[lowest % self.x.len()], self.y[lowest / self.x.len()]);
        let middles = segments.iter().map(|[from, to]| ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0));
        let off = |(a, b): (f64, f64)| {
            let (along, across) = ((a - x) + (b - y), (a - x) - (b - y));
            // The other half of the line through the lowest point is behind the ray.
            if along > 0.0 { across.abs() } else { across.abs() - 2.0 * along }
        };
        middles.map(|middle| (middle, off(middle))).min_by(|(_, a), (_, b)| a.total_cmp(b))
    }
}

/// `count` values between the lowest and the highest of the finite `values`, at equal ratios of their height above the
/// lowest: close together near the bottom of a bowl, where it is flat.
///
/// ```
/// let levels = wrn_sam_charts::log_levels(&[1.0, 2.0, 101.0], 3);
/// assert!(levels.windows(2).all(|pair| pair[0] < pair[1]));
/// assert!(levels[0] > 1.0 && levels[2] < 101.0);
/// assert!(wrn_sam_charts::log_levels(&[f64::NAN], 3).is_empty());
/// ```
pub fn log_levels(values: &[f64], count: usize) -> Vec<f64> {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (Some(low), Some(high)) = (finite().reduce(f64::min), finite().reduce(f64::max)) else {
        return vec![];
    };
    if high <= low {
        return vec![];
    }
    // Three powers of ten from the lowest contour to the top.
    let height = |index: usize| 10f64.powf(3.0 * (index as f64 + 1.0) / (count as f64 + 1.0) - 3.0);
    (0..count).map(|index| low + (high - low) * height(index)).collect()
}

/// From dark blue, low, to a light yellow-brown, high.
fn shade(share: f64) -> String {
    let [red, green, blue] = [(38.0, 214.0), (70.0, 170.0), (140.0, 60.0)]
        .map(|(low, high): (f64, f64)| (low + share * (high - low)).round() as u8);
    format!("rgb({red},{green},{blue})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bowl(cells: usize) -> Contours {
        let axis: Vec<f64> = (0..=cells).map(|cell| 2.0 * cell as f64 / cells as f64 - 1.0).collect();
        let values = axis.iter().flat_map(|&y| axis.iter().map(move |&x| x * x + y * y)).collect();
        Contours::new("bowl", "a", "b", &axis, &axis, values)
    }

    #[test]
    fn a_bowl_has_circles() {
        let segments = bowl(40).contour(0.25);
        assert!(segments.len() > 40);
        for (x, y) in segments.into_iter().flatten() {
            assert!(((x * x + y * y).sqrt() - 0.5).abs() < 2e-3, "({x}, {y})");
        }
        assert!(bowl(40).contour(2.5).is_empty());
    }

    #[test]
    fn what_is_not_finite_is_a_hole() {
        let mut picture = bowl(10);
        picture.values[60] = f64::NAN; // the middle
        picture.values[0] = f64::INFINITY;
        let svg = picture.with_path(Path::new("p", "#000", [(0.0, f64::NAN), (0.5, 0.5)])).to_svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn labels_are_at_their_contours() {
        let picture = bowl(40).with_levels([0.16, 0.49]).with_level_labels();
        let svg = picture.to_svg();
        assert!(svg.contains(">0.16<") && svg.contains(">0.49<"), "{svg}");
        let ((x, y), off) = picture.label_place(&picture.contour(0.49)).unwrap();
        assert!(x > 0.0 && y > 0.0 && off < 0.06);
    }
}
