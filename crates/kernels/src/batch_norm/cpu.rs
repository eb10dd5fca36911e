//! Batch norm and ReLU in passes that read memory once, in order, with sixteen channels to a vector.

use super::{BatchStatistics, Forward};
use crate::Cpu;
use crate::conv2d::Activation;
use crate::parallel::for_each;
use crate::simd::{Algorithm, F32x16, LANES, load, store};
use crate::uninit::Uninit;

/// Elements of one task.
const TASK: usize = 1 << 15;
/// Rows over which sums run in `f32`.
const BLOCK: usize = 64;
/// Rows whose mean the deviations are taken from.
const PILOTS: usize = 16;

pub(super) fn statistics(cpu: &Cpu, x: &[f32], mean: &mut [f32], var: &mut [f32]) {
    let channels = mean.len();
    let rows = x.len() / channels;
    // A rough mean: deviations from it are as small as those from the mean itself, near enough.
    let pilots = rows.min(PILOTS);
    let mut pilot = vec![0f32; channels];
    for row in (0..pilots).map(|i| i * rows / pilots) {
        pilot.iter_mut().zip(&x[row * channels..]).for_each(|(sum, x)| *sum += x / pilots as f32);
    }
    let (first, second) = reduce(cpu, x.len(), channels, &Deviations { x, pilot: &pilot });
    for c in 0..channels {
        let (first, second) = (first[c] / rows as f64, second[c] / rows as f64);
        mean[c] = (f64::from(pilot[c]) + first) as f32;
        let variance = second - first * first;
        // Below zero by rounding only. A NaN stays a NaN.
        var[c] = if variance < 0. { 0. } else { variance as f32 };
    }
}

pub(super) fn apply(cpu: &Cpu, x: &[f32], activation: Activation, relu: bool, y: &mut Uninit) {
    let len = task_len(activation.scale.len());
    for_each(cpu, x.chunks(len).zip(y.chunks_mut(len)), |(x, y)| {
        let set = cpu.instruction_set();
        if relu {
            set.dispatch(Apply::<true> { x, activation, y });
        } else {
            set.dispatch(Apply::<false> { x, activation, y });
        }
    });
}

/// `RELU`: whether a ReLU followed.
pub(super) fn backward<const RELU: bool>(
    cpu: &Cpu,
    forward: Forward,
    grad: &mut [f32],
    add: Option<&[f32]>,
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let Forward { x, activation, saved, statistics, .. } = forward;
    let channels = saved.mean.len();
    let (first, second) =
        reduce(cpu, x.len(), channels, &Gradients::<RELU> { x, grad, activation, mean: &saved.mean });
    let rows = (x.len() / channels) as f64;
    // dx = scale g + factor (x - mean) + summand
    let (mut factor, mut summand) = (vec![0f32; channels], vec![0f32; channels]);
    for c in 0..channels {
        let (scale, inv_std) = (f64::from(activation.scale[c]), f64::from(saved.inv_std[c]));
        dbeta[c] = first[c] as f32;
        dgamma[c] = (second[c] * inv_std) as f32;
        if statistics != BatchStatistics::Running {
            factor[c] = (-scale * inv_std * inv_std * second[c] / rows) as f32;
            summand[c] = (-scale * first[c] / rows) as f32;
        }
    }
    let (mean, factor, summand) = (&saved.mean, &factor, &summand);
    let len = task_len(channels);
    // Backwards, since the last rows summed are those still in the cache.
    for_each(cpu, grad.chunks_mut(len).enumerate().rev(), |(task, grad)| {
        let range = task * len..task * len + grad.len();
        let (x, add) = (&x[range.clone()], add.map(|add| &add[range]));
        cpu.instruction_set().dispatch(Backward::<RELU> { x, activation, mean, factor, summand, add, grad });
    });
}

/// The sums of the columns of `x`, whose rows have `channels` elements.
pub(crate) fn column_sums(cpu: &Cpu, x: &[f32], channels: usize) -> Vec<f64> {
    reduce(cpu, x.len(), channels, &Deviations { x, pilot: &vec![0.0; channels] }).0
}

/// Elements of a task: whole rows, about [`TASK`].
fn task_len(channels: usize) -> usize {
    TASK.div_ceil(channels) * channels
}

/// The two numbers that a reduction takes from each element: it sums the first, and the product of both.
trait Terms: Sync {
    /// For `lanes` elements from `element` on, which are of the channels from `channel` on.
    fn at<V: F32x16>(&self, element: usize, channel: usize, lanes: usize) -> (V, V);
}

/// `(d, d)` with `d = x - pilot`.
struct Deviations<'a> {
    x: &'a [f32],
    pilot: &'a [f32],
}

impl Terms for Deviations<'_> {
    #[inline(always)]
    fn at<V: F32x16>(&self, element: usize, channel: usize, lanes: usize) -> (V, V) {
        let deviation = load::<V>(self.x, element, lanes) - load(self.pilot, channel, lanes);
        (deviation, deviation)
    }
}

/// `(g, x - mean)` with `g` the gradient where the ReLU was open, if there was one.
struct Gradients<'a, const RELU: bool> {
    x: &'a [f32],
    grad: &'a [f32],
    activation: Activation<'a>,
    mean: &'a [f32],
}

impl<const RELU: bool> Terms for Gradients<'_, RELU> {
    #[inline(always)]
    fn at<V: F32x16>(&self, element: usize, channel: usize, lanes: usize) -> (V, V) {
        let x = load::<V>(self.x, element, lanes);
        let mut grad = load::<V>(self.grad, element, lanes);
        if RELU {
            grad = grad.through_relu(affine(x, self.activation, channel, lanes));
        }
        (grad, x - load(self.mean, channel, lanes))
    }
}

/// The sums of the first terms and of the products, for each channel of `len` elements.
fn reduce(cpu: &Cpu, len: usize, channels: usize, terms: &impl Terms) -> (Vec<f64>, Vec<f64>) {
    let task = task_len(channels);
    let mut partial = vec![[0f64; 2]; len.div_ceil(task) * channels];
    for_each(cpu, partial.chunks_mut(channels).enumerate(), |(index, sums)| {
        let elements = index * task..len.min((index + 1) * task);
        cpu.instruction_set().dispatch(Reduce { terms, elements, sums });
    });
    let mut sums = (vec![0.; channels], vec![0.; channels]);
    for partial in partial.chunks(channels) {
        for (c, [first, second]) in partial.iter().enumerate() {
            sums.0[c] += first;
            sums.1[c] += second;
        }
    }
    sums
}

/// Adds the sums over whole rows to `sums`, one pair for each channel.
struct Reduce<'a, T> {
    terms: &'a T,
    elements: std::ops::Range<usize>,
    sums: &'a mut [[f64; 2]],
}

impl<T: Terms> Algorithm for Reduce<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { terms, elements, sums } = self;
        let channels = sums.len();
        for start in elements.clone().step_by(BLOCK * channels) {
            let rows = BLOCK.min((elements.end - start) / channels);
            let mut c = 0;
            while c + 4 * LANES <= channels {
                block::<V, 4>(terms, start, rows, c, LANES, sums);
                c += 4 * LANES;
            }
            while c < channels {
                block::<V, 1>(terms, start, rows, c, LANES.min(channels - c), sums);
                c += LANES;
            }
        }
    }
}

/// Adds the sums of a block of rows to those of `N` vectors of channels from `channel` on; the last has
/// `lanes`.
#[inline(always)]
fn block<V: F32x16, const N: usize>(
    terms: &impl Terms,
    start: usize,
    rows: usize,
    channel: usize,
    lanes: usize,
    sums: &mut [[f64; 2]],
) {
    let channels = sums.len();
    let (mut first, mut second) = ([V::zero(); N], [V::zero(); N]);
    for row in 0..rows {
        for j in 0..N {
            let c = channel + j * LANES;
            let (a, b) = if N == 1 {
                terms.at::<V>(start + row * channels + c, c, lanes)
            } else {
                terms.at::<V>(start + row * channels + c, c, LANES)
            };
            first[j] = first[j] + a;
            second[j] = a.mul_add(b, second[j]);
        }
    }
    for j in 0..N {
        let (mut a, mut b) = ([0f32; LANES], [0f32; LANES]);
        // SAFETY: sixteen elements each.
        unsafe {
            first[j].store(a.as_mut_ptr());
            second[j].store(b.as_mut_ptr());
        }
        let sums = sums[channel + j * LANES..].iter_mut().take(lanes);
        for (sum, (a, b)) in sums.zip(a.into_iter().zip(b)) {
            sum[0] += f64::from(a);
            sum[1] += f64::from(b);
        }
    }
}

struct Apply<'a, const RELU: bool> {
    x: &'a [f32],
    activation: Activation<'a>,
    y: &'a mut Uninit,
}

impl<const RELU: bool> Algorithm for Apply<'_, RELU> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { x, activation, y } = self;
        for (element, channel, lanes) in vectors(x.len(), activation.scale.len()) {
            let value = affine(load::<V>(x, element, lanes), activation, channel, lanes);
            store(if RELU { value.relu() } else { value }, y, element, lanes);
        }
    }
}

struct Backward<'a, const RELU: bool> {
    x: &'a [f32],
    activation: Activation<'a>,
    mean: &'a [f32],
    factor: &'a [f32],
    summand: &'a [f32],
    add: Option<&'a [f32]>,
    grad: &'a mut [f32],
}

impl<const RELU: bool> Algorithm for Backward<'_, RELU> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { x, activation, mean, factor, summand, add, grad } = self;
        for (element, channel, lanes) in vectors(x.len(), mean.len()) {
            let x = load::<V>(x, element, lanes);
            let mut direct = load::<V>(grad, element, lanes);
            if RELU {
                direct = direct.through_relu(affine(x, activation, channel, lanes));
            }
            let centered = x - load(mean, channel, lanes);
            let through = centered.mul_add(load(factor, channel, lanes), load(summand, channel, lanes));
            let mut dx = direct.mul_add(load(activation.scale, channel, lanes), through);
            if let Some(add) = add {
                dx = dx + load(add, element, lanes);
            }
            store(dx, grad, element, lanes);
        }
    }
}

/// `(element, channel, lanes)` of every vector of rows of `channels` elements, in order.
#[inline(always)]
fn vectors(len: usize, channels: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..len).step_by(channels).flat_map(move |row| {
        (0..channels)
            .step_by(LANES)
            .map(move |channel| (row + channel, channel, LANES.min(channels - channel)))
    })
}

/// `x * scale + shift`, for `lanes` channels from `channel` on.
#[inline(always)]
fn affine<V: F32x16>(x: V, activation: Activation, channel: usize, lanes: usize) -> V {
    x.mul_add(load(activation.scale, channel, lanes), load(activation.shift, channel, lanes))
}
