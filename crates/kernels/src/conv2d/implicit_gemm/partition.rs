//! How the work is cut: by the shape alone, so that results do not depend on threads.

use std::ops::Range;

use crate::uninit::Uninit;

/// Output pixels (of each phase) that a task convolves: enough to reuse the weights it reads, few enough for
/// the cache.
const PIXELS: usize = 128;

/// Tasks to share out, at least, where there is work for as many.
pub(super) const TASKS: usize = 8;

/// Some neighboring lines of an image.
pub(in crate::conv2d) struct Band {
    pub image: usize,
    pub first: usize,
    pub lines: usize,
    /// Where it starts in the batch, in elements.
    pub start: usize,
}

/// Cuts images of `height` lines of `width` pixels of `channels` into bands of equal height: a multiple of
/// `stride` lines where that can be.
pub(in crate::conv2d) fn bands(
    images: &mut Uninit,
    (height, width, channels): (usize, usize, usize),
    stride: usize,
) -> Vec<(Band, &mut Uninit)> {
    let line = width * channels;
    let batch = images.len() / (height * line);
    let pixels = height.div_ceil(stride) * width.div_ceil(stride);
    let count = pixels.div_ceil(PIXELS).max(TASKS.div_ceil(batch.max(1))).min(height);
    let lines = height.div_ceil(count).next_multiple_of(stride);
    let mut bands = Vec::with_capacity(batch * count);
    let mut start = 0;
    for (image, pixels) in images.chunks_mut(height * line).enumerate() {
        for (index, pixels) in pixels.chunks_mut(lines * line).enumerate() {
            let band = Band { image, first: index * lines, lines: pixels.len() / line, start };
            start += pixels.len();
            bands.push((band, pixels));
        }
    }
    bands
}

/// Lines and columns of taps, each of so many channels.
#[derive(Clone, Copy)]
pub(super) struct Taps {
    pub lines: usize,
    pub columns: usize,
    pub channels: usize,
}

/// A part of the taps and channels, contiguous in the order of taps by line and column and their channels.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub lines: Range<usize>,
    pub columns: Range<usize>,
    pub channels: Range<usize>,
}

impl Part {
    /// Splits all taps and channels into parts that products sum over at once: short enough for the cache and
    /// for the accuracy of an `f32` sum, long enough to hide loading the sums so far.
    pub fn split(taps: Taps) -> Vec<Self> {
        const LEN: usize = 512;
        // As many lines as go; if none goes whole, as many of its columns; if none goes whole, of its
        // channels.
        let lines = pieces(taps.lines, LEN / (taps.columns * taps.channels).max(1));
        let mut parts = Vec::new();
        for lines in lines {
            for columns in pieces(taps.columns, LEN / taps.channels.max(1)) {
                for channels in pieces(taps.channels, LEN) {
                    parts.push(Self { lines: lines.clone(), columns: columns.clone(), channels });
                }
            }
        }
        parts
    }

    /// Where the part starts in the order of all.
    pub fn start(&self, taps: Taps) -> usize {
        (self.lines.start * taps.columns + self.columns.start) * taps.channels + self.channels.start
    }

    /// The length of its run in each line.
    pub fn depth(&self) -> usize {
        self.columns.len() * self.channels.len()
    }
}

/// Cuts `total` evenly into pieces of at most `limit`, or of one.
pub(super) fn pieces(total: usize, limit: usize) -> impl Iterator<Item = Range<usize>> {
    let count = total.div_ceil(limit.max(1));
    (0..count).map(move |i| total * i / count..total * (i + 1) / count)
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use super::*;

    #[test]
    fn parts_cover_everything_once_and_in_order() {
        for (lines, columns, channels) in [
            (1, 1, 1),
            (1, 1, 16),
            (3, 3, 3),
            (3, 3, 32),
            (3, 3, 64),
            (3, 3, 160),
            (2, 2, 640),
            (3, 3, 1000),
            (5, 5, 17),
        ] {
            let taps = Taps { lines, columns, channels };
            let mut next = 0;
            for part in Part::split(taps) {
                assert_eq!(part.start(taps), next);
                // Contiguous in the order of all.
                assert!(part.channels.len() == channels || (part.columns.len(), part.lines.len()) == (1, 1));
                assert!(part.columns.len() == columns || part.lines.len() == 1);
                let len = part.lines.len() * part.depth();
                assert!(len <= 512);
                next += len;
            }
            assert_eq!(next, lines * columns * channels);
        }
        assert!(Part::split(Taps { lines: 0, columns: 3, channels: 16 }).is_empty());
        assert!(Part::split(Taps { lines: 2, columns: 0, channels: 16 }).is_empty());
    }

    #[test]
    fn bands_cover_every_line_once() {
        for (batch, height, width, stride) in
            [(0, 4, 4, 1), (1, 1, 1, 2), (1, 33, 5, 2), (8, 16, 16, 2), (128, 32, 32, 1)]
        {
            let mut images = vec![MaybeUninit::uninit(); batch * height * width * 3];
            let mut next = 0;
            for (band, pixels) in bands(&mut images, (height, width, 3), stride) {
                assert_eq!((band.start, pixels.len()), (next, band.lines * width * 3));
                assert_eq!(band.start, (band.image * height + band.first) * width * 3);
                assert!(band.lines > 0 && band.first.is_multiple_of(stride));
                next += pixels.len();
            }
            assert_eq!(next, images.len());
        }
    }
}
