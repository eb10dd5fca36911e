//! Products of matrix blocks in cache, wherever their operands lie.

use crate::microkernel::{Operand, RegisterBlock, multiply_add};
use crate::simd::{F32x16, LANES, UncheckedAlgorithm};

/// `to[g][i][j] = base[g][i][j] + sum over k of a[g][i][k] * b[k][j]`, for every group `g` of rows.
///
/// The sum over `k` runs over `runs` of `depth` steps each: those of `a` start at these distances from its
/// own start, those of `b` follow each other.
///
/// # Safety
///
/// - `a` is readable at every row of every group and every step of every run, `b` at every step for
///   `columns` rounded up to whole vectors;
/// - `columns` elements are writable at every row of every group of `to`, and readable there in `base`;
/// - these results overlap neither each other nor `a` nor `b`.
pub(crate) struct BlockProduct<'a> {
    pub a: Operand,
    /// `b.stride` leads from one vector of sixteen columns to the next.
    pub b: Operand,
    pub runs: &'a [usize],
    pub depth: usize,
    pub groups: usize,
    pub rows: usize,
    pub columns: usize,
    /// From one group to the next in `a`.
    pub group: usize,
    /// From one group to the next in `to` and `base`.
    pub to_group: usize,
    /// From one row to the next in `to` and `base`.
    pub to_row: usize,
    /// What the product is added to; nothing if absent. May be `to`.
    pub base: Option<*const f32>,
    pub to: *mut f32,
}

impl UncheckedAlgorithm for BlockProduct<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run_unchecked<V: F32x16>(self) {
        let vectors = self.columns.div_ceil(LANES);
        let mut first = 0;
        // SAFETY: the caller's promise, and `first + COLUMNS <= vectors`.
        unsafe {
            while V::TILE.1 == 2 && first + 2 <= vectors {
                panel::<V, 2>(&self, first);
                first += 2;
            }
            while first < vectors {
                panel::<V, 1>(&self, first);
                first += 1;
            }
        }
    }
}

/// The result's columns of `COLUMNS` vectors from the vector `first` on.
///
/// # Safety
/// As for [`BlockProduct`]; `first + COLUMNS` is at most the number of vectors.
#[inline(always)]
unsafe fn panel<V: F32x16, const COLUMNS: usize>(product: &BlockProduct, first: usize) {
    let rows = product.rows;
    // Tiles of equal height rather than full ones and a low last one.
    let tiles = rows.div_ceil(V::TILE.0);
    for group in 0..product.groups {
        for tile in 0..tiles {
            let (start, end) = (rows * tile / tiles, rows * (tile + 1) / tiles);
            // An arm beyond the instruction set's tile is never compiled.
            macro_rules! arms {
                ($($rows:literal)*) => {
                    match end - start {
                        $($rows if $rows <= V::TILE.0 => {
                            // SAFETY: the caller's promise, for `$rows` rows from `start` on.
                            unsafe { block::<V, $rows, COLUMNS>(product, group, start, first) }
                        })*
                        _ => unreachable!("a tile has at most V::TILE.0 <= 14 rows"),
                    }
                };
            }
            arms!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        }
    }
}

/// The result's block at row `row` of a group and vector `vector`.
///
/// # Safety
/// As for [`BlockProduct`]; `row + ROWS` is at most the number of rows, `vector + COLUMNS` that of
/// vectors.
#[inline(always)]
unsafe fn block<V: F32x16, const ROWS: usize, const COLUMNS: usize>(
    product: &BlockProduct,
    group: usize,
    row: usize,
    vector: usize,
) {
    let BlockProduct { a, b, runs, depth, columns, base, to, .. } = *product;
    let mut sums: RegisterBlock<V, ROWS, COLUMNS> = [[V::zero(); COLUMNS]; ROWS];
    for (i, run) in runs.iter().enumerate() {
        // SAFETY: rows and vectors of this run of the operands, which the caller promises are readable. Without runs
        // there is nothing to read, and these places may lie beyond the operands.
        unsafe {
            let a = Operand { start: a.start.add(group * product.group + row * a.stride + run), ..a };
            let b = Operand { start: b.start.add(vector * b.stride + i * depth * b.step), ..b };
            multiply_add(&mut sums, depth, a, b);
        }
    }
    let place = group * product.to_group + row * product.to_row + vector * LANES;
    for (i, sums) in sums.into_iter().enumerate() {
        for (j, sum) in sums.into_iter().enumerate() {
            let place = place + i * product.to_row + j * LANES;
            let lanes = (columns - (vector + j) * LANES).min(LANES);
            // SAFETY: `lanes` elements from the vector's first column on are the result's, and as many of
            // `base` are readable (the caller's promise).
            unsafe {
                if lanes == LANES {
                    let sum = base.map_or(sum, |base| sum + V::load(base.add(place)));
                    sum.store(to.add(place));
                } else {
                    let sum = base.map_or(sum, |base| sum + V::load_partial(base.add(place), lanes));
                    sum.store_partial(to.add(place), lanes);
                }
            }
        }
    }
}
