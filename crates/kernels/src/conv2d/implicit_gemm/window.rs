//! Windows of images: padded, activated copies of some of their lines.

use std::ops::{Deref, Range};

use crate::conv2d::Activation;
use crate::simd::{Algorithm, F32x16, LANES};
use crate::{Buffer, Cpu};

/// A batch of images, `[N, height, width, channels]`, that is zero beyond its edges.
#[derive(Clone, Copy)]
pub(super) struct PaddedImages<'a> {
    pub data: &'a [f32],
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// What is applied to each pixel read.
    pub activation: Option<Activation<'a>>,
}

/// A rectangle of an image, part of which may lie beyond the edges.
#[derive(Clone)]
pub(super) struct Window {
    pub image: usize,
    /// The first line and column.
    pub top: isize,
    pub left: isize,
    /// The lines and columns taken.
    pub lines: usize,
    pub columns: usize,
    /// From one line or column taken to the next.
    pub step: usize,
    pub channels: Range<usize>,
}

impl Window {
    /// Elements of the window.
    pub fn len(&self) -> usize {
        self.lines * self.columns * self.channels.len()
    }
}

/// The pixels of a window in memory.
pub(super) struct Pixels<'a> {
    data: Data<'a>,
    /// From one line to the next.
    pub line: usize,
    /// From one pixel to the next.
    pub pixel: usize,
}

enum Data<'a> {
    InPlace(&'a [f32]),
    Copied(Buffer),
}

impl Deref for Pixels<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.data {
            Data::InPlace(data) => data,
            Data::Copied(data) => data,
        }
    }
}

impl<'a> PaddedImages<'a> {
    /// A window's pixels: where they are, if they are there as they are needed, or a copy.
    pub fn read(&self, cpu: &Cpu, window: &Window) -> Pixels<'a> {
        let channels = self.channels;
        if self.activation.is_none() && window.channels == (0..channels) && self.contains(window) {
            let (top, left) = (window.top as usize, window.left as usize);
            let start = ((window.image * self.height + top) * self.width + left) * channels;
            let (line, pixel) = (window.step * self.width * channels, window.step * channels);
            let len = (window.lines - 1) * line + (window.columns - 1) * pixel + channels;
            return Pixels { data: Data::InPlace(&self.data[start..start + len]), line, pixel };
        }
        let mut copy = cpu.buffer(window.len());
        self.copy(cpu, window, &mut copy);
        let pixel = window.channels.len();
        Pixels { data: Data::Copied(copy), line: window.columns * pixel, pixel }
    }

    /// Whether a window has pixels and none beyond the edges.
    fn contains(&self, window: &Window) -> bool {
        let inside = |first: isize, count: usize, size: usize| {
            first >= 0 && count > 0 && first as usize + (count - 1) * window.step < size
        };
        inside(window.top, window.lines, self.height) && inside(window.left, window.columns, self.width)
    }

    /// Writes a window's pixels to `to`, line by line.
    ///
    /// # Panics
    /// If `to` has another length than the window, or the window channels that the source has not.
    pub fn copy(&self, cpu: &Cpu, window: &Window, to: &mut [f32]) {
        assert_eq!(to.len(), window.len());
        let line = window.columns * window.channels.len();
        // The columns within the edges.
        let before = (-window.left).max(0) as usize;
        let start = before.div_ceil(window.step).min(window.columns);
        let after = (self.width as isize - window.left).max(0) as usize;
        let end = after.div_ceil(window.step).clamp(start, window.columns);
        for (i, to) in to.chunks_exact_mut(line.max(1)).enumerate() {
            let row = window.top + (i * window.step) as isize;
            if !(0..self.height as isize).contains(&row) || start == end {
                to.fill(0.0);
                continue;
            }
            let (left, rest) = to.split_at_mut(start * window.channels.len());
            let (inside, right) = rest.split_at_mut((end - start) * window.channels.len());
            left.fill(0.0);
            right.fill(0.0);
            let column = (window.left + (start * window.step) as isize) as usize;
            let pixel = (window.image * self.height + row as usize) * self.width + column;
            let from = &self.data[pixel * self.channels..];
            let channels = window.channels.clone();
            match self.activation {
                None if window.step == 1 && channels.len() == self.channels => {
                    inside.copy_from_slice(&from[..inside.len()]);
                }
                None => {
                    let from = from.chunks(self.channels * window.step);
                    for (to, from) in inside.chunks_exact_mut(channels.len()).zip(from) {
                        to.copy_from_slice(&from[channels.clone()]);
                    }
                }
                Some(Activation { scale, shift }) => {
                    let from = &from[channels.start..];
                    let (scale, shift) = (&scale[channels.clone()], &shift[channels]);
                    let step = self.channels * window.step;
                    cpu.instruction_set().dispatch(Activate { from, step, scale, shift, to: inside });
                }
            }
        }
    }
}

/// Activates pixels that start `step` elements apart.
struct Activate<'a> {
    from: &'a [f32],
    step: usize,
    scale: &'a [f32],
    shift: &'a [f32],
    to: &'a mut [f32],
}

impl Algorithm for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { from, step, scale, shift, to } = self;
        let channels = scale.len();
        for (to, from) in to.chunks_exact_mut(channels).zip(from.chunks(step)) {
            let from = &from[..channels];
            for channel in (0..channels).step_by(LANES) {
                let lanes = LANES.min(channels - channel);
                let at = |slice: &[f32]| slice[channel..channel + lanes].as_ptr();
                let (from, scale, shift) = (at(from), at(scale), at(shift));
                let to = to[channel..channel + lanes].as_mut_ptr();
                // SAFETY: `lanes` elements each; sixteen of them in the first case, fewer in the second.
                unsafe {
                    if lanes == LANES {
                        let value = V::load(from).mul_add(V::load(scale), V::load(shift));
                        value.relu().store(to);
                    } else {
                        let (scale, shift) = (V::load_partial(scale, lanes), V::load_partial(shift, lanes));
                        let value = V::load_partial(from, lanes).mul_add(scale, shift);
                        value.relu().store_partial(to, lanes);
                    }
                }
            }
        }
    }
}
