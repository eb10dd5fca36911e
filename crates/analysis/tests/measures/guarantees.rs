//! What every measure promises: the weights are back to the bit, and the observer hears the whole way.

use std::cell::{Cell, RefCell};

use candle_core::{Device, Tensor, Var};
use wrn_sam_analysis::hessian::{self, Lanczos};
use wrn_sam_analysis::{Ball, Noise, Progress, Result, Surface, landscape, sharpness};

type Measure = fn(&mut Surface<'_>) -> Result<()>;

/// Every measure, and the passes over one batch that it says it takes with two batches.
const MEASURES: [(Measure, usize); 9] = [
    (|surface| sharpness::one_step(surface, Ball::new(0.1)).map(drop), 4),
    (|surface| sharpness::one_step(surface, Ball::new(0.1).with_adaptive(true)).map(drop), 4),
    (|surface| sharpness::of_batches(surface, Ball::new(0.1)).map(drop), 4),
    (|surface| sharpness::worst_case(surface, Ball::new(0.1), 3).map(drop), 8),
    (|surface| sharpness::average(surface, Noise::new(0.1).with_draws(3)).map(drop), 8),
    (|surface| hessian::product(surface, &surface.gaussian(0, 0)?, 0.01).map(drop), 4),
    (|surface| hessian::trace(surface, 0.01, 2, 0).map(drop), 8),
    (|surface| hessian::largest_eigenvalue(surface, Lanczos::default().with_iterations(3)).map(drop), 16),
    (
        |surface| {
            let [d, e] = [landscape::direction(surface, 0, 0)?, landscape::direction(surface, 0, 1)?];
            landscape::plane(surface, [&d, &e], [&[-0.1, 0.0], &[0.1, 0.3]], |surface| surface.loss())
                .map(drop)
        },
        8,
    ),
];

/// Awkward numbers: what w + a - a would not give back.
fn weights() -> [Var; 2] {
    let matrix: Vec<f32> = (0..6).map(|i| (1.0 + 0.1 * i as f32).recip() * 10f32.powi(i - 3)).collect();
    let matrix = Tensor::from_vec(matrix, (2, 3), &Device::Cpu).unwrap();
    let bias = Tensor::new(&[1e-30f32, -7.7], &Device::Cpu).unwrap();
    [Var::from_tensor(&matrix).unwrap(), Var::from_tensor(&bias).unwrap()]
}

fn bits(w: &[Var; 2]) -> Vec<u32> {
    let values = w.iter().flat_map(|w| w.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    values.map(f32::to_bits).collect()
}

/// A smooth function of all weights, another in each batch.
fn loss(w: &[Var; 2], batch: usize) -> candle_core::Result<Tensor> {
    let x = Tensor::new(&[0.3f32, -0.2, 0.5 + batch as f32], &Device::Cpu)?;
    let y = w[0].broadcast_mul(&x)?.sum(1)?.tanh()?;
    (y - w[1].tanh()?)?.sqr()
}

fn named(w: &[Var; 2]) -> Vec<(String, Var)> {
    vec![("weight".into(), w[0].clone()), ("bias".into(), w[1].clone())]
}

#[test]
fn the_weights_are_back_to_the_bit() {
    for (index, (measure, _)) in MEASURES.iter().enumerate() {
        let w = weights();
        let before = bits(&w);
        let mut surface = Surface::new(named(&w), 2, |batch| loss(&w, batch)).unwrap();
        measure(&mut surface).unwrap_or_else(|error| panic!("measure {index}: {error}"));
        assert_eq!(bits(&w), before, "measure {index}");
    }
}

#[test]
fn an_error_or_panic_in_any_pass_leaves_the_weights_as_they_were() {
    for (index, (measure, passes)) in MEASURES.iter().enumerate() {
        for failing in 0..*passes {
            for panics in [false, true] {
                let (w, called) = (weights(), Cell::new(0));
                let before = bits(&w);
                let mut surface = Surface::new(named(&w), 2, |batch| {
                    if called.replace(called.get() + 1) == failing {
                        assert!(!panics, "asked to");
                        candle_core::bail!("no such batch");
                    }
                    loss(&w, batch)
                })
                .unwrap();
                let run = std::panic::AssertUnwindSafe(|| measure(&mut surface));
                let result = std::panic::catch_unwind(run);
                // An iteration may end before its last pass.
                if called.get() > failing {
                    assert_eq!(result.is_err(), panics, "measure {index}, pass {failing}");
                    if let Ok(result) = result {
                        assert!(result.unwrap_err().to_string().contains("no such batch"));
                    }
                }
                drop(surface);
                assert_eq!(bits(&w), before, "measure {index}, pass {failing}");
            }
        }
    }
}

/// A loss that is not finite somewhere in the neighborhood is an error, but for a landscape, which shows it.
#[test]
fn what_is_not_finite_is_named() {
    for (index, (measure, _)) in MEASURES.iter().enumerate() {
        let (w, called) = (weights(), Cell::new(0));
        let before = bits(&w);
        let mut surface = Surface::new(named(&w), 2, |batch| {
            let first_batches = called.replace(called.get() + 1) < 2;
            if first_batches { loss(&w, batch) } else { loss(&w, batch)? * f64::NAN }
        })
        .unwrap();
        let result = measure(&mut surface);
        let is_landscape = index == MEASURES.len() - 1;
        match result {
            Ok(()) => assert!(is_landscape, "measure {index}"),
            Err(error) => assert!(!is_landscape && error.to_string().contains("not finite"), "{error}"),
        }
        drop(surface);
        assert_eq!(bits(&w), before, "measure {index}");
    }
}

#[test]
fn the_observer_hears_every_pass_and_the_end() {
    for (index, (measure, passes)) in MEASURES.iter().enumerate() {
        let (w, heard) = (weights(), RefCell::new(Vec::<Progress>::new()));
        let surface = Surface::new(named(&w), 2, |batch| loss(&w, batch)).unwrap();
        let mut surface = surface.with_progress(|progress| heard.borrow_mut().push(progress));
        measure(&mut surface).unwrap();
        surface.loss().unwrap(); // by itself no measure
        drop(surface);
        let heard = heard.into_inner();
        let done: Vec<_> = heard.iter().map(|progress| progress.done).collect();
        assert!(done.windows(2).all(|pair| pair[0] < pair[1]), "measure {index}: {done:?}");
        assert_eq!(done.last(), Some(passes), "measure {index}");
        assert!(heard.iter().all(|progress| progress.total == *passes && !progress.measure.is_empty()));
        assert!(done.len() > passes / 2, "measure {index}: {done:?}");
    }
}

/// Half-precision and double weights are moved and brought back as single ones are.
#[test]
fn a_surface_of_another_type() {
    let w = Var::new(&[1.0f64 / 3.0, 2.0], &Device::Cpu).unwrap();
    let before = w.to_vec1::<f64>().unwrap();
    let mut surface = Surface::new(vec![("w".into(), w.clone())], 1, |_| w.sqr()?.sum_all()).unwrap();
    sharpness::worst_case(&mut surface, Ball::new(0.1), 4).unwrap();
    drop(surface);
    assert_eq!(w.to_vec1::<f64>().unwrap(), before);
}
