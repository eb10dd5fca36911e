//! Products of matrix blocks in cache, wherever their operands lie.

use crate::InstructionSet;
use crate::microkernel::{Operand, Sums, multiply_add};
use crate::simd::{Algorithm, F32x16, LANES};

/// `to[i][j] = base[i][j] + sum over k of a[i][k] * b[k][j]`.
///
/// The sum over `k` runs over `segments` runs of `depth` steps: those of `a` lie `segment` elements apart,
/// those of `b` follow each other.
pub(crate) struct Product<'a> {
    pub a: Operand,
    /// `b.stride` leads from one vector of sixteen columns to the next.
    pub b: Operand,
    pub depth: usize,
    pub segments: usize,
    pub segment: usize,
    /// Where each row of the result starts, in elements from `to` and `base`.
    pub rows: &'a [usize],
    pub columns: usize,
    /// What the product is added to; nothing if absent. May be `to`.
    pub base: Option<*const f32>,
    pub to: *mut f32,
}

impl Product<'_> {
    /// Computes the product.
    ///
    /// # Safety
    /// - `a` is readable at every row and step of every segment, `b` at every step of every segment for
    ///   `columns` rounded up to whole vectors;
    /// - `columns` elements from `to + rows[i]` are writable for every `i`, and as many from `base + rows[i]`
    ///   readable;
    /// - these results overlap neither each other nor `a` nor `b`.
    pub unsafe fn compute(&self, instruction_set: InstructionSet) {
        instruction_set.dispatch(Compute(self));
    }
}

/// Made by [`Product::compute`] alone, whose caller promises what the product needs.
struct Compute<'a>(&'a Product<'a>);

impl Algorithm for Compute<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let vectors = self.0.columns.div_ceil(LANES);
        let mut first = 0;
        // SAFETY: the promise to `compute`, and `first + COLUMNS <= vectors`.
        unsafe {
            while V::TILE.1 == 2 && first + 2 <= vectors {
                panel::<V, 2>(self.0, first);
                first += 2;
            }
            while first < vectors {
                panel::<V, 1>(self.0, first);
                first += 1;
            }
        }
    }
}

/// The result's columns of `COLUMNS` vectors from the vector `first` on.
///
/// # Safety
/// As for [`Product::compute`]; `first + COLUMNS` vectors cover at most `columns` rounded up to whole vectors.
#[inline(always)]
unsafe fn panel<V: F32x16, const COLUMNS: usize>(product: &Product, first: usize) {
    let count = product.rows.len();
    // Tiles of equal height rather than full ones and a low last one.
    let tiles = count.div_ceil(V::TILE.0);
    for tile in 0..tiles {
        let (start, end) = (count * tile / tiles, count * (tile + 1) / tiles);
        // An arm beyond the instruction set's tile is never compiled.
        macro_rules! arms {
            ($($rows:literal)*) => {
                match end - start {
                    // SAFETY: the caller's promise, for `$rows` rows from `start` on.
                    $($rows if $rows <= V::TILE.0 => unsafe { block::<V, $rows, COLUMNS>(product, start, first) },)*
                    _ => unreachable!("a tile has at most V::TILE.0 <= 14 rows"),
                }
            };
        }
        arms!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

/// The result's block at row `row` and vector `vector`.
///
/// # Safety
/// As for [`Product::compute`]; `row + ROWS` is at most the number of rows, `vector + COLUMNS` that of vectors.
#[inline(always)]
unsafe fn block<V: F32x16, const ROWS: usize, const COLUMNS: usize>(
    product: &Product,
    row: usize,
    vector: usize,
) {
    let Product { a, b, depth, segments, segment, columns, base, to, .. } = *product;
    let mut sums: Sums<V, ROWS, COLUMNS> = [[V::zero(); COLUMNS]; ROWS];
    // SAFETY: rows `row ..` and vectors `vector ..` of the operands, which the caller promises are readable.
    unsafe {
        for s in 0..segments {
            let a = Operand { start: a.start.add(row * a.stride + s * segment), ..a };
            let b = Operand { start: b.start.add(vector * b.stride + s * depth * b.step), ..b };
            multiply_add(&mut sums, depth, a, b);
        }
    }
    let places = &product.rows[row..row + ROWS];
    for (&place, sums) in places.iter().zip(sums) {
        for (j, sum) in sums.into_iter().enumerate() {
            let column = (vector + j) * LANES;
            let lanes = (columns - column).min(LANES);
            // SAFETY: `lanes` elements from column `column` of this row are the result's, and as many of `base`
            // are readable (the caller's promise).
            unsafe {
                let to = to.add(place + column);
                if lanes == LANES {
                    let sum = base.map_or(sum, |base| sum + V::load(base.add(place + column)));
                    sum.store(to);
                } else {
                    let sum = base.map_or(sum, |base| sum + V::load_partial(base.add(place + column), lanes));
                    sum.store_partial(to, lanes);
                }
            }
        }
    }
}
