//! Arguments that no measure takes.

use candle_core::{DType, Device, Tensor, Var};
use wrn_sam_analysis::hessian::{self, Lanczos};
use wrn_sam_analysis::{Ball, Error, Noise, Surface, landscape, sharpness};

use crate::var;

#[test]
fn values_out_of_range_are_named() {
    let w = var(&[1.0]);
    let mut surface = Surface::new(vec![("w".into(), w.clone())], 1, |_| w.sqr()).unwrap();
    let v = surface.weights().unwrap();
    let refused: [(Error, &str); 15] = [
        (sharpness::one_step(&mut surface, Ball::new(-0.1)).unwrap_err(), "rho = -0.1"),
        (sharpness::of_batches(&mut surface, Ball::new(f64::NAN)).unwrap_err(), "rho = NaN"),
        (sharpness::worst_case(&mut surface, Ball::new(f64::INFINITY), 3).unwrap_err(), "rho = inf"),
        (sharpness::worst_case(&mut surface, Ball::new(0.1), 0).unwrap_err(), "steps = 0"),
        (sharpness::average(&mut surface, Noise::new(-1.0)).unwrap_err(), "sigma = -1"),
        (sharpness::average(&mut surface, Noise::new(0.1).with_draws(1)).unwrap_err(), "draws = 1"),
        (hessian::product(&mut surface, &v, 0.0).unwrap_err(), "h = 0"),
        (hessian::trace(&mut surface, 0.1, 1, 0).unwrap_err(), "draws = 1"),
        (hessian::trace(&mut surface, f64::NAN, 2, 0).unwrap_err(), "h = NaN"),
        (
            hessian::largest_eigenvalue(&mut surface, Lanczos::default().with_iterations(0)).unwrap_err(),
            "iterations = 0",
        ),
        (
            hessian::largest_eigenvalue(&mut surface, Lanczos::default().with_tolerance(f64::NAN))
                .unwrap_err(),
            "tolerance = NaN",
        ),
        (hessian::largest_eigenvalue(&mut surface, Lanczos::default().with_h(-1.0)).unwrap_err(), "h = -1"),
        (landscape::grid(1.0, 1).unwrap_err(), "points = 1"),
        (landscape::grid(0.0, 3).unwrap_err(), "range = 0"),
        (Surface::new(vec![("w".into(), var(&[1.0]))], 0, |_| unreachable!()).unwrap_err(), "batches = 0"),
    ];
    for (error, text) in refused {
        assert!(matches!(error, Error::OutOfRange(_)) && error.to_string().starts_with(text), "{error}");
    }
}

#[test]
fn parameters_that_are_no_vector() {
    let none = Surface::new(vec![], 1, |_| unreachable!()).unwrap_err();
    assert!(matches!(none, Error::NoParameters), "{none}");
    let single = Var::zeros(2, DType::F32, &Device::Cpu).unwrap();
    let mixed = Surface::new(vec![("a".into(), var(&[1.0])), ("b".into(), single)], 1, |_| unreachable!());
    let error = mixed.unwrap_err().to_string();
    assert!(error.contains("F64") && error.contains("b is F32"), "{error}");
}

#[test]
fn a_loss_without_a_graph_or_numbers() {
    let w = var(&[1.0, 2.0]);
    let named = || vec![("w".to_string(), w.clone())];
    let mut surface = Surface::new(named(), 1, |_| Ok(w.as_detached_tensor())).unwrap();
    assert_eq!(surface.loss().unwrap(), 1.5);
    let error = surface.gradient().unwrap_err();
    assert!(matches!(error, Error::NoGradient), "{error}");
    let mut surface = Surface::new(named(), 1, |_| Tensor::zeros(0, DType::F64, &Device::Cpu)).unwrap();
    let error = surface.loss().unwrap_err().to_string();
    assert!(error.starts_with("the loss of a batch must have a number for each image"), "{error}");
}

#[test]
fn a_direction_of_another_surface() {
    let (w, other) = (var(&[1.0, 2.0]), var(&[1.0, 2.0, 3.0]));
    let stranger = Surface::new(vec![("w".into(), other)], 1, |_| unreachable!()).unwrap().weights().unwrap();
    let mut surface = Surface::new(vec![("w".into(), w.clone())], 1, |_| w.sqr()).unwrap();
    let error = hessian::product(&mut surface, &stranger, 0.1).unwrap_err().to_string();
    assert_eq!(error, "a direction must have [2], found [3]");
    let error =
        surface.direction(&[Tensor::zeros(3, DType::F64, &Device::Cpu).unwrap()]).unwrap_err().to_string();
    assert!(error.contains("[[2]]") && error.contains("[[3]]"), "{error}");
    assert_eq!(w.to_vec1::<f64>().unwrap(), [1.0, 2.0]);
}

/// A parameter that the loss does not use stays where it is, with a gradient of 0.
#[test]
fn a_parameter_that_is_not_used() {
    let (w, idle) = (var(&[3.0, 4.0]), var(&[7.0]));
    let named = vec![("idle".to_string(), idle.clone()), ("w".to_string(), w.clone())];
    let mut surface = Surface::new(named, 1, |_| w.sqr()?.sum_all()).unwrap();
    let (_, gradient) = surface.gradient().unwrap();
    assert_eq!(gradient.as_tensor().to_vec1::<f64>().unwrap(), [0.0, 6.0, 8.0]);
}
