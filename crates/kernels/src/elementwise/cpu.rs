//! The passes, with sixteen elements to a vector.

use crate::Cpu;
use crate::parallel::for_each;
use crate::simd::{Algorithm, F32x16, LANES, load, store};
use crate::uninit::Uninit;

/// Elements of a task.
const TASK: usize = 1 << 15;

/// `y = a + b`, or `a` without `b`; with `relu`, the ReLU of that. All have one length, and every element is written.
pub(super) fn forward(cpu: &Cpu, a: &[f32], b: Option<&[f32]>, relu: bool, y: &mut Uninit) {
    let dy = None;
    run(cpu, SumPass { a, b, relu, dy, to: y });
}

/// `dx`: the gradient of `relu(a + b)` with respect to both. All have one length, and every element is written.
pub(super) fn backward(cpu: &Cpu, a: &[f32], b: Option<&[f32]>, dy: &[f32], dx: &mut Uninit) {
    run(cpu, SumPass { a, b, relu: true, dy: Some(dy), to: dx });
}

fn run(cpu: &Cpu, pass: SumPass) {
    let SumPass { a, b, relu, dy, to } = pass;
    for_each(cpu, to.chunks_mut(TASK).enumerate(), |(index, to)| {
        let part = index * TASK..index * TASK + to.len();
        let (a, b, dy) = (&a[part.clone()], b.map(|b| &b[part.clone()]), dy.map(|dy| &dy[part.clone()]));
        cpu.instruction_set().dispatch(SumPass { a, b, relu, dy, to });
    });
}

/// Without `dy` the result, with it the gradient.
struct SumPass<'a> {
    a: &'a [f32],
    b: Option<&'a [f32]>,
    relu: bool,
    dy: Option<&'a [f32]>,
    to: &'a mut Uninit,
}

impl Algorithm for SumPass<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: F32x16>(self) {
        let Self { a, b, relu, dy, to } = self;
        for at in (0..to.len()).step_by(LANES) {
            let lanes = LANES.min(to.len() - at);
            let mut sum = load::<V>(a, at, lanes);
            if let Some(b) = b {
                sum = sum + load(b, at, lanes);
            }
            let result = match dy {
                Some(dy) => load::<V>(dy, at, lanes).through_relu(sum),
                None if relu => sum.relu(),
                None => sum,
            };
            store(result, to, at, lanes);
        }
    }
}
