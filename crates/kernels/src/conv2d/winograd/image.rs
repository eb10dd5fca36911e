//! Images cut into tiles: what transforms read of an input and write of an output.

use std::marker::PhantomData;
use std::ops::Range;

use super::transform::{
    Frequencies, GradientTransform, InputTransform, OutputTransform, Source, Target, Transform, two_dimensional,
};
use super::{Activation, Conv2dShape, PATCH, Shared, TILE};
use crate::simd::{F32x16, LANES, prefetch};

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

    fn pixels(&self) -> usize {
        if self.count == 0 { 0 } else { self.count / (self.down * self.across) * self.height * self.width }
    }

    /// The square of `SIDE` pixels that begins `margin` before the first pixel of a tile in both directions.
    #[inline(always)]
    fn window<const SIDE: usize>(&self, tile: usize, margin: usize) -> Window {
        let (rest, across) = (tile / self.across, tile % self.across);
        let (image, down) = (rest / self.down, rest % self.down);
        let (row, column) = (down * TILE, across * TILE);
        let inside = |first: usize, size: usize| margin.saturating_sub(first)..SIDE.min(size + margin - first);
        Window {
            first: ((image * self.height + row) * self.width + column).wrapping_sub(margin * (self.width + 1)),
            width: self.width,
            rows: inside(row, self.height),
            columns: inside(column, self.width),
        }
    }
}

/// A square of pixels, some of which may lie outside the image.
struct Window {
    /// The pixel index of the window's first, which may wrap below zero.
    first: usize,
    width: usize,
    /// The rows and columns inside the image.
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Window {
    #[inline(always)]
    fn is_whole<const SIDE: usize>(&self) -> bool {
        self.rows == (0..SIDE) && self.columns == (0..SIDE)
    }

    #[inline(always)]
    fn contains(&self, row: usize, column: usize) -> bool {
        self.rows.contains(&row) && self.columns.contains(&column)
    }
}

/// A tensor that is read tile by tile.
pub(super) struct Input<'a> {
    pub tiles: Tiles,
    pub channels: usize,
    data: &'a [f32],
    activation: Option<Activation<'a>>,
}

impl<'a> Input<'a> {
    pub fn new(tiles: Tiles, channels: usize, data: &'a [f32], activation: Option<Activation<'a>>) -> Self {
        assert_eq!(data.len(), tiles.pixels() * channels);
        if let Some(Activation { scale, shift }) = activation {
            assert_eq!((scale.len(), shift.len()), (channels, channels));
        }
        Self { tiles, channels, data, activation }
    }

    /// Blocks of sixteen channels.
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Writes `B^T x B` of one tile's patch and one block of channels, frequency by frequency, to `to`,
    /// `stride` elements apart.
    ///
    /// # Safety
    /// `to` is valid for writes of sixteen elements at each of the 36 places.
    #[inline(always)]
    pub unsafe fn transform_patch<V: F32x16>(&self, tile: usize, block: usize, to: *mut f32, stride: usize, ahead: usize) {
        let window = self.tiles.window::<PATCH>(tile, 1);
        // SAFETY: the caller's promise.
        let to = unsafe { Frequencies::new(to, stride, ahead) };
        match self.activation {
            None => self.transform::<V, _, PATCH>(InputTransform, &window, block, None, to),
            Some(Activation { scale, shift }) => {
                let lanes = LANES.min(self.channels - block * LANES);
                // SAFETY: `lanes` of the `channels` elements from the block's first on.
                let activation: (V, V) = unsafe {
                    let load = block * LANES;
                    (V::load_partial(scale.as_ptr().add(load), lanes), V::load_partial(shift.as_ptr().add(load), lanes))
                };
                self.transform(InputTransform, &window, block, Some(activation), to);
            }
        }
    }

    /// Writes `A dy A^T` of one tile and one block of channels, frequency by frequency, to `to`, `stride`
    /// elements apart.
    ///
    /// # Safety
    /// `to` is valid for writes of sixteen elements at each of the 36 places.
    #[inline(always)]
    pub unsafe fn transform_gradient<V: F32x16>(&self, tile: usize, block: usize, to: *mut f32, stride: usize, ahead: usize) {
        let window = self.tiles.window::<TILE>(tile, 0);
        // SAFETY: the caller's promise.
        let to = unsafe { Frequencies::new(to, stride, ahead) };
        self.transform::<V, _, TILE>(GradientTransform, &window, block, None, to);
    }

    /// Hints that a tile's pixels are read soon. There need not be such a tile.
    #[inline(always)]
    pub fn prefetch(&self, tile: usize, block: usize) {
        let window = self.tiles.window::<TILE>(tile, 0);
        let start = self.data.as_ptr().wrapping_add(window.first.wrapping_mul(self.channels) + block * LANES);
        for row in 0..TILE {
            for column in 0..TILE {
                prefetch(start.wrapping_add((row * window.width + column) * self.channels));
            }
        }
    }

    /// Transforms one window and one block of channels.
    #[inline(always)]
    fn transform<V: F32x16, T: Transform<SIDE, PATCH>, const SIDE: usize>(
        &self,
        transform: T,
        window: &Window,
        block: usize,
        activation: Option<(V, V)>,
        mut to: Frequencies<*mut f32>,
    ) {
        let lanes = LANES.min(self.channels - block * LANES);
        let pixels = Pixels {
            start: self.data.as_ptr().wrapping_add(window.first.wrapping_mul(self.channels) + block * LANES),
            row: window.width * self.channels,
            column: self.channels,
            window,
            activation,
            whole: false,
            lanes,
        };
        // Constants where they matter, so that each case gets its own straight code.
        if lanes < LANES {
            two_dimensional(transform, &pixels, &mut to);
        } else if window.is_whole::<SIDE>() {
            two_dimensional(transform, &Pixels { whole: true, lanes: LANES, ..pixels }, &mut to);
        } else {
            two_dimensional(transform, &Pixels { lanes: LANES, ..pixels }, &mut to);
        }
    }
}

/// The activated pixels of a window, zero outside the image.
struct Pixels<'a, V> {
    /// The window's first pixel, which may lie outside the image.
    start: *const f32,
    /// Elements from one row, and one column, to the next.
    row: usize,
    column: usize,
    window: &'a Window,
    activation: Option<(V, V)>,
    /// All of the window is inside the image.
    whole: bool,
    lanes: usize,
}

impl<V: F32x16> Source<V> for Pixels<'_, V> {
    #[inline(always)]
    fn get(&self, row: usize, column: usize) -> V {
        let inside = self.whole || self.window.rows.contains(&row);
        if !self.whole && !self.window.columns.contains(&column) {
            return V::zero();
        }
        let place = self.start.wrapping_add(row * self.row + column * self.column);
        // SAFETY: `lanes` channels of a pixel inside the image.
        let x = unsafe {
            match self.lanes {
                LANES if self.whole => V::load(place),
                LANES => V::load_if(inside, place),
                lanes if inside => V::load_partial(place, lanes),
                _ => V::zero(),
            }
        };
        match self.activation {
            None => x,
            Some((scale, shift)) => x.mul_add(scale, shift).max(V::zero()).zero_unless(inside),
        }
    }
}

/// A tensor that is written tile by tile.
pub(super) struct Output<'a> {
    pub tiles: Tiles,
    pub channels: usize,
    add: Option<&'a [f32]>,
    data: Shared,
    /// The output is borrowed as long as this lives.
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> Output<'a> {
    pub fn new(tiles: Tiles, channels: usize, add: Option<&'a [f32]>, data: &'a mut [f32]) -> Self {
        assert_eq!(data.len(), tiles.pixels() * channels);
        assert!(add.is_none_or(|add| add.len() == data.len()));
        Self { tiles, channels, add, data: Shared(data.as_mut_ptr()), borrow: PhantomData }
    }

    /// Blocks of sixteen channels.
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Writes `A^T m A` (plus `add`) to one tile and one block of channels, where `m` lies frequency by
    /// frequency at `from`, `stride` elements apart.
    ///
    /// # Safety
    /// `from` is valid for reads of sixteen elements at each of the 36 places, and no other thread writes or
    /// reads this tile and block of the output at the same time.
    #[inline(always)]
    pub unsafe fn transform<V: F32x16>(&self, tile: usize, block: usize, from: *const f32, stride: usize) {
        let window = &self.tiles.window::<TILE>(tile, 0);
        let lanes = LANES.min(self.channels - block * LANES);
        let offset = window.first * self.channels + block * LANES;
        // SAFETY: the caller's promise.
        let from = unsafe { Frequencies::new(from, stride, 0) };
        let to = Destination {
            // SAFETY: the window's first pixel is inside the image.
            start: unsafe { self.data.at(offset) },
            // SAFETY: `add` has the output's length.
            add: self.add.map(|add| unsafe { add.as_ptr().add(offset) }),
            row: window.width * self.channels,
            column: self.channels,
            window,
            whole: false,
            lanes,
        };
        // Constants where they matter, so that each case gets its own straight code.
        if lanes < LANES || !window.is_whole::<TILE>() {
            two_dimensional::<V, _, _, _>(OutputTransform, &from, &mut { to });
        } else if to.add.is_some() {
            two_dimensional::<V, _, _, _>(OutputTransform, &from, &mut Destination { whole: true, lanes: LANES, ..to });
        } else {
            let mut to = Destination { whole: true, lanes: LANES, add: None, ..to };
            two_dimensional::<V, _, _, _>(OutputTransform, &from, &mut to);
        }
    }
}

/// The pixels of a tile; what lies outside the image is dropped.
struct Destination<'a> {
    start: *mut f32,
    add: Option<*const f32>,
    /// Elements from one row, and one column, to the next.
    row: usize,
    column: usize,
    window: &'a Window,
    /// All of the tile is inside the image.
    whole: bool,
    lanes: usize,
}

impl<V: F32x16> Target<V> for Destination<'_> {
    #[inline(always)]
    fn put(&mut self, row: usize, column: usize, value: V) {
        if !self.whole && !self.window.contains(row, column) {
            return;
        }
        let offset = row * self.row + column * self.column;
        let (full, lanes) = (self.lanes == LANES, self.lanes);
        // SAFETY: `lanes` channels of a pixel inside the image.
        unsafe {
            let sum = match self.add {
                Some(add) if full => value + V::load(add.add(offset)),
                Some(add) => value + V::load_partial(add.add(offset), lanes),
                None => value,
            };
            let to = self.start.add(offset);
            if self.whole { sum.store_streaming(to) } else if full { sum.store(to) } else { sum.store_partial(to, lanes) }
        }
    }
}
