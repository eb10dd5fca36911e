//! A range of numbers with round ticks in it.

/// An axis from `low` to `high`.
pub(crate) struct Axis {
    pub low: f64,
    pub high: f64,
    pub ticks: Vec<f64>,
    decimals: usize,
}

impl Axis {
    /// 1 to the whole number `last`, with ticks at whole numbers.
    pub fn of_counts(last: usize) -> Self {
        let step = round_step(last as f64 / 10.0).max(1.0);
        let ticks = (1..=last).map(|count| count as f64).filter(|count| count % step == 0.0).collect();
        let (low, high) = if last <= 1 { (0.5, 1.5) } else { (1.0, last as f64) };
        Self { low, high, ticks, decimals: 0 }
    }

    /// All finite `values`, from tick to tick, and zero too where it is to be kept in sight.
    pub fn of_values(values: impl Iterator<Item = f64>, from_zero: bool) -> Self {
        let finite = values.filter(|value| value.is_finite());
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
        Self { low: first * step, high: last * step, ticks, decimals: decimals(step) }
    }

    /// Exactly from `low` to `high`, with the round ticks between them. An empty range is widened.
    pub fn between(low: f64, high: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let step = round_step((high - low) / 6.0);
        let slack = 1e-9 * (high - low);
        let first = ((low - slack) / step).ceil() as i64;
        let last = ((high + slack) / step).floor() as i64;
        let ticks = (first..=last).map(|index| index as f64 * step).collect();
        Self { low, high, ticks, decimals: decimals(step) }
    }

    /// The place of `value` between the ends of the axis on the page.
    pub fn place(&self, value: f64, start: f64, end: f64) -> f64 {
        start + (value - self.low) / (self.high - self.low) * (end - start)
    }

    pub fn label(&self, tick: f64) -> String {
        format!("{tick:.*}", self.decimals)
    }
}

/// The smallest of 1, 2, 5, 10, … times a power of ten that is at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// The decimals that multiples of `step` have.
fn decimals(step: f64) -> usize {
    // A step of 1e-3 must not become one of 9.99e-4.
    (-(step * (1.0 + 1e-9)).log10().floor()).max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_hold_the_values() {
        for (step, round) in [(0.013, 0.02), (0.05, 0.05), (0.7, 1.0), (1.0, 1.0), (23.0, 50.0)] {
            assert!((round_step(step) - round).abs() < 1e-12, "{step}");
        }
        let axis = Axis::of_values([0.8123, 3.44].into_iter(), false);
        assert_eq!((axis.low, axis.high, axis.decimals), (0.5, 3.5, 1));
        let axis = Axis::of_values([f64::NAN, 25.0, 56.0].into_iter(), true);
        assert_eq!(axis.ticks, [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert_eq!(Axis::of_counts(200).ticks.len(), 10);
        assert_eq!(Axis::of_counts(1).ticks, [1.0]);
        for value in [0.0, -3.0, 1e12, 1e-12, f64::INFINITY] {
            let axis = Axis::of_values([value].into_iter(), false);
            assert!(axis.low < axis.high && axis.ticks.len() < 20, "{value}");
        }
    }

    #[test]
    fn an_exact_range_keeps_its_ends() {
        let axis = Axis::between(-1.0, 1.0);
        assert_eq!((axis.low, axis.high), (-1.0, 1.0));
        assert_eq!(
            axis.ticks.iter().map(|&tick| axis.label(tick)).collect::<Vec<_>>(),
            ["-1.0", "-0.5", "0.0", "0.5", "1.0"]
        );
        assert_eq!(Axis::between(2.0, 2.0).high, 3.0);
    }
}
