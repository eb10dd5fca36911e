//! What the kernels of `cuda.cu` take, as they lay it out.

use crate::cuda_args::{Address, arguments};

arguments! {
    /// `linear_product_arguments`
    Product {
        a: Address, b: Address, bias: Address, y: Address, a_row: i64, a_k: i64, b_column: i64, b_k: i64, rows: i32,
        columns: i32, depth: i32, unused: i32,
    }
    /// `linear_sums_arguments`
    Sums { x: Address, sums: Address, rows: i32, columns: i32 }
}

impl Product {
    /// Rows, and columns, of the tile of `y` that a block of as many threads computes.
    pub(crate) const TILE: usize = 16;

    /// `y[row, column] = sum over k of a[row, k] b[column, k]`, plus a bias; the operands with their two strides.
    pub(crate) fn new(
        [rows, columns, depth]: [usize; 3],
        (a, [a_row, a_k]): (Address, [usize; 2]),
        (b, [b_column, b_k]): (Address, [usize; 2]),
        bias: Address,
        y: Address,
    ) -> Self {
        Self {
            a,
            b,
            bias,
            y,
            a_row: a_row as i64,
            a_k: a_k as i64,
            b_column: b_column as i64,
            b_k: b_k as i64,
            rows: rows as i32,
            columns: columns as i32,
            depth: depth as i32,
            unused: 0,
        }
    }

    /// The blocks in x and y.
    pub(crate) fn blocks([rows, columns, _]: [usize; 3]) -> (usize, usize) {
        (columns.div_ceil(Self::TILE).max(1), rows.div_ceil(Self::TILE).max(1))
    }
}
