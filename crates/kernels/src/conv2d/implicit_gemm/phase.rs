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
    /// Where the phase's taps start in the order of all phases' taps.
    pub first_slot: usize,
}

/// All phases, and for each of the kernel's taps its place in the order of all phases' taps.
///
/// Within a phase the taps go backwards, as the convolution by a turned kernel has them.
pub(super) fn phases(shape: &Conv2dShape) -> (Vec<Phase>, Vec<usize>) {
    let Conv2dShape { out_channels: channels, kernel, stride, .. } = *shape;
    let mut slots = vec![0; kernel * kernel];
    let mut next = 0;
    let mut phases = Vec::with_capacity(stride * stride);
    for (row, column) in (0..stride).flat_map(|row| (0..stride).map(move |column| (row, column))) {
        let of = |remainder: usize| (remainder..kernel).step_by(stride);
        let taps = Taps { lines: of(row).len(), columns: of(column).len(), channels };
        phases.push(Phase { row, column, taps, parts: Part::split(taps), first_slot: next });
        for a in of(row).rev() {
            for b in of(column).rev() {
                slots[a * kernel + b] = next;
                next += 1;
            }
        }
    }
    (phases, slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_take_each_tap_once() {
        let shape = |kernel, stride| Conv2dShape {
            batch: 1,
            height: 8,
            width: 8,
            in_channels: 1,
            out_channels: 1,
            kernel,
            stride,
            padding: 1,
        };
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
