//! Max pooling on channels-last data.

use crate::Cpu;
use crate::parallel::for_each;
use crate::{Error, Result};

/// The shape of a max pooling: one whose windows all see a pixel of the image, and whose tensors' lengths do not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaxPoolShape {
    pub(super) input: [usize; 4],
    pub(super) window: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl MaxPoolShape {
    /// The pooling of images `[N, H, W, C]` of the dimensions `input` over windows of `window` by `window` pixels, `stride`
    /// pixels from one to the next, with `padding` pixels that count for nothing on each side.
    ///
    /// # Errors
    /// [`Error::Shape`] where a size other than the batch and the padding is 0, where the padding is more than half of the
    /// window, where the window is larger than the padded image, or where the input does not fit the address space.
    pub fn new(input: [usize; 4], window: usize, stride: usize, padding: usize) -> Result<Self> {
        let error = |what, expected: &str, found: usize| {
            Err(Error::Shape { what, expected: expected.into(), found: found.to_string() })
        };
        let [_, height, width, channels] = input;
        for (what, value) in [
            ("height", height),
            ("width", width),
            ("channels", channels),
            ("window", window),
            ("stride", stride),
        ] {
            if value == 0 {
                return error(what, "at least 1", value);
            }
        }
        if window > 255 {
            return error("window", "at most 255", window);
        }
        if padding > window / 2 {
            return error("padding", "at most half of the window", padding);
        }
        if window > height.min(width).saturating_add(2 * padding) {
            return error("window", "at most the padded image's height and width", window);
        }
        if input.iter().try_fold(2 * size_of::<f32>(), |len, &n| len.checked_mul(n.max(1))).is_none() {
            return error("batch", "images that fit the address space", input[0]);
        }
        Ok(Self { input, window, stride, padding })
    }

    /// The output's dimensions `[N, H, W, C]`.
    pub fn output_dims(&self) -> [usize; 4] {
        let [batch, height, width, channels] = self.input;
        let size = |size: usize| (size + 2 * self.padding - self.window) / self.stride + 1;
        [batch, size(height), size(width), channels]
    }

    /// The pixels of an image that the window of an output pixel sees: the place in the window and in the image of each.
    fn pixels(&self, row: usize, column: usize) -> impl Iterator<Item = (u16, usize)> + use<> {
        let Self { input: [_, height, width, _], window, stride, padding } = *self;
        let inside = move |at: usize, size: usize| at.checked_sub(padding).filter(|&at| at < size);
        (0..window * window).filter_map(move |tap| {
            let row = inside(row * stride + tap / window, height)?;
            let column = inside(column * stride + tap % window, width)?;
            Some((tap as u16, row * width + column))
        })
    }
}

/// `y = ` the largest value of each window, and which of its taps has it: of equal ones the first, as in PyTorch; a NaN is
/// larger than any number. `x` is `[N, H, W, C]`; both results have the dimensions of the output.
pub(super) fn forward(cpu: &Cpu, shape: &MaxPoolShape, x: &[f32]) -> (Vec<f32>, Vec<u16>) {
    let [batch, height, width, channels] = shape.output_dims();
    let len = batch * height * width * channels;
    let (mut y, mut taps) = (vec![f32::NEG_INFINITY; len], vec![0u16; len]);
    let image_len = shape.input[1..].iter().product::<usize>();
    let lines = y.chunks_mut(width * channels).zip(taps.chunks_mut(width * channels)).enumerate();
    let lines: Vec<_> = lines.collect();
    for_each(cpu, lines, |(line, (y, taps))| {
        let image = &x[line / height * image_len..][..image_len];
        let results = y.chunks_exact_mut(channels).zip(taps.chunks_exact_mut(channels));
        for (column, (y, taps)) in results.enumerate() {
            for (i, (tap, pixel)) in shape.pixels(line % height, column).enumerate() {
                let x = &image[pixel * channels..][..channels];
                for ((y, at), &x) in y.iter_mut().zip(taps.iter_mut()).zip(x) {
                    let larger = i == 0 || x > *y || x.is_nan();
                    *y = if larger { x } else { *y };
                    *at = if larger { tap } else { *at };
                }
            }
        }
    });
    (y, taps)
}

/// `dx`: each output's gradient goes to the tap that [`forward`] took.
pub(super) fn backward(cpu: &Cpu, shape: &MaxPoolShape, taps: &[u16], dy: &[f32]) -> Vec<f32> {
    let [_, height, width, channels] = shape.output_dims();
    let mut dx = vec![0f32; shape.input.iter().product()];
    let (image_len, output_len) = (shape.input[1..].iter().product::<usize>(), height * width * channels);
    for_each(cpu, dx.chunks_mut(image_len).enumerate(), |(image, dx)| {
        let part = image * output_len..(image + 1) * output_len;
        let outputs = taps[part.clone()].chunks_exact(channels).zip(dy[part].chunks_exact(channels));
        for (output, (taps, dy)) in outputs.enumerate() {
            for (tap, pixel) in shape.pixels(output / width, output % width) {
                let dx = &mut dx[pixel * channels..][..channels];
                for ((dx, &at), &dy) in dx.iter_mut().zip(taps).zip(dy) {
                    *dx += if at == tap { dy } else { 0.0 };
                }
            }
        }
    });
    dx
}
