//! The matrix products of one frequency, between transformed tensors in the order of
//! [`FrequencyLayout`](super::FrequencyLayout).

use crate::InstructionSet;
use crate::microkernel::{self, Operand};
use crate::simd::{Algorithm, F32x16, LANES};

/// A matrix in blocks of sixteen columns, whose rows follow each other.
#[derive(Clone, Copy)]
pub(super) struct Matrix<P> {
    pub start: P,
    /// Elements from one block to the next.
    pub stride: usize,
}

/// The columns of a product's register block.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Columns {
    /// Pairs of blocks.
    Pairs,
    /// Pairs with fewer rows, which divide 16: where there are so few rows that the last ones would leave much of a
    /// larger register block idle.
    ShortPairs,
    /// Single blocks, for which registers hold more rows.
    Single,
}

impl Columns {
    /// The multiple of rows that [`rows_by_columns`] works in.
    pub fn rows(self, instruction_set: InstructionSet) -> usize {
        struct Rows(Columns);

        impl Algorithm for Rows {
            type Output = usize;

            #[inline(always)]
            fn run<V: F32x16>(self) -> usize {
                self.0.block::<V>().0
            }
        }

        instruction_set.dispatch(Rows(self))
    }

    /// The register block: rows and blocks of columns.
    #[inline(always)]
    fn block<V: F32x16>(self) -> (usize, usize) {
        match self {
            Self::Pairs => V::TILE,
            Self::ShortPairs => V::LANE_TILE,
            Self::Single => V::NARROW_TILE,
        }
    }
}

/// `m[row, column] = (m[row, column] if add) + sum over k of v[row, k] u[k, column]`, for `count` blocks of
/// columns.
///
/// # Safety
/// `v` is readable, and `m` writable (to add, readable too), for `rows` rounded up to a multiple of
/// [`Columns::rows`]; `v` for `depth` columns, `u` for `depth` rows and `count` blocks, `m` for `count`
/// blocks.
#[inline(always)]
pub(super) unsafe fn rows_by_columns<V: F32x16>(
    (rows, depth, count): (usize, usize, usize),
    columns: Columns,
    v: Matrix<*const f32>,
    u: Matrix<*const f32>,
    m: Matrix<*mut f32>,
    add: bool,
) {
    let (block_rows, block_columns) = columns.block::<V>();
    let mut column = 0;
    while column < count {
        let width = block_columns.min(count - column);
        // SAFETY: blocks `column..column + width` of the operands in the caller's promise.
        unsafe {
            let u = Matrix { start: u.start.add(column * u.stride), ..u };
            let m = Matrix { start: m.start.add(column * m.stride), ..m };
            match (block_rows, width) {
                (16, 1) => strip::<V, 16, 1>(rows, depth, v, u, m, add),
                (14, 2) => strip::<V, 14, 2>(rows, depth, v, u, m, add),
                (14, 1) => strip::<V, 14, 1>(rows, depth, v, u, m, add),
                (8, 2) => strip::<V, 8, 2>(rows, depth, v, u, m, add),
                (8, 1) => strip::<V, 8, 1>(rows, depth, v, u, m, add),
                (6, 1) => strip::<V, 6, 1>(rows, depth, v, u, m, add),
                (4, 1) => strip::<V, 4, 1>(rows, depth, v, u, m, add),
                (2, 1) => strip::<V, 2, 1>(rows, depth, v, u, m, add),
                _ => unreachable!("every register block has its code"),
            }
        }
        column += width;
    }
}

/// All rows of `COLUMNS` blocks of columns.
///
/// # Safety
/// As [`rows_by_columns`].
#[inline(always)]
unsafe fn strip<V: F32x16, const ROWS: usize, const COLUMNS: usize>(
    rows: usize,
    depth: usize,
    v: Matrix<*const f32>,
    u: Matrix<*const f32>,
    m: Matrix<*mut f32>,
    add: bool,
) {
    for row in (0..rows).step_by(ROWS) {
        // SAFETY: rows `row..row + ROWS` and all columns of the operands in the caller's promise.
        unsafe {
            let m_start = m.start.add(row * LANES);
            let mut sums = match add {
                true => microkernel::load::<V, ROWS, COLUMNS>(m_start, LANES, m.stride),
                false => [[V::zero(); COLUMNS]; ROWS],
            };
            for k in (0..depth).step_by(LANES) {
                let v = v.start.add(k / LANES * v.stride + row * LANES);
                let v = Operand { start: v, stride: LANES, step: 1 };
                let u = Operand { start: u.start.add(k * LANES), stride: u.stride, step: LANES };
                // A constant count lets the compiler unroll.
                match depth - k {
                    LANES.. => microkernel::multiply_add(&mut sums, LANES, v, u),
                    rest => microkernel::multiply_add(&mut sums, rest, v, u),
                }
            }
            microkernel::store(&sums, m_start, LANES, m.stride);
        }
    }
}

/// `u[row, column] = (u[row, column] if add) + sum over k of v[k, row] z[k, column]`, for whole blocks of
/// rows and columns: a sum over the rows of both operands. Row `16 i + j` is lane `j` of `v`'s block `i`.
///
/// # Safety
/// `v` and `z` are readable for `depth` rows, `u` is writable (to add, readable too) for `blocks.0 * 16`
/// rows, and they have `blocks.0` and `blocks.1` blocks of columns.
#[inline(always)]
pub(super) unsafe fn lanes_by_columns<V: F32x16>(
    blocks: (usize, usize),
    depth: usize,
    v: Matrix<*const f32>,
    z: Matrix<*const f32>,
    u: Matrix<*mut f32>,
    add: bool,
) {
    let (block_rows, block_columns) = V::LANE_TILE;
    let mut column = 0;
    while column < blocks.1 {
        let width = block_columns.min(blocks.1 - column);
        for row in (0..blocks.0 * LANES).step_by(block_rows) {
            // SAFETY: rows from `row` and blocks from `column` on of the operands in the caller's promise.
            unsafe {
                let v = v.start.add(row / LANES * v.stride + row % LANES);
                let z = Matrix { start: z.start.add(column * z.stride), ..z };
                let u = Matrix { start: u.start.add(column * u.stride + row * LANES), ..u };
                match (block_rows, width) {
                    (8, 2) => square::<V, 8, 2>(depth, v, z, u, add),
                    (8, 1) => square::<V, 8, 1>(depth, v, z, u, add),
                    (4, 1) => square::<V, 4, 1>(depth, v, z, u, add),
                    (2, 1) => square::<V, 2, 1>(depth, v, z, u, add),
                    _ => unreachable!("every register block has its code"),
                }
            }
        }
        column += width;
    }
}

/// One register block of [`lanes_by_columns`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn square<V: F32x16, const ROWS: usize, const COLUMNS: usize>(
    depth: usize,
    v: *const f32,
    z: Matrix<*const f32>,
    u: Matrix<*mut f32>,
    add: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = match add {
            true => microkernel::load::<V, ROWS, COLUMNS>(u.start, LANES, u.stride),
            false => [[V::zero(); COLUMNS]; ROWS],
        };
        let v = Operand { start: v, stride: 1, step: LANES };
        let z = Operand { start: z.start, stride: z.stride, step: LANES };
        microkernel::multiply_add(&mut sums, depth, v, z);
        microkernel::store(&sums, u.start, LANES, u.stride);
    }
}
