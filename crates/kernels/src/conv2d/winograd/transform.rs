//! The matrices of the derivation in [`winograd`](super), applied to vectors of sixteen channels.
//!
//! Traits stand where closures would be shorter, since these must be inlined; see
//! [`Algorithm`](crate::simd::Algorithm).

use super::PATCH;
use crate::simd::F32x16;

/// The points' squares are 1/2 and 2; see [`winograd`](super).
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

/// A linear map along one dimension.
pub(super) trait Transform<const FROM: usize, const TO: usize> {
    fn apply<V: F32x16>(from: [V; FROM]) -> [V; TO];
}

/// Where a transform's values come from.
pub(super) trait Source<V> {
    fn get(&self, row: usize, column: usize) -> V;
}

/// Where a transform's results go.
pub(super) trait Target<V> {
    fn put(&mut self, row: usize, column: usize, value: V);
}

/// Applies a map along the columns, then along the rows.
#[inline(always)]
pub(super) fn two_dimensional<V, T, const FROM: usize, const TO: usize>(
    _: T,
    source: &impl Source<V>,
    target: &mut impl Target<V>,
) where
    V: F32x16,
    T: Transform<FROM, TO>,
{
    let mut columns = [[V::zero(); TO]; FROM];
    for (j, column) in columns.iter_mut().enumerate() {
        let mut values = [V::zero(); FROM];
        for (i, value) in values.iter_mut().enumerate() {
            *value = source.get(i, j);
        }
        *column = T::apply(values);
    }
    for i in 0..TO {
        let mut values = [V::zero(); FROM];
        for (value, column) in values.iter_mut().zip(&columns) {
            *value = column[i];
        }
        let row = T::apply(values);
        for (j, value) in row.into_iter().enumerate() {
            target.put(i, j, value);
        }
    }
}

/// The 36 places of a transformed tile, a constant distance apart.
pub(super) struct Frequencies<P> {
    start: P,
    stride: usize,
}

impl<P> Frequencies<P> {
    /// # Safety
    /// As long as this lives, sixteen elements at each of the 36 places are readable (of a constant pointer)
    /// or writable (of a mutable one).
    #[inline(always)]
    pub unsafe fn new(start: P, stride: usize) -> Self {
        Self { start, stride }
    }
}

impl<V: F32x16> Source<V> for Frequencies<*const f32> {
    #[inline(always)]
    fn get(&self, row: usize, column: usize) -> V {
        // SAFETY: one of the places that `new` was promised.
        unsafe { V::load(self.start.add((row * PATCH + column) * self.stride)) }
    }
}

impl<V: F32x16> Target<V> for Frequencies<*mut f32> {
    #[inline(always)]
    fn put(&mut self, row: usize, column: usize, value: V) {
        // SAFETY: one of the places that `new` was promised.
        unsafe { value.store(self.start.add((row * PATCH + column) * self.stride)) }
    }
}

/// `B^T x`: a patch of inputs.
pub(super) struct InputTransform;

impl Transform<6, 6> for InputTransform {
    #[inline(always)]
    fn apply<V: F32x16>([x0, x1, x2, x3, x4, x5]: [V; 6]) -> [V; 6] {
        let (a, b) = (V::splat(A), V::splat(B));
        let (even_a, odd_a) = (x2.mul_add(V::splat(-2.0), x4), x1.mul_add(V::splat(-2.0), x3));
        let (even_b, odd_b) = (x2.mul_add(V::splat(-0.5), x4), x1.mul_add(V::splat(-0.5), x3));
        [
            x2.mul_add(V::splat(-2.5), x0 + x4),
            odd_a.mul_add(a, even_a),
            odd_a.mul_add(V::splat(-A), even_a),
            odd_b.mul_add(b, even_b),
            odd_b.mul_add(V::splat(-B), even_b),
            x3.mul_add(V::splat(-2.5), x1 + x5),
        ]
    }
}

/// `A^T m`: a tile of outputs.
pub(super) struct OutputTransform;

impl Transform<6, 4> for OutputTransform {
    #[inline(always)]
    fn apply<V: F32x16>([m0, m1, m2, m3, m4, m5]: [V; 6]) -> [V; 4] {
        let (even_a, odd_a) = (m1 + m2, m1 - m2);
        let (even_b, odd_b) = (m3 + m4, m3 - m4);
        [
            m0 + even_a + even_b,
            odd_a.mul_add(V::splat(A), odd_b * V::splat(B)),
            even_a.mul_add(V::splat(0.5), even_b * V::splat(2.0)),
            odd_a.mul_add(V::splat(A / 2.0), odd_b.mul_add(V::splat(2.0 * B), m5)),
        ]
    }
}

/// `A y`: a tile of outputs' gradients.
pub(super) struct GradientTransform;

impl Transform<4, 6> for GradientTransform {
    #[inline(always)]
    fn apply<V: F32x16>([y0, y1, y2, y3]: [V; 4]) -> [V; 6] {
        let (even_a, odd_a) = (y2.mul_add(V::splat(0.5), y0), y3.mul_add(V::splat(0.5), y1));
        let (even_b, odd_b) = (y2.mul_add(V::splat(2.0), y0), y3.mul_add(V::splat(2.0), y1));
        [
            y0,
            odd_a.mul_add(V::splat(A), even_a),
            odd_a.mul_add(V::splat(-A), even_a),
            odd_b.mul_add(V::splat(B), even_b),
            odd_b.mul_add(V::splat(-B), even_b),
            y3,
        ]
    }
}

/// `G g`: the taps of a kernel.
pub(super) struct WeightTransform;

impl Transform<3, 6> for WeightTransform {
    #[inline(always)]
    fn apply<V: F32x16>([g0, g1, g2]: [V; 3]) -> [V; 6] {
        let even_a = g2.mul_add(V::splat(-1.0 / 3.0), g0 * V::splat(-2.0 / 3.0));
        let even_b = g2.mul_add(V::splat(1.0 / 3.0), g0 * V::splat(1.0 / 6.0));
        [
            g0,
            g1.mul_add(V::splat(A * -2.0 / 3.0), even_a),
            g1.mul_add(V::splat(A * 2.0 / 3.0), even_a),
            g1.mul_add(V::splat(B / 6.0), even_b),
            g1.mul_add(V::splat(-B / 6.0), even_b),
            g2,
        ]
    }
}

/// `G^T u`: the gradient of the taps.
pub(super) struct WeightGradientTransform;

impl Transform<6, 3> for WeightGradientTransform {
    #[inline(always)]
    fn apply<V: F32x16>([u0, u1, u2, u3, u4, u5]: [V; 6]) -> [V; 3] {
        let (even_a, odd_a) = (u1 + u2, u1 - u2);
        let (even_b, odd_b) = (u3 + u4, u3 - u4);
        [
            even_a.mul_add(V::splat(-2.0 / 3.0), even_b.mul_add(V::splat(1.0 / 6.0), u0)),
            odd_a.mul_add(V::splat(A * -2.0 / 3.0), odd_b * V::splat(B / 6.0)),
            (even_b - even_a).mul_add(V::splat(1.0 / 3.0), u5),
        ]
    }
}
