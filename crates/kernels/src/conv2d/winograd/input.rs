//! What transforms read: tensors tile by tile, activated on the way.

use std::ops::Range;

use super::tiles::{Tiles, Window};
use super::transform::{Frequencies, GradientTransform, InputTransform, Source, Transform, two_dimensional};
use super::{Activation, FrequencyLayout, PATCH, TILE};
use crate::simd::{F32x16, LANES, UncheckedAlgorithm};

/// A tensor that is read tile by tile.
pub(super) struct InputTiles<'a> {
    pub tiles: Tiles,
    pub channels: usize,
    data: &'a [f32],
    activation: Option<Activation<'a>>,
}

impl<'a> InputTiles<'a> {
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
    pub unsafe fn transform_patches<V: F32x16>(
        &self,
        tiles: Range<usize>,
        to: *mut f32,
        layout: FrequencyLayout,
    ) {
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
        layout: FrequencyLayout,
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

/// [`InputTiles::transform_patches`] as a task of its own.
///
/// # Safety
/// As there.
pub(super) struct TransformInput<'a> {
    pub input: &'a InputTiles<'a>,
    pub tiles: Range<usize>,
    /// The row of the first tile.
    pub to: *mut f32,
    pub layout: FrequencyLayout,
}

impl UncheckedAlgorithm for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) {
        // SAFETY: the caller's promise.
        unsafe { self.input.transform_patches::<V>(self.tiles, self.to, self.layout) }
    }
}

/// The activated pixels of a window, zero outside the image. Made by [`InputTiles::transform`] only, whose caller promises
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
