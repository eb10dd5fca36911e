//! Images cut into tiles.

use std::ops::Range;

use super::{Conv2dShape, FREQUENCIES, TILE};
use crate::simd::{LANES, prefetch};

/// The tiles of a batch of images, counted image by image and row by row. Those at the right and bottom edge
/// may reach beyond the image.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub count: usize,
    height: usize,
    width: usize,
    down: usize,
    across: usize,
}

impl Tiles {
    pub fn new(shape: &Conv2dShape) -> Self {
        let (height, width) = (shape.height, shape.width);
        let (down, across) = (height.div_ceil(TILE), width.div_ceil(TILE));
        Self { count: shape.batch * down * across, height, width, down, across }
    }

    pub fn pixels(&self) -> usize {
        if self.count == 0 { 0 } else { self.count / (self.down * self.across) * self.height * self.width }
    }

    /// Hints that the pixels of some tiles, of a tensor at `data`, are read soon: one of 36 shares of them,
    /// to be called while each frequency's product runs, when memory has nothing else to do.
    #[inline(always)]
    pub fn prefetch(&self, tiles: Range<usize>, share: usize, data: *const f32, channels: usize) {
        // In rows of a tile, with the row below it that its patch sees.
        const ROWS: usize = TILE + 1;
        let rows = tiles.len() * ROWS;
        for row in rows * share / FREQUENCIES..rows * (share + 1) / FREQUENCIES {
            let window = self.window::<TILE>(tiles.start + row / ROWS, 0);
            let start = data.wrapping_add((window.first + row % ROWS * self.width) * channels);
            for line in (0..TILE * channels).step_by(LANES) {
                prefetch(start.wrapping_add(line));
            }
        }
    }

    /// The square of `SIDE` pixels that begins `margin` before the first pixel of a tile in both directions.
    #[inline(always)]
    pub fn window<const SIDE: usize>(&self, tile: usize, margin: usize) -> Window {
        let (rest, across) = (tile / self.across, tile % self.across);
        let (image, down) = (rest / self.down, rest % self.down);
        let (row, column) = (down * TILE, across * TILE);
        let inside =
            |first: usize, size: usize| margin.saturating_sub(first)..SIDE.min(size + margin - first);
        Window {
            first: ((image * self.height + row) * self.width + column)
                .wrapping_sub(margin * (self.width + 1)),
            width: self.width,
            rows: inside(row, self.height),
            columns: inside(column, self.width),
        }
    }
}

/// A square of pixels, some of which may lie outside the image.
pub(super) struct Window {
    /// The pixel index of the window's first, which may wrap below zero.
    pub first: usize,
    pub width: usize,
    /// The rows and columns inside the image.
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Window {
    #[inline(always)]
    pub fn is_whole<const SIDE: usize>(&self) -> bool {
        self.rows == (0..SIDE) && self.columns == (0..SIDE)
    }

    #[inline(always)]
    pub fn contains(&self, row: usize, column: usize) -> bool {
        self.rows.contains(&row) && self.columns.contains(&column)
    }
}
