//! The kernels of `cuda.cu`, run on the host, against the reference.

use super::cuda_args::{AddUp, Apply, Backward, Finish, Running, Statistics as StatisticsArguments, blocks};
use super::{BatchStatistics, EPS, Forward, Saved, plain, scale_shift};
use crate::Cpu;
use crate::conv2d::Activation;
use crate::cuda_args::pitch;
use crate::dropout::{self, cuda_args::Mask};
use crate::on_host::images::{Element, Rows, assert_close, random};
use crate::on_host::{Grid, Guarded, Module, Order, compile};

const KERNELS: [&str; 11] = [
    "batch_norm_statistics_f32",
    "batch_norm_statistics_bf16",
    "batch_norm_finish",
    "batch_norm_running",
    "batch_norm_apply_f32",
    "batch_norm_apply_bf16",
    "batch_norm_sums_f32",
    "batch_norm_sums_bf16",
    "batch_norm_add_up",
    "batch_norm_gradient_f32",
    "batch_norm_gradient_bf16",
];

/// Rows and channels: padded and whole vectors, threads that have no row, rows that fill several blocks, and more vectors
/// than a block has threads.
const SHAPES: [(usize, usize); 8] =
    [(2, 3), (5, 1), (33, 17), (300, 64), (130, 160), (4500, 16), (40, 1000), (3, 2056)];

const MASK: dropout::Mask = dropout::Mask { key: 17, threshold: u64::MAX / 4, scale: 4.0 / 3.0 };

fn rows_grid(rows: usize, channels: usize) -> Grid {
    Grid { blocks: blocks(rows, pitch(channels)), threads: 256, shared: 0 }
}

/// What the kernels make of one batch norm, forward and backward.
#[derive(PartialEq, Debug)]
struct Results {
    /// The input, after the residual sum where there is one.
    x: Vec<f32>,
    /// Factors, summands, means, inverse deviations.
    affine: [Vec<f32>; 4],
    running: [Vec<f32>; 2],
    tracked: i64,
    y: Vec<f32>,
    dx: Vec<f32>,
    dgamma: Vec<f32>,
    dbeta: Vec<f32>,
}

struct Case {
    rows: usize,
    channels: usize,
    element: Element,
    x: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    dy: Vec<f32>,
    /// Added to x, and to the gradient of x.
    add: Option<[Vec<f32>; 2]>,
    mask: Option<dropout::Mask>,
    moves: bool,
}

impl Case {
    fn new(rows: usize, channels: usize, element: Element, with_all: bool) -> Self {
        let offsets = random(9, channels);
        let len = rows * channels;
        let x: Vec<f32> =
            random(1, len).iter().enumerate().map(|(i, x)| x + 5. * offsets[i % channels]).collect();
        Self {
            rows,
            channels,
            element,
            x: element.round(&x),
            gamma: random(2, channels),
            beta: random(3, channels),
            dy: element.round(&random(4, len)),
            add: with_all.then(|| [5, 6].map(|seed| element.round(&random(seed, len)))),
            mask: with_all.then_some(MASK),
            moves: with_all,
        }
    }

    fn run(&self, module: &Module, order: Order) -> Results {
        let Self { rows, channels, element, .. } = *self;
        let pitch = pitch(channels);
        let grid = rows_grid(rows, channels);
        let (blocks, _) = grid.blocks;
        let new = |values: &[f32]| Rows::new(element, values, channels);
        let x = new(&self.x);
        let add = self.add.as_ref().map(|[add, _]| new(add));
        let partials = Guarded::new(&vec![f32::NAN; blocks * 3 * pitch]);
        let counts = Guarded::new(&vec![f32::NAN; blocks]);
        let (gamma, beta) = (Guarded::new(&self.gamma), Guarded::new(&self.beta));
        let affine = Guarded::new(&vec![f32::NAN; 4 * pitch]);
        let running = [0.5f32, 2.0].map(|value| Guarded::new(&vec![value; channels]));
        let tracked = Guarded::new(&[41i64]);
        module.launch(
            &element.kernel("batch_norm_statistics"),
            grid,
            order,
            &StatisticsArguments {
                x: x.device(),
                add: add.as_ref().map_or(0, Rows::device),
                partials: partials.device(),
                counts: counts.device(),
                rows: rows as i64,
                pitch: pitch as i32,
            },
        );
        module.launch(
            "batch_norm_finish",
            Grid { blocks: (pitch / 8, 1), threads: 256, shared: 0 },
            order,
            &Finish {
                partials: partials.device(),
                counts: counts.device(),
                gamma: gamma.device(),
                beta: beta.device(),
                affine: affine.device(),
                running_mean: running[0].device(),
                running_var: running[1].device(),
                tracked: tracked.device(),
                epsilon: EPS,
                momentum: 0.1,
                rows: rows as i64,
                blocks: blocks as i32,
                pitch: pitch as i32,
                channels: channels as i32,
                moves: self.moves.into(),
            },
        );
        let y = Rows::unwritten(element, rows, channels);
        let mask = Mask::from(self.mask);
        module.launch(
            &element.kernel("batch_norm_apply"),
            grid,
            order,
            &Apply {
                x: x.device(),
                add: 0, // the statistics have taken it
                y: y.device(),
                affine: affine.device(),
                rows: rows as i64,
                mask,
                pitch: pitch as i32,
                channels: channels as i32,
            },
        );
        let statistics = BatchStatistics::Batch { moves: self.moves };
        let [dx, dgamma, dbeta] = self.backward(module, order, &x, &affine, statistics);
        let part = |index: usize| affine[index * pitch..index * pitch + channels].to_vec();
        Results {
            x: x.read(channels),
            affine: [0, 1, 2, 3].map(part),
            running: running.map(|values| values.to_vec()),
            tracked: tracked[0],
            y: y.read(channels),
            dx,
            dgamma,
            dbeta,
        }
    }

    /// The gradients of x, weight and bias.
    fn backward(
        &self,
        module: &Module,
        order: Order,
        x: &Rows,
        affine: &Guarded<f32>,
        statistics: BatchStatistics,
    ) -> [Vec<f32>; 3] {
        let Self { rows, channels, element, .. } = *self;
        let pitch = pitch(channels);
        let grid = rows_grid(rows, channels);
        let (blocks, _) = grid.blocks;
        let add = self.add.as_ref().map(|[_, add]| Rows::new(element, add, channels));
        let grad = Rows::new(element, &self.dy, channels);
        let partials = Guarded::new(&vec![f32::NAN; blocks * 2 * pitch]);
        let sums = Guarded::new(&vec![f32::NAN; 2 * pitch]);
        let arguments = Backward {
            x: x.device(),
            grad: grad.device(),
            add: add.as_ref().map_or(0, Rows::device),
            affine: affine.device(),
            partials: partials.device(),
            sums: sums.device(),
            rows: rows as i64,
            mask: Mask::from(self.mask),
            pitch: pitch as i32,
            channels: channels as i32,
            constant: (statistics == BatchStatistics::Running).into(),
        };
        module.launch(&element.kernel("batch_norm_sums"), grid, order, &arguments);
        module.launch(
            "batch_norm_add_up",
            Grid { blocks: (2 * pitch / 8, 1), threads: 256, shared: 0 },
            order,
            &AddUp {
                partials: partials.device(),
                sums: sums.device(),
                blocks: blocks as i32,
                pitch: pitch as i32,
            },
        );
        module.launch(&element.kernel("batch_norm_gradient"), grid, order, &arguments);
        let part = |index: usize| sums[index * pitch..index * pitch + channels].to_vec();
        [grad.read(channels), part(0), part(1)]
    }

    fn check(&self, found: &Results) {
        let Self { rows, channels, element, .. } = *self;
        let name = format!("{rows} x {channels}, {element:?}, with all: {}", self.moves);
        let close = |what: &str, found: &[f32], expected: &[f32], tolerance: f32| {
            assert_close(&format!("{what} of {name}"), found, expected, tolerance);
        };
        let mut x = self.x.clone();
        if let Some([add, _]) = &self.add {
            x.iter_mut().zip(add).for_each(|(x, add)| *x += add);
            x = element.round(&x);
        }
        assert_eq!(found.x, x, "x of {name}");
        let (mut mean, mut var) = (vec![0.; channels], vec![0.; channels]);
        plain::statistics(&x, &mut mean, &mut var);
        let saved = Saved::new(&mean, &var, EPS);
        let (scale, shift) = scale_shift(&self.gamma, &self.beta, &mean, &var, EPS);
        close("mean", &found.affine[2], &mean, 1e-6);
        for (c, (found, expected)) in found.affine[3].iter().zip(&saved.inv_std).enumerate() {
            assert!(
                (found - expected).abs() <= 1e-5 * expected,
                "inv_std {c} of {name}: {found}, {expected}"
            );
        }
        close("scale", &found.affine[0], &scale, 1e-5);
        close("shift", &found.affine[1], &shift, 1e-5);
        let unbiased = |var: f32| var * rows as f32 / (rows - 1) as f32;
        let share = if self.moves { 0.1 } else { 0.0 };
        let expected: Vec<f32> = mean.iter().map(|mean| 0.5 * (1. - share) + share * mean).collect();
        close("running mean", &found.running[0], &expected, 1e-6);
        let expected: Vec<f32> = var.iter().map(|&var| 2. * (1. - share) + share * unbiased(var)).collect();
        close("running var", &found.running[1], &expected, 1e-5);
        assert_eq!(found.tracked, 42);

        // From here on with the kernels' own affine form, whose rounding would else turn a ReLU.
        let [scale, shift, ..] = &found.affine;
        let mut y = vec![0.; x.len()];
        plain::apply(&x, Activation { scale, shift }, &mut y);
        if let Some(mask) = &self.mask {
            mask.apply(Cpu::shared(), &mut y);
        }
        close("y", &found.y, &y, element.tolerance(1e-6));
        let gradients = [&found.dx, &found.dgamma, &found.dbeta].map(|gradient| &gradient[..]);
        self.check_gradients(&name, &x, &found.affine, BatchStatistics::Batch { moves: true }, gradients);
    }

    /// That the gradients of x, weight and bias are the reference's.
    fn check_gradients(
        &self,
        name: &str,
        x: &[f32],
        affine: &[Vec<f32>; 4],
        statistics: BatchStatistics,
        [found_dx, found_dgamma, found_dbeta]: [&[f32]; 3],
    ) {
        let Self { channels, element, .. } = *self;
        let [scale, shift, mean, inv_std] = affine;
        let mut dx = self.dy.clone();
        if let Some(mask) = &self.mask {
            mask.apply(Cpu::shared(), &mut dx);
        }
        let saved = Saved { mean: mean.clone(), inv_std: inv_std.clone() };
        let activation = Activation { scale, shift };
        let forward = Forward { x, activation, saved: &saved, statistics, relu: true };
        let add = self.add.as_ref().map(|[_, add]| &add[..]);
        let (mut dgamma, mut dbeta) = (vec![0.; channels], vec![0.; channels]);
        plain::backward(forward, &mut dx, add, &mut dgamma, &mut dbeta);
        assert_close(&format!("dgamma of {name}"), found_dgamma, &dgamma, 2e-5);
        assert_close(&format!("dbeta of {name}"), found_dbeta, &dbeta, 2e-5);
        // Of few rows hardly anything is left of the gradient: what it is rounded from counts.
        let largest = |values: &[f32]| values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let bound = element.tolerance(2e-5) * largest(&dx).max(largest(scale) * largest(&self.dy));
        for (i, (found, expected)) in found_dx.iter().zip(&dx).enumerate() {
            let close = (found - expected).abs() <= bound;
            assert!(close, "dx of {name}: element {i} is {found}, expected {expected} within {bound}");
        }
    }
}

#[test]
fn kernels_agree_with_the_reference_in_any_order() {
    let Some(module) = compile("batch_norm", &KERNELS) else { return };
    for (rows, channels) in SHAPES {
        for element in Element::BOTH {
            for with_all in [false, true] {
                let case = Case::new(rows, channels, element, with_all);
                let [ascending, descending] = Order::BOTH.map(|order| case.run(&module, order));
                case.check(&ascending);
                assert_eq!(ascending, descending, "{rows} x {channels}: a race");
            }
        }
    }
}

#[test]
fn a_mean_far_from_zero_does_not_spoil_the_variance() {
    let Some(module) = compile("batch_norm", &KERNELS) else { return };
    let mut case = Case::new(5000, 5, Element::F32, false);
    case.x = random(1, 25_000).into_iter().map(|x| 1000. + x).collect();
    case.check(&case.run(&module, Order::Ascending));
}

#[test]
fn running_statistics_and_a_sum_taken_while_applying() {
    let Some(module) = compile("batch_norm", &KERNELS) else { return };
    for element in Element::BOTH {
        let (rows, channels) = (37, 11);
        let case = Case::new(rows, channels, element, true);
        let (mean, var) =
            (random(7, channels), random(8, channels).iter().map(|x| x * x).collect::<Vec<_>>());
        let pitch = pitch(channels);
        let [gamma, beta, on_mean, on_var] =
            [&case.gamma, &case.beta, &mean, &var].map(|values| Guarded::new(&values[..]));
        let affine = Guarded::new(&vec![f32::NAN; 4 * pitch]);
        module.launch(
            "batch_norm_running",
            Grid { blocks: (1, 1), threads: 128, shared: 0 },
            Order::Ascending,
            &Running {
                gamma: gamma.device(),
                beta: beta.device(),
                mean: on_mean.device(),
                var: on_var.device(),
                affine: affine.device(),
                epsilon: EPS,
                pitch: pitch as i32,
                channels: channels as i32,
            },
        );
        let [add, _] = case.add.as_ref().unwrap();
        let (x, on_add) = (Rows::new(element, &case.x, channels), Rows::new(element, add, channels));
        let y = Rows::unwritten(element, rows, channels);
        module.launch(
            &element.kernel("batch_norm_apply"),
            rows_grid(rows, channels),
            Order::Descending,
            &Apply {
                x: x.device(),
                add: on_add.device(),
                y: y.device(),
                affine: affine.device(),
                rows: rows as i64,
                mask: Mask::default(),
                pitch: pitch as i32,
                channels: channels as i32,
            },
        );
        let sum: Vec<f32> = case.x.iter().zip(add).map(|(x, add)| x + add).collect();
        let sum = element.round(&sum);
        assert_eq!(x.read(channels), sum);
        let (scale, shift) = scale_shift(&case.gamma, &case.beta, &mean, &var, EPS);
        let mut expected = vec![0.; sum.len()];
        plain::apply(&sum, Activation { scale: &scale, shift: &shift }, &mut expected);
        assert_close("y", &y.read(channels), &expected, element.tolerance(1e-5));

        // No gradient flows through the statistics.
        let parts = [0, 1, 2, 3].map(|index| affine[index * pitch..index * pitch + channels].to_vec());
        let [dx, dgamma, dbeta] =
            case.backward(&module, Order::Ascending, &x, &affine, BatchStatistics::Running);
        let gradients = [&dx[..], &dgamma, &dbeta];
        case.check_gradients("running statistics", &sum, &parts, BatchStatistics::Running, gradients);
    }
}

#[test]
fn a_value_that_is_no_number_stays_one() {
    let Some(module) = compile("batch_norm", &KERNELS) else { return };
    let mut case = Case::new(6, 4, Element::F32, false);
    case.x[5] = f32::NAN;
    let found = case.run(&module, Order::Ascending);
    assert!((0..6).all(|row| found.y[4 * row + 1].is_nan() && !found.y[4 * row].is_nan()));
    assert!(found.affine.iter().all(|values| values[1].is_nan() && values[0].is_finite()));
    // The ReLU lets the gradient pass there.
    let passed: f32 = case.dy.iter().skip(1).step_by(4).sum();
    assert!((found.dbeta[1] - passed).abs() <= 1e-5 && found.dgamma[1].is_nan());
    assert!((0..6).all(|row| found.dx[4 * row + 1].is_nan() && found.dx[4 * row].is_finite()));
}
