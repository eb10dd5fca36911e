//! The plain form, on the CPU.

use super::{Draw, Draws, IMAGE, PLANE, SIZE};

/// An image as `draw` and `values` say, channels last.
pub(super) fn augment(image: &[u8], values: &[f32], draws: &Draws, draw: &Draw, out: &mut [f32]) {
    debug_assert_eq!((image.len(), out.len(), values.len()), (IMAGE, IMAGE, 3 * 256));
    let size = SIZE as i32;
    let side = i32::try_from(draws.cutout_size).unwrap_or(i32::MAX);
    for (pixel, out) in out.chunks_exact_mut(3).enumerate() {
        let (y, x) = ((pixel / SIZE) as i32, (pixel % SIZE) as i32);
        let (row, column) = (y + draw.down, if draw.flip { size - 1 - x } else { x } + draw.right);
        let inside = (0..size).contains(&row) && (0..size).contains(&column);
        let blank = draw.cutout.is_some_and(|(top, left)| {
            (top..top.saturating_add(side)).contains(&y) && (left..left.saturating_add(side)).contains(&x)
        });
        for (channel, out) in out.iter_mut().enumerate() {
            let byte = if inside { image[channel * PLANE + (row * size + column) as usize] } else { 0 };
            *out = if blank { 0.0 } else { values[channel * 256 + usize::from(byte)] };
        }
    }
}
