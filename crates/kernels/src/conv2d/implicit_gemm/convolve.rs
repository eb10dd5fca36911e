//! The convolution of pixels in cache.

use super::partition::{Part, Taps};
use super::window::Pixels;
use crate::Cpu;
use crate::gemm::BlockProduct;
use crate::microkernel::Operand;
use crate::simd::LANES;
use crate::uninit::Uninit;

/// Where a rectangle of pixels lies, in elements: the first of them, and the distances from one line of it to
/// the next and from one pixel to the next.
#[derive(Clone, Copy)]
pub(super) struct PixelGrid {
    pub start: usize,
    pub line: usize,
    pub pixel: usize,
}

impl PixelGrid {
    /// The place of the last pixel of so many lines and columns.
    fn last(self, lines: usize, columns: usize) -> usize {
        self.start + (lines - 1) * self.line + (columns - 1) * self.pixel
    }

    /// Whether lines of so many columns follow each other without a gap.
    fn is_one_line(self, columns: usize) -> bool {
        self.line == columns * self.pixel
    }
}

/// A convolution of pixels in cache.
pub(super) struct Convolve<'a> {
    pub cpu: &'a Cpu,
    pub pixels: &'a Pixels<'a>,
    pub taps: Taps,
    /// Lines, and columns, of pixels from one tap to the next.
    pub spacing: usize,
    pub parts: &'a [Part],
    /// Panels of sixteen output channels, `panel` elements apart, each `[tap][channel][16]`.
    pub weights: &'a [f32],
    pub panel: usize,
    /// Output lines, and pixels in each.
    pub lines: usize,
    pub columns: usize,
    /// Where the first taps of the output pixels are in `pixels`.
    pub from: PixelGrid,
    /// Where the output pixels go.
    pub to: PixelGrid,
    pub out_channels: usize,
    /// What is added to them, at the same places.
    pub add: Option<&'a [f32]>,
}

impl Convolve<'_> {
    /// Writes the convolution to `output`.
    pub fn run(self, output: &mut Uninit) {
        let Self {
            cpu,
            pixels,
            taps,
            spacing,
            parts,
            weights,
            panel,
            mut lines,
            mut columns,
            from,
            to,
            out_channels,
            add,
        } = self;
        if lines == 0 || columns == 0 {
            return;
        }
        let end = to.last(lines, columns) + out_channels;
        assert!(output.len() >= end && add.is_none_or(|add| add.len() >= end));
        let last = from.last(lines, columns);
        if from.is_one_line(columns) && to.is_one_line(columns) {
            (lines, columns) = (1, lines * columns);
        }
        let output = output[to.start..].as_mut_ptr().cast::<f32>();
        let mut base = add.map(|add| add[to.start..].as_ptr());
        // Without taps, what is added is all there is.
        let nothing = [Part { lines: 0..0, columns: 0..0, channels: 0..0 }];
        for part in if parts.is_empty() { &nothing } else { parts } {
            // Neighboring taps of a line are one run.
            let (columns_of_runs, depth) = match spacing {
                1 => (part.columns.start..(part.columns.start + 1).min(part.columns.end), part.depth()),
                _ => (part.columns.clone(), part.channels.len()),
            };
            let mut runs = Vec::with_capacity(part.lines.len() * columns_of_runs.len());
            for line in part.lines.clone() {
                let place =
                    |column| (line * pixels.line + column * pixels.pixel) * spacing + part.channels.start;
                runs.extend(columns_of_runs.clone().map(place));
            }
            let weight = part.start(taps) * LANES;
            if let Some(run) = runs.last() {
                assert!(pixels.len() >= last + run + depth);
                let last_panel = (out_channels.div_ceil(LANES) - 1) * panel;
                assert!(weights.len() >= last_panel + weight + runs.len() * depth * LANES);
            }
            let product = BlockProduct {
                a: Operand { start: pixels.as_ptr().wrapping_add(from.start), stride: from.pixel, step: 1 },
                b: Operand { start: weights.as_ptr().wrapping_add(weight), stride: panel, step: LANES },
                runs: &runs,
                depth,
                groups: lines,
                rows: columns,
                columns: out_channels,
                group: from.line,
                to_group: to.line,
                to_row: to.pixel,
                base,
                to: output,
            };
            // SAFETY: without runs no operand is read; otherwise the last element read of either is within it
            // (asserted above). The last one written is within `output`, and read within `add` (asserted
            // above); `output` is borrowed exclusively, and its pixels are `out_channels` or more apart.
            unsafe { cpu.instruction_set().dispatch_unchecked(product) };
            base = Some(output);
        }
    }
}
