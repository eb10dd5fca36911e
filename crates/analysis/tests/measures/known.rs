//! Functions whose sharpness, Hessian and landscape can be computed by hand.

use candle_core::{DType, Device, Tensor, Var};
use wrn_sam_analysis::hessian::{self, Lanczos};
use wrn_sam_analysis::{Ball, Noise, Surface, landscape, sharpness};

use crate::{bowl, near, var};

const CURVATURE: [[f64; 3]; 2] = [[9.0, 4.0, 1.0], [0.5, -3.0, 0.0]];

fn curvature() -> [Tensor; 2] {
    CURVATURE.map(|values| Tensor::new(&values, &Device::Cpu).unwrap())
}

#[test]
fn one_step_of_a_bowl() {
    let w = [var(&[1.0, -2.0, 0.5]), var(&[3.0, 1.0, -1.0])];
    let curvature = curvature();
    let mut surface = bowl(&w, &curvature);
    let c: Vec<f64> = CURVATURE.concat();
    let at: Vec<f64> = w.iter().flat_map(|w| w.to_vec1::<f64>().unwrap()).collect();
    let loss = |w: &[f64]| 0.5 * w.iter().zip(&c).map(|(w, c)| c * w * w).sum::<f64>();
    for adaptive in [false, true] {
        // T g with g = c w, and δ = ρ T² g / ‖T g‖.
        let scale = |w: f64| if adaptive { w.abs() } else { 1.0 };
        let scaled: Vec<f64> = at.iter().zip(&c).map(|(&w, c)| scale(w) * c * w).collect();
        let norm = scaled.iter().map(|x| x * x).sum::<f64>().sqrt();
        let there: Vec<f64> = at.iter().zip(&scaled).map(|(&w, u)| w + 0.3 * scale(w) * u / norm).collect();
        let ball = Ball::new(0.3).with_adaptive(adaptive);
        near(sharpness::one_step(&mut surface, ball).unwrap(), loss(&there) - loss(&at), 1e-9);
    }
    assert_eq!(sharpness::one_step(&mut surface, Ball::new(0.0)).unwrap(), 0.0);
}

/// On ½ c (w + r)² in one variable the worst place in the ball is its end, and every iterate beyond it is brought back.
#[test]
fn the_worst_case_is_at_the_end_of_the_ball() {
    let w = var(&[2.0]);
    let named = vec![("w".to_string(), w.clone())];
    let mut surface = Surface::new(named, 1, |_| w.sqr()?.sum_all()).unwrap();
    for steps in [3, 7, 20] {
        near(sharpness::worst_case(&mut surface, Ball::new(0.5), steps).unwrap(), 6.25 - 4.0, 1e-9);
        let adaptive = Ball::new(0.5).with_adaptive(true); // the ball's end is w + |w| / 2
        near(sharpness::worst_case(&mut surface, adaptive, steps).unwrap(), 9.0 - 4.0, 1e-9);
    }
    // Two steps of 2.5 ρ / 4 reach 1.25 ρ; one does not reach the end.
    near(sharpness::worst_case(&mut surface, Ball::new(0.4), 4).unwrap(), 2.4f64.powi(2) - 4.0, 1e-9);
}

/// Ascent from w finds a larger loss than one step does, and the ball's true maximum bounds it.
#[test]
fn the_worst_case_lies_between_one_step_and_the_maximum() {
    let w = [var(&[0.01, 0.0, 0.0]), var(&[2.0, 0.0, 0.0])];
    let curvature = curvature();
    let mut surface = bowl(&w, &curvature);
    let ball = Ball::new(1.0);
    let one = sharpness::one_step(&mut surface, ball).unwrap();
    let worst = sharpness::worst_case(&mut surface, ball, 40).unwrap();
    let maximum = 0.5 * 9.0 * 1.01f64.powi(2) + 0.5 * 0.5 * 3.0f64.powi(2); // above it in either direction
    assert!(one < worst && worst < maximum, "{one} {worst} {maximum}");
    assert!(worst > 3.0 * one, "ascent turns to the steep side: {one} {worst}");
}

#[test]
fn m_sharpness_takes_each_batch_by_itself() {
    let w = var(&[0.0]);
    let named = || vec![("w".to_string(), w.clone())];
    // Two batches that pull apart: together they have no slope, each alone has.
    let slopes = [vec![1.0], vec![-1.0, -3.0]];
    let loss = |batch: usize| w.broadcast_mul(&Tensor::new(slopes[batch].as_slice(), &Device::Cpu)?);
    let mut surface = Surface::new(named(), 2, loss).unwrap();
    // Rises of 1 ρ (one image) and 2 ρ (two images).
    near(sharpness::of_batches(&mut surface, Ball::new(0.1)).unwrap(), 0.1 * (1.0 + 2.0 * 2.0) / 3.0, 1e-9);
    near(sharpness::one_step(&mut surface, Ball::new(0.1)).unwrap(), 0.1, 1e-9);
    // The mean over images, not over batches.
    let (_, gradient) = surface.gradient().unwrap();
    near(gradient.as_tensor().to_vec1::<f64>().unwrap()[0], -1.0, 1e-12);
}

/// E[L(w + σ T z)] - L(w) = σ²/2 Σ Tᵢ² cᵢ.
#[test]
fn average_sharpness_is_half_the_trace() {
    let w = [var(&[1.0, -2.0, 0.5]), var(&[3.0, 1.0, -1.0])];
    let curvature = curvature();
    let mut surface = bowl(&w, &curvature);
    for (adaptive, trace) in [(false, 11.5), (true, 9.0 + 16.0 + 0.25 + 4.5 - 3.0)] {
        let noise = Noise::new(0.1).with_adaptive(adaptive).with_draws(2000).with_seed(17);
        let estimate = sharpness::average(&mut surface, noise).unwrap();
        let off = (estimate.mean - 0.005 * trace).abs();
        assert!(off < 4.0 * estimate.standard_error, "{estimate:?}");
        assert!(estimate.standard_error < 0.1, "{estimate:?}");
    }
    let again =
        |seed| sharpness::average(&mut surface_of(&w, &curvature), Noise::new(0.1).with_seed(seed)).unwrap();
    fn surface_of<'a>(w: &'a [Var; 2], curvature: &'a [Tensor; 2]) -> Surface<'a> {
        bowl(w, curvature)
    }
    assert_eq!(again(3), again(3));
    assert_ne!(again(3), again(4));
}

/// The central difference of a quadratic gradient is exact: L = Σ w³/6 has H = diag(w).
#[test]
fn products_by_differences_are_central() {
    let w = var(&[1.0, -2.0, 0.5]);
    let named = vec![("w".to_string(), w.clone())];
    let mut surface = Surface::new(named, 1, |_| w.powf(3.0)?.sum_all()? / 6.0).unwrap();
    let v = surface.direction(&[Tensor::new(&[2.0, 3.0, -4.0], &Device::Cpu).unwrap()]).unwrap();
    for h in [1e-3, 0.1, 2.0] {
        let found = hessian::product(&mut surface, &v, h).unwrap().as_tensor().to_vec1::<f64>().unwrap();
        for (found, expected) in found.into_iter().zip([2.0, -6.0, -2.0]) {
            near(found, expected, 1e-9);
        }
    }
    let zero = v.scaled(0.0).unwrap();
    assert_eq!(hessian::product(&mut surface, &zero, 0.1).unwrap().norm().unwrap(), 0.0);
}

#[test]
fn lanczos_finds_the_largest_eigenvalue_not_the_largest_size() {
    let w = [var(&[0.3, 0.1, -0.2]), var(&[0.5, 0.4, 0.3])];
    let curvature = [[2.0, 1.0, 0.5], [-9.0, 0.25, 0.0]].map(|c| Tensor::new(&c, &Device::Cpu).unwrap());
    let mut surface = bowl(&w, &curvature);
    let found = hessian::largest_eigenvalue(&mut surface, Lanczos::default().with_tolerance(0.0)).unwrap();
    near(found.value, 2.0, 1e-8);
    assert!(found.residual < 1e-8 && found.iterations <= 6);
    near(found.ritz_values[found.ritz_values.len() - 1], -9.0, 1e-8);
    near(found.vector.as_tensor().to_vec1::<f64>().unwrap()[0].abs(), 1.0, 1e-8);
}

/// A dense H of a known spectrum, in f32, larger than the basis: H = U diag(λ) Uᵀ with a reflection U.
#[test]
fn lanczos_in_single_precision_on_a_dense_matrix() {
    const N: usize = 200;
    let mut lambda: Vec<f32> = (0..N).map(|i| i as f32 / N as f32).collect();
    (lambda[7], lambda[8]) = (30.0, 20.0);
    let tensor = |values: Vec<f32>| Tensor::from_vec(values, N, &Device::Cpu).unwrap();
    let lambda = tensor(lambda);
    let unit = tensor((0..N).map(|i| (0.37 * i as f32).sin()).collect());
    let unit = unit.broadcast_div(&unit.sqr().unwrap().sum_all().unwrap().sqrt().unwrap()).unwrap();
    let w = Var::zeros(N, DType::F32, &Device::Cpu).unwrap();
    let loss = |_| {
        // ½ Σ λ (U w)², U = 1 - 2 u uᵀ
        let turned = (w.as_tensor() - (unit.broadcast_mul(&(w.mul(&unit)?.sum_all()? * 2.0)?))?)?;
        (turned.sqr()? * &lambda)?.sum_all()? * 0.5
    };
    let mut surface = Surface::new(vec![("w".into(), w.clone())], 1, loss).unwrap();
    let lanczos = Lanczos::default().with_iterations(20).with_h(1.0).with_seed(5);
    let found = hessian::largest_eigenvalue(&mut surface, lanczos).unwrap();
    near(found.value, 30.0, 1e-4);
    assert!(found.residual < 0.05 && found.iterations < 20, "{} {}", found.residual, found.iterations);
    near(found.ritz_values[1], 20.0, 0.05);
    let trace = hessian::trace(&mut surface, 1.0, 60, 1).unwrap();
    let expected = 50.0 + (0..N).filter(|i| ![7, 8].contains(i)).map(|i| i as f64 / N as f64).sum::<f64>();
    assert!((trace.mean - expected).abs() < 4.0 * trace.standard_error, "{trace:?} for {expected}");
}

/// Of a diagonal H every draw is the trace.
#[test]
fn the_trace_of_a_diagonal_matrix() {
    let w = [var(&[0.3, 0.1, -0.2]), var(&[0.5, 0.4, 0.3])];
    let curvature = curvature();
    let trace = hessian::trace(&mut bowl(&w, &curvature), 0.1, 5, 9).unwrap();
    near(trace.mean, 11.5, 1e-9);
    assert!(trace.standard_error < 1e-9 && trace.draws == 5);
}

#[test]
fn filters_keep_their_length_and_vectors_do_not_move() {
    let matrix = Var::new(&[[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]], &Device::Cpu).unwrap();
    let named =
        vec![("conv.weight".to_string(), matrix.clone()), ("norm.weight".to_string(), var(&[5.0, 6.0]))];
    let surface = Surface::new(named, 1, |_| matrix.sqr()).unwrap();
    let d = landscape::direction(&surface, 17, 0).unwrap();
    let parts = surface.parts(&d).unwrap();
    let rows = parts[0].to_vec2::<f64>().unwrap();
    for (row, length) in rows.iter().zip([5.0, 0.0, 1.0]) {
        near(row[0].hypot(row[1]), length, 1e-8);
    }
    assert_eq!(parts[1].to_vec1::<f64>().unwrap(), [0.0, 0.0]);
}

#[test]
fn a_line_and_a_plane_are_the_function() {
    let w = Var::new(&[[1.0, 2.0]], &Device::Cpu).unwrap();
    let mut surface = Surface::new(vec![("w".into(), w.clone())], 1, |_| w.sqr()?.sum_all()).unwrap();
    let [right, up] = [[[1.0, 0.0]], [[0.0, 1.0]]]
        .map(|part| surface.direction(&[Tensor::new(&part, &Device::Cpu).unwrap()]).unwrap());
    let (a, b) = ([-1.0, 0.0, 2.0], [0.5, 1.0]);
    let values = landscape::plane(&mut surface, [&right, &up], [&a, &b], |surface| surface.loss()).unwrap();
    let expected: Vec<f64> =
        b.iter().flat_map(|b| a.map(|a| (1.0 + a) * (1.0 + a) + (2.0 + b) * (2.0 + b))).collect();
    assert_eq!(values, expected);
    // Anything else can be measured there too.
    let weights = landscape::line(&mut surface, &right, &a, |_| Ok(w.to_vec2::<f64>()?[0][0])).unwrap();
    assert_eq!(weights, [0.0, 1.0, 3.0]);
}

#[test]
fn draws_follow_the_name_not_the_order() {
    let named = |names: [&str; 2]| names.map(|name| (name.to_string(), var(&[0.0; 4]))).to_vec();
    let draw = |names, seed, draw| {
        let surface = Surface::new(named(names), 1, |_| unreachable!()).unwrap();
        surface.gaussian(seed, draw).unwrap().as_tensor().to_vec1::<f64>().unwrap()
    };
    let (one, other) = (draw(["a", "b"], 1, 0), draw(["b", "a"], 1, 0));
    assert_eq!(one[..4], other[4..]);
    assert_eq!(one[4..], other[..4]);
    assert_ne!(one, draw(["a", "b"], 2, 0));
    assert_ne!(one, draw(["a", "b"], 1, 1));
    let signs = Surface::new(named(["a", "b"]), 1, |_| unreachable!()).unwrap().signs(1, 0).unwrap();
    assert!(signs.as_tensor().to_vec1::<f64>().unwrap().iter().all(|x| x.abs() == 1.0));
}
