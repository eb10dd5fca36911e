//! A summand for each output channel.

use crate::Cpu;
use crate::batch_norm::column_sums;

/// Elements of a task.
const CHUNK: usize = 1 << 14;

/// `y += bias`, for `y` of rows of as many channels.
pub(crate) fn add(cpu: &Cpu, bias: &[f32], y: &mut [f32]) {
    let rows = CHUNK.div_ceil(bias.len());
    cpu.for_each_chunk(y, rows * bias.len(), |_, y| {
        for y in y.chunks_exact_mut(bias.len()) {
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
    });
}

/// `db`: the sum of the rows of `dy`, taken in `f64`.
pub(crate) fn backward(cpu: &Cpu, dy: &[f32], db: &mut [f32]) {
    let sums = column_sums(cpu, dy, db.len());
    db.iter_mut().zip(sums).for_each(|(db, sum)| *db = sum as f32);
}
