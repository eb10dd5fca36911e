//! A line chart as SVG: just what the reports draw.

use std::fmt::Write;

/// Lines over the epochs 1, 2, …
pub(crate) struct Chart<'a> {
    pub title: &'a str,
    pub y_label: &'a str,
    /// Keep zero in sight.
    pub from_zero: bool,
    pub series: &'a [Series],
}

/// One line; values that are not finite leave a gap.
pub(crate) struct Series {
    pub name: String,
    pub color: &'static str,
    pub values: Vec<f64>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 736.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = 424.0;

/// With at most this many epochs, each has a dot.
const DOTS: usize = 40;

impl Chart<'_> {
    pub(crate) fn to_svg(&self) -> String {
        let epochs = self.series.iter().map(|series| series.values.len()).max().unwrap_or(0).max(1);
        let x = Axis::of_epochs(epochs);
        let y = Axis::of_values(self.series.iter().flat_map(|series| &series.values), self.from_zero);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#333\">\n\
             <title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n",
            title = escape(self.title)
        );
        let mut text = |x: f64, y: f64, attributes: &str, text: &str| {
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{}</text>", escape(text));
        };
        let middle = "text-anchor=\"middle\"";
        let (x_middle, y_middle) = ((LEFT + RIGHT) / 2.0, (TOP + BOTTOM) / 2.0);
        text(x_middle, 30.0, "text-anchor=\"middle\" font-size=\"18\" font-weight=\"bold\"", self.title);
        text(x_middle, BOTTOM + 42.0, "text-anchor=\"middle\" font-size=\"14\"", "epoch");
        let sideways = format!("{middle} font-size=\"14\" transform=\"rotate(-90 22 {y_middle})\"");
        text(22.0, y_middle, &sideways, self.y_label);
        for tick in &x.ticks {
            text(x.place(*tick, LEFT, RIGHT), BOTTOM + 20.0, middle, &x.label(*tick));
        }
        for tick in &y.ticks {
            text(LEFT - 10.0, y.place(*tick, BOTTOM, TOP) + 4.5, "text-anchor=\"end\"", &y.label(*tick));
        }
        self.draw_grid(&mut svg, &x, &y);
        self.draw_legend(&mut svg);
        for series in self.series {
            series.draw(&mut svg, &x, &y);
        }
        svg + "</svg>\n"
    }

    fn draw_grid(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let mut grid = String::new();
        for tick in &x.ticks {
            let _ = write!(grid, "M{:.1} {TOP}V{BOTTOM}", x.place(*tick, LEFT, RIGHT));
        }
        for tick in &y.ticks {
            let _ = write!(grid, "M{LEFT} {:.1}H{RIGHT}", y.place(*tick, BOTTOM, TOP));
        }
        let _ = writeln!(svg, "<path d=\"{grid}\" stroke=\"#e4e4e4\" fill=\"none\"/>");
        let _ = writeln!(svg, "<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" stroke=\"#333\" fill=\"none\"/>");
    }

    /// One row above the lines, where it can hide none of them.
    fn draw_legend(&self, svg: &mut String) {
        let share = (RIGHT - LEFT) / self.series.len().max(1) as f64;
        for (index, series) in self.series.iter().enumerate() {
            let left = LEFT + share * index as f64 + 8.0;
            let (right, y) = (left + 28.0, TOP - 21.0);
            let _ = writeln!(
                svg,
                "<path d=\"M{left:.1} {y}H{right:.1}\" stroke=\"{}\" stroke-width=\"3\"/>",
                series.color
            );
            let (x, y) = (right + 8.0, y + 4.5);
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\">{}</text>", escape(&series.name));
        }
    }
}

impl Series {
    fn draw(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let (mut line, mut dots, mut pen) = (String::new(), String::new(), 'M');
        for (index, value) in self.values.iter().enumerate() {
            if !value.is_finite() {
                pen = 'M';
                continue;
            }
            let (x, y) = (x.place((index + 1) as f64, LEFT, RIGHT), y.place(*value, BOTTOM, TOP));
            let _ = write!(line, "{pen}{x:.1} {y:.1}");
            let _ = write!(dots, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
            pen = 'L';
        }
        let color = self.color;
        let _ = writeln!(
            svg,
            "<path d=\"{line}\" stroke=\"{color}\" stroke-width=\"2\" stroke-linejoin=\"round\" fill=\"none\"/>"
        );
        if self.values.len() <= DOTS {
            let _ = writeln!(svg, "<g fill=\"{color}\">{dots}</g>");
        }
    }
}

/// A range of numbers with round ticks in it.
struct Axis {
    low: f64,
    high: f64,
    decimals: usize,
    ticks: Vec<f64>,
}

impl Axis {
    /// 1 to `epochs`, with ticks at whole numbers.
    fn of_epochs(epochs: usize) -> Self {
        let last = epochs as f64;
        let step = round_step(last / 10.0).max(1.0);
        let ticks = (1..=epochs).map(|epoch| epoch as f64).filter(|epoch| epoch % step == 0.0).collect();
        let (low, high) = if epochs == 1 { (0.5, 1.5) } else { (1.0, last) };
        Self { low, high, decimals: 0, ticks }
    }

    /// All finite `values`, from tick to tick.
    fn of_values<'a>(values: impl Iterator<Item = &'a f64>, from_zero: bool) -> Self {
        let finite = values.copied().filter(|value| value.is_finite());
        let (mut low, mut high) = finite
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (value.min(low), value.max(high)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if from_zero {
            low = low.min(0.0);
        }
        // A flat line is drawn in the middle of a range.
        let span = if high - low > 1e-9 * high.abs() { high - low } else { high.abs().max(1.0) };
        let step = round_step(span / 6.0);
        let (first, last) = ((low / step).floor(), (high / step).ceil().max((low / step).floor() + 1.0));
        let ticks = (0..=(last - first) as usize).map(|index| (first + index as f64) * step).collect();
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        Self { low: first * step, high: last * step, decimals, ticks }
    }

    /// The place of `value` between the ends of the axis on the page.
    fn place(&self, value: f64, start: f64, end: f64) -> f64 {
        start + (value - self.low) / (self.high - self.low) * (end - start)
    }

    fn label(&self, tick: f64) -> String {
        format!("{tick:.*}", self.decimals)
    }
}

/// The smallest of 1, 2, 5, 10, … times a power of ten that is at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_the_values() {
        for (step, round) in [(0.013, 0.02), (0.05, 0.05), (0.7, 1.0), (1.0, 1.0), (23.0, 50.0)] {
            assert!((round_step(step) - round).abs() < 1e-12, "{step}");
        }
        let axis = Axis::of_values([0.8123, 3.44].iter(), false);
        assert_eq!((axis.low, axis.high, axis.decimals), (0.5, 3.5, 1));
        let axis = Axis::of_values([f64::NAN, 25.0, 56.0].iter(), true);
        assert_eq!(axis.ticks, [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert_eq!(Axis::of_epochs(200).ticks.len(), 10);
        assert_eq!(Axis::of_epochs(1).ticks, [1.0]);
        for value in [0.0, -3.0, 1e12, 1e-12, f64::INFINITY] {
            let axis = Axis::of_values([value].iter(), false);
            assert!(axis.low < axis.high && axis.ticks.len() < 20, "{value}");
        }
    }

    #[test]
    fn gaps_and_odd_titles_are_drawn() {
        let series = [Series { name: "a < b".into(), color: "#000", values: vec![1.0, f64::NAN, 2.0, 3.0] }];
        let svg = Chart { title: "R & D", y_label: "loss", from_zero: false, series: &series }.to_svg();
        assert!(svg.contains("R &amp; D") && svg.contains("a &lt; b"));
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(!svg.contains("NaN"));
    }
}
