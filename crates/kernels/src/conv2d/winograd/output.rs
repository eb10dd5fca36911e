//! What transforms write: tensors tile by tile, with what is added to them.

use std::marker::PhantomData;
use std::ops::Range;

use super::tiles::{Tiles, Window};
use super::transform::{Frequencies, OutputTransform, Target, two_dimensional};
use super::{FrequencyLayout, TILE, TaskPointer, is_streamed};
use crate::simd::{F32x16, LANES, fence};
use crate::uninit::Uninit;

/// A tensor that is written tile by tile.
pub(super) struct OutputTiles<'a> {
    pub tiles: Tiles,
    pub channels: usize,
    add: Option<&'a [f32]>,
    data: TaskPointer,
    /// Whole tiles are written around the caches; see [`is_streamed`].
    streamed: bool,
    /// The output is borrowed as long as this lives.
    borrow: PhantomData<&'a mut Uninit>,
}

impl<'a> OutputTiles<'a> {
    pub fn new(tiles: Tiles, channels: usize, add: Option<&'a [f32]>, data: &'a mut Uninit) -> Self {
        assert_eq!(data.len(), tiles.pixels() * channels);
        assert!(add.is_none_or(|add| add.len() == data.len()));
        let streamed = is_streamed(data, channels);
        let data = TaskPointer(data.as_mut_ptr().cast());
        Self { tiles, channels, add, data, streamed, borrow: PhantomData }
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
        layout: FrequencyLayout,
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

    /// As [`InputTiles::prefetch`], for what is added to the output.
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

/// The pixels of a tile; what lies outside the image is dropped. Made by [`OutputTiles::transform`] only, whose caller
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
