//! Images cut into tiles: what transforms read of an input and write of an output.

use std::marker::PhantomData;
use std::ops::Range;

use super::transform::{
    Frequencies, GradientTransform, InputTransform, OutputTransform, Source, Target, Transform,
    two_dimensional,
};
use super::{Activation, Conv2dShape, FREQUENCIES, Layout, PATCH, Shared, TILE, is_streamed};
use crate::simd::{F32x16, LANES, UncheckedAlgorithm, fence, prefetch};

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

    /// Hints that the pixels of some tiles, of a tensor at `data`, are read soon: one of 36 shares of them,
    /// to be called while each frequency's product runs, when memory has nothing else to do.
    #[inline(always)]
    fn prefetch(&self, tiles: Range<usize>, share: usize, data: *const f32, channels: usize) {
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
    fn window<const SIDE: usize>(&self, tile: usize, margin: usize) -> Window {
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

    /// Writes `B^T x B` of each tile's patch, for all blocks of channels, to consecutive rows.
    ///
    /// # Safety
    /// The tiles are the tensor's. `to` is the first of these rows in memory of this layout, which nobody else reads or
    /// writes meanwhile.
    #[inline(always)]
    pub unsafe fn transform_patches<V: F32x16>(&self, tiles: Range<usize>, to: *mut f32, layout: Layout) {
        for (row, tile) in tiles.clone().enumerate() {
            let window = self.tiles.window::<PATCH>(tile, 1);
            for block in 0..layout.blocks {
                // SAFETY: 36 places and a tile of the caller's promise; `lanes` of the activation's elements, of which
                // there are as many as channels.
                unsafe {
                    let to = Frequencies::new(to.add(layout.at(block, row)), layout.frequency());
                    match self.activation {
                        None => self.transform::<V, _, PATCH>(InputTransform, &window, block, None, to),
                        Some(Activation { scale, shift }) => {
                            let lanes = LANES.min(self.channels - block * LANES);
                            let scale = V::load_partial(scale.as_ptr().add(block * LANES), lanes);
                            let shift = V::load_partial(shift.as_ptr().add(block * LANES), lanes);
                            self.transform(InputTransform, &window, block, Some((scale, shift)), to);
                        }
                    }
                }
            }
        }
    }

    /// Writes `A dy A^T` of each tile, for some blocks of channels, to consecutive rows.
    ///
    /// # Safety
    /// The tiles are the tensor's. `to` is the first of these rows in memory of this layout, which nobody else reads or
    /// writes meanwhile.
    #[inline(always)]
    pub unsafe fn transform_gradients<V: F32x16>(
        &self,
        tiles: Range<usize>,
        blocks: Range<usize>,
        to: *mut f32,
        layout: Layout,
    ) {
        for (row, tile) in tiles.clone().enumerate() {
            let window = self.tiles.window::<TILE>(tile, 0);
            for (column, block) in blocks.clone().enumerate() {
                // SAFETY: 36 places and a tile of the caller's promise.
                unsafe {
                    let to = Frequencies::new(to.add(layout.at(column, row)), layout.frequency());
                    self.transform::<V, _, TILE>(GradientTransform, &window, block, None, to);
                }
            }
        }
    }

    /// See [`Tiles::prefetch`].
    #[inline(always)]
    pub fn prefetch(&self, tiles: Range<usize>, share: usize) {
        self.tiles.prefetch(tiles, share, self.data.as_ptr(), self.channels);
    }

    /// Transforms one window and one block of channels.
    ///
    /// # Safety
    /// The window is that of one of the tensor's tiles.
    #[inline(always)]
    unsafe fn transform<V: F32x16, T: Transform<SIDE, PATCH>, const SIDE: usize>(
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

/// [`Input::transform_patches`] as a task of its own.
///
/// # Safety
/// As there.
pub(super) struct TransformInput<'a> {
    pub input: &'a Input<'a>,
    pub tiles: Range<usize>,
    /// The row of the first tile.
    pub to: *mut f32,
    pub layout: Layout,
}

impl UncheckedAlgorithm for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) {
        // SAFETY: the caller's promise.
        unsafe { self.input.transform_patches::<V>(self.tiles, self.to, self.layout) }
    }
}

/// The activated pixels of a window, zero outside the image. Made by [`Input::transform`] only, whose caller promises
/// that the window is a tile's.
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
            Some((scale, shift)) => x.mul_add(scale, shift).relu().zero_unless(inside),
        }
    }
}

/// A tensor that is written tile by tile.
pub(super) struct Output<'a> {
    pub tiles: Tiles,
    pub channels: usize,
    add: Option<&'a [f32]>,
    data: Shared,
    /// Whole tiles are written around the caches; see [`is_streamed`].
    streamed: bool,
    /// The output is borrowed as long as this lives.
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> Output<'a> {
    pub fn new(tiles: Tiles, channels: usize, add: Option<&'a [f32]>, data: &'a mut [f32]) -> Self {
        assert_eq!(data.len(), tiles.pixels() * channels);
        assert!(add.is_none_or(|add| add.len() == data.len()));
        let streamed = is_streamed(data, channels);
        Self { tiles, channels, add, data: Shared(data.as_mut_ptr()), streamed, borrow: PhantomData }
    }

    /// Blocks of sixteen channels.
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Writes `A^T m A` (plus `add`) to tiles, for some blocks of channels, where `m` lies in consecutive
    /// rows.
    ///
    /// # Safety
    /// The tiles and blocks are the tensor's. `from` is the first of these rows in memory of this layout, and no other
    /// thread reads or writes these tiles and channels of the output meanwhile.
    #[inline(always)]
    pub unsafe fn transform_tiles<V: F32x16>(
        &self,
        tiles: Range<usize>,
        blocks: Range<usize>,
        from: *const f32,
        layout: Layout,
    ) {
        for (row, tile) in tiles.enumerate() {
            let window = self.tiles.window::<TILE>(tile, 0);
            for (column, block) in blocks.clone().enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    let from = Frequencies::new(from.add(layout.at(column, row)), layout.frequency());
                    self.transform::<V>(&window, block, from);
                }
            }
        }
    }

    /// One tile and one block of channels.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn transform<V: F32x16>(&self, window: &Window, block: usize, from: Frequencies<*const f32>) {
        let lanes = LANES.min(self.channels - block * LANES);
        let offset = window.first * self.channels + block * LANES;
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
            streamed: self.streamed,
        };
        // Constants where they matter, so that each case gets its own straight code.
        if lanes < LANES || !window.is_whole::<TILE>() {
            two_dimensional::<V, _, _, _>(OutputTransform, &from, &mut Destination { streamed: false, ..to });
            return;
        }
        let to = Destination { whole: true, lanes: LANES, ..to };
        match (to.add, self.streamed) {
            (None, false) => {
                let mut to = Destination { add: None, streamed: false, ..to };
                two_dimensional::<V, _, _, _>(OutputTransform, &from, &mut to);
            }
            (None, true) => {
                let mut to = Destination { add: None, streamed: true, ..to };
                two_dimensional::<V, _, _, _>(OutputTransform, &from, &mut to);
            }
            (Some(add), false) => {
                let mut to = Destination { add: Some(add), streamed: false, ..to };
                two_dimensional::<V, _, _, _>(OutputTransform, &from, &mut to);
            }
            (Some(add), true) => {
                let mut to = Destination { add: Some(add), streamed: true, ..to };
                two_dimensional::<V, _, _, _>(OutputTransform, &from, &mut to);
            }
        }
    }

    /// As [`Input::prefetch`], for what is added to the output.
    #[inline(always)]
    pub fn prefetch(&self, tiles: Range<usize>, share: usize) {
        if let Some(add) = self.add {
            self.tiles.prefetch(tiles, share, add.as_ptr(), self.channels);
        }
    }

    /// Makes what this thread wrote visible to those that it tells so.
    #[inline(always)]
    pub fn finish(&self) {
        if self.streamed {
            fence();
        }
    }
}

/// The pixels of a tile; what lies outside the image is dropped. Made by [`Output::transform`] only, whose caller
/// promises that they may be written.
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
    streamed: bool,
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
            match full {
                true if self.streamed => sum.store_streaming(to),
                true => sum.store(to),
                false => sum.store_partial(to, lanes),
            }
        }
    }
}
