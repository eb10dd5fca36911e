//! Winograd's minimal filtering for 3x3 kernels, stride 1, padding 1.
//!
//! # The idea, in one dimension
//!
//! Four outputs of a three-tap filter, `y[i] = x[i] g[0] + x[i+1] g[1] + x[i+2] g[2]`, cost twelve
//! multiplications. Seen as polynomials, the taps `g` (degree 2) and the outputs' weights `y` (degree 3)
//! multiply to a polynomial of degree 5, which six values determine. So the product may be taken value by
//! value at six points, six multiplications, and the filter is that product's transpose:
//!
//! ```text
//! y = A^T [ (G g) * (B^T x) ]        A^T: 4 x 6,  G: 6 x 3,  B^T: 6 x 6,  * elementwise
//! ```
//!
//! `G` evaluates the taps at the points (scaled), `A` evaluates a polynomial of degree 3 there, and `B`
//! interpolates. In two dimensions the same holds along rows and columns: a tile of 4 x 4 outputs comes from
//! a patch of 6 x 6 inputs by 36 multiplications instead of 144,
//!
//! ```text
//! y = A^T [ (G g G^T) * (B^T x B) ] A
//! ```
//!
//! With channels the elementwise products become sums over input channels: for each of the 36 positions
//! ("frequencies") a matrix product `M[tile, out] = sum over in of V[tile, in] U[in, out]`, with
//! `V = B^T x B` and `U = G g G^T`. The transforms are cheap where there are many channels, since each is
//! done once for every channel and used with all channels of the other side.
//!
//! # The three products
//!
//! - forward: as above;
//! - gradient with respect to the input: the same with `dy` for `x` and the weight turned by 180 degrees, its
//!   channels exchanged;
//! - gradient with respect to the weight: `y` is linear in `g`, so
//!   `dg = G^T [ (B^T x B) * (A dy A^T) ] G`, summed over tiles: for each frequency
//!   `dU[in, out] = sum over tiles of V[tile, in] Z[tile, out]` with `Z = A dy A^T`.
//!
//! # The points
//!
//! Rounding errors depend much on the points. The usual 0, 1, -1, 2, -2 and infinity make powers up to 8 and
//! denominators of 24; here they are 0, `a`, `-a`, `b`, `-b` and infinity with `a = 1/sqrt(2)` and
//! `b = sqrt(2)`, whose powers stay near one (`a b = 1`). That is four times as accurate at the same cost:
//! about 2e-6 of the largest output. The matrices, by the general formulas for such points:
//!
//! ```text
//!       | 1   0  -5/2   0   1  0 |          |   1      0      0   |
//!       | 0  -2a  -2    a   1  0 |          | -2/3  -2a/3   -1/3  |          | 1  1    1    1    1   0 |
//! B^T = | 0   2a  -2   -a   1  0 |      G = | -2/3   2a/3   -1/3  |    A^T = | 0  a   -a    b   -b   0 |
//!       | 0 -b/2 -1/2   b   1  0 |          |  1/6    b/6    1/3  |          | 0 1/2  1/2   2    2   0 |
//!       | 0  b/2 -1/2  -b   1  0 |          |  1/6   -b/6    1/3  |          | 0 a/2 -a/2  2b  -2b   1 |
//!       | 0   1   0   -5/2  0  1 |          |   0      0      1   |
//! ```
//!
//! # In memory
//!
//! Everything transformed lies as `[36][channels / 16][row][16]` ([`FrequencyLayout`]), a row being a tile or a
//! channel of the other side. The 36 values of a patch go to 36 places a constant distance apart; one cache
//! line of padding per frequency keeps these from falling into one set of the cache. The matrix products read
//! this order as it is (see [`microkernel`](crate::microkernel)): broadcasts run along a row's sixteen lanes,
//! vectors are whole rows.
//!
//! Andrew Lavin and Scott Gray, Fast Algorithms for Convolutional Neural Networks (2015), arXiv 1509.09308.

mod backward_weight;
mod convolve;
mod input;
mod output;
mod product;
#[cfg(test)]
mod tests;
mod tiles;
mod transform;
mod weight;

use std::mem::MaybeUninit;
use std::ops::Range;

pub(super) use convolve::Convolution;
use product::Matrix;

use super::{Activation, Conv2dShape};
use crate::Cpu;
use crate::simd::LANES;
use crate::uninit::Uninit;

/// Rows and columns of outputs in a tile.
const TILE: usize = 4;
/// Rows and columns of inputs that a tile's outputs see; also of the transformed tile.
const PATCH: usize = TILE + 2;
/// Positions of a transformed tile: independent matrix products.
const FREQUENCIES: usize = PATCH * PATCH;

/// `dw`; see [`conv2d::backward_weight`](super::backward_weight).
pub(super) fn backward_weight(
    cpu: &Cpu,
    shape: &Conv2dShape,
    x: &[f32],
    activation: Option<Activation>,
    dy: &[f32],
    dw: &mut Uninit,
) {
    let tiles = tiles::Tiles::new(shape);
    if tiles.count == 0 {
        dw.fill(MaybeUninit::new(0.0));
        return;
    }
    let input = input::InputTiles::new(tiles, shape.in_channels, x, activation);
    let gradient = input::InputTiles::new(tiles, shape.out_channels, dy, None);
    let dw = weight::WeightGradient::new(shape, dw);
    backward_weight::backward_weight(cpu, &input, &gradient, &dw);
}

/// The order of transformed data: `[36][blocks][rows][16]`, with a cache line between frequencies.
#[derive(Clone, Copy)]
struct FrequencyLayout {
    /// Blocks of sixteen channels.
    blocks: usize,
    /// Tiles, or channels of the other side.
    rows: usize,
}

impl FrequencyLayout {
    /// Elements from one block to the next.
    fn block(self) -> usize {
        self.rows * LANES
    }

    /// Elements from one frequency to the next.
    fn frequency(self) -> usize {
        self.blocks * self.block() + LANES
    }

    /// Elements of the whole.
    fn len(self) -> usize {
        FREQUENCIES * self.frequency()
    }

    /// The place of a row's sixteen lanes within a frequency.
    fn at(self, block: usize, row: usize) -> usize {
        block * self.block() + row * LANES
    }

    /// One frequency of a tensor at `start`, from a block of columns and a row on.
    ///
    /// # Safety
    /// These lie within the memory at `start`.
    #[inline(always)]
    unsafe fn matrix(
        self,
        start: *const f32,
        frequency: usize,
        block: usize,
        row: usize,
    ) -> Matrix<*const f32> {
        // SAFETY: the caller's promise.
        let start = unsafe { start.add(frequency * self.frequency() + self.at(block, row)) };
        Matrix { start, stride: self.block() }
    }

    /// As [`Self::matrix`], to be written.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn matrix_mut(
        self,
        start: *mut f32,
        frequency: usize,
        block: usize,
        row: usize,
    ) -> Matrix<*mut f32> {
        // SAFETY: the caller's promise.
        let start = unsafe { start.add(frequency * self.frequency() + self.at(block, row)) };
        Matrix { start, stride: self.block() }
    }
}

/// Blocks of channels in groups of `size`, shared out to panels of whole groups.
#[derive(Clone, Copy)]
struct Panels {
    blocks: usize,
    size: usize,
    count: usize,
}

impl Panels {
    /// Panels of at most `most` blocks, of which each of `threads` threads gets as many.
    fn new(blocks: usize, size: usize, most: usize, threads: usize) -> Self {
        let groups = blocks.div_ceil(size);
        let count = groups.div_ceil(most / size).next_multiple_of(threads).min(groups);
        Self { blocks, size, count }
    }

    /// The blocks of one panel.
    fn blocks(self, panel: usize) -> Range<usize> {
        let first =
            |panel: usize| self.blocks.min(panel * self.blocks.div_ceil(self.size) / self.count * self.size);
        first(panel)..first(panel + 1)
    }
}

/// Whether a result is written around the caches: where it is so large that it would not stay there until it
/// is read, reading its old contents into the cache first would cost as much as the write. That takes whole
/// cache lines.
fn is_streamed(data: &Uninit, channels: usize) -> bool {
    const LEN: usize = 1 << 20;
    data.len() >= LEN && data.as_ptr().addr().is_multiple_of(64) && channels.is_multiple_of(LANES)
}

/// A pointer that tasks share; each writes places that no other task touches.
#[derive(Clone, Copy)]
struct TaskPointer(*mut f32);

// SAFETY: only the tasks of one parallel section use it, at disjoint places while any of them writes, and
// while the memory is mutably borrowed by the section's caller.
unsafe impl Send for TaskPointer {}
// SAFETY: as above.
unsafe impl Sync for TaskPointer {}

impl TaskPointer {
    /// The memory from element `offset` on.
    ///
    /// # Safety
    /// `offset` is at most the memory's length.
    #[inline(always)]
    unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}
