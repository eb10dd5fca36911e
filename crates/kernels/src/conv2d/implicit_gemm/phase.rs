//! The input gradient as convolutions of stride 1.

use super::partition::{Part, Taps};
use crate::conv2d::Conv2dShape;

/// The input pixels whose padded row and column leave these remainders by the stride, and the taps that reach
/// them.
pub(super) struct Phase {
    pub row: usize,
    pub column: usize,
    pub taps: Taps,
    pub parts: Vec<Part>,
    /// How many lines, and columns, of `dy` the phase's last taps reach back.
    pub reach: (usize, usize),
    /// Where the phase's taps start in the order of all phases' taps.
    pub first_slot: usize,
}

/// All phases, and for each of the kernel's taps its place in the order of all phases' taps.
///
/// Within a phase the taps go backwards, as the convolution by a turned kernel has them. With a dilation that the stride
/// does not divide, a phase's taps lie several lines of `dy` apart; see [`spacing`].
pub(super) fn phases(shape: &Conv2dShape) -> (Vec<Phase>, Vec<usize>) {
    let Conv2dShape { out_channels: channels, kernel, stride, dilation, .. } = *shape;
    let mut slots = vec![0; kernel * kernel];
    let mut next = 0;
    let mut phases = Vec::with_capacity(stride * stride);
    for (row, column) in (0..stride).flat_map(|row| (0..stride).map(move |column| (row, column))) {
        let of = |remainder| (0..kernel).rev().filter(move |tap| tap * dilation % stride == remainder);
        let reach = |remainder| of(remainder).next().map_or(0, |last| last * dilation / stride);
        let taps = Taps { lines: of(row).count(), columns: of(column).count(), channels };
        let (parts, reach) = (Part::split(taps), (reach(row), reach(column)));
        phases.push(Phase { row, column, taps, parts, reach, first_slot: next });
        for a in of(row) {
            for b in of(column) {
                slots[a * kernel + b] = next;
                next += 1;
            }
        }
    }
    (phases, slots)
}

/// The lines, and columns, of `dy` from one of a phase's taps to the next: the taps that reach a phase are `stride / d`
/// taps apart, with `d` the greatest common divisor of stride and dilation.
pub(super) fn spacing(shape: &Conv2dShape) -> usize {
    let (mut divisor, mut rest) = (shape.stride, shape.dilation);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    shape.dilation / divisor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_take_each_tap_once() {
        let shape = |kernel, stride| Conv2dShape::new([1, 8, 8, 1], 1, kernel, stride, 1).unwrap();
        let counts = |kernel, stride| {
            let (phases, mut slots) = phases(&shape(kernel, stride));
            slots.sort_unstable();
            assert_eq!(slots, (0..kernel * kernel).collect::<Vec<_>>());
            phases.iter().map(|phase| (phase.taps.lines, phase.taps.columns)).collect::<Vec<_>>()
        };
        assert_eq!(counts(3, 2), [(2, 2), (2, 1), (1, 2), (1, 1)]);
        assert_eq!(counts(1, 2), [(1, 1), (1, 0), (0, 1), (0, 0)]);
        assert_eq!(counts(1, 1), [(1, 1)]);
        assert_eq!(counts(5, 3).iter().map(|(lines, columns)| lines * columns).sum::<usize>(), 25);
    }
}
