//! The plain form, on the CPU.

use super::{Draw, Draws};

/// An image `[C, H, W]` of these dimensions as `draw` and `values` say, channels last.
pub(super) fn augment(
    image: &[u8],
    [channels, height, width]: [usize; 3],
    values: &[f32],
    draws: &Draws,
    draw: &Draw,
    out: &mut [f32],
) {
    let plane = height * width;
    debug_assert_eq!(
        (image.len(), out.len(), values.len()),
        (channels * plane, channels * plane, channels * 256)
    );
    let (rows, columns) = (height as i32, width as i32);
    let side = i32::try_from(draws.cutout_size).unwrap_or(i32::MAX);
    for (pixel, out) in out.chunks_exact_mut(channels).enumerate() {
        let (y, x) = ((pixel / width) as i32, (pixel % width) as i32);
        let (row, column) = (y + draw.down, if draw.flip { columns - 1 - x } else { x } + draw.right);
        let inside = (0..rows).contains(&row) && (0..columns).contains(&column);
        let blank = draw.cutout.is_some_and(|(top, left)| {
            (top..top.saturating_add(side)).contains(&y) && (left..left.saturating_add(side)).contains(&x)
        });
        for (channel, out) in out.iter_mut().enumerate() {
            let byte = if inside { image[channel * plane + (row * columns + column) as usize] } else { 0 };
            *out = if blank { 0.0 } else { values[channel * 256 + usize::from(byte)] };
        }
    }
}
