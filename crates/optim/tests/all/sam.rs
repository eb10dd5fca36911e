//! What SAM promises: the step in closed form, the weights restored whatever happens, any base optimizer, any
//! number of threads.

use candle_core::{Tensor, Var};
use candle_nn::Optimizer;
use proptest::prelude::*;
use wrn_sam_kernels::Cpu;
use wrn_sam_optim::{AdamW, AdamWConfig, Result, Sam, SamConfig, Sgd, SgdConfig};

use crate::common::{CPU, bits, climb, gradients};

fn sgd(vars: &[Var], learning_rate: f64) -> Result<Sgd> {
    Ok(Sgd::new(vars.to_vec(), SgdConfig::new(learning_rate))?)
}

/// On ½ Σ aᵢ wᵢ² the gradient is a·w everywhere, so a step is w - lr · a (w + ρ a w / ‖a w‖).
#[test]
fn a_quadratic_follows_the_closed_form() -> Result<()> {
    let a = [1.0, 4.0, 0.25];
    let mut expected = [2.0, -1.0, 0.5];
    let w = Var::new(&expected, CPU)?;
    let curvature = Tensor::new(&a, CPU)?;
    let config = SamConfig::sam(0.3);
    let mut sam = Sam::new(sgd(std::slice::from_ref(&w), 0.1)?, config)?;
    for _ in 0..20 {
        let loss = sam.step(|_| ((&curvature * w.sqr()?)?.sum_all()? * 0.5)?.contiguous())?;
        let value: f64 = (0..3).map(|i| a[i] * expected[i] * expected[i] / 2.0).sum();
        assert!((loss.to_scalar::<f64>()? - value).abs() < 1e-12);
        let norm = (0..3).map(|i| (a[i] * expected[i]).powi(2)).sum::<f64>().sqrt();
        expected = std::array::from_fn(|i| {
            expected[i] - 0.1 * a[i] * (expected[i] + 0.3 * a[i] * expected[i] / norm)
        });
        for (found, expected) in w.to_vec1::<f64>()?.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12);
        }
    }
    Ok(())
}

#[test]
fn the_norm_is_taken_over_all_parameters_together() -> Result<()> {
    let (v, w) = (Var::new(&[0f32], CPU)?, Var::new(&[[0f32]], CPU)?);
    let vars = vec![v.clone(), w.clone()];
    let mut sam = Sam::new(sgd(&vars, 0.1)?, SamConfig::sam(1.0))?;
    let g = gradients(&[(&v, &Tensor::new(&[3f32], CPU)?), (&w, &Tensor::new(&[[4f32]], CPU)?)]);
    let perturbed = climb(&mut sam, &g)?;
    assert_eq!(perturbed.grad_norm().to_scalar::<f64>()?, 5.0);
    assert_eq!((v.to_vec1::<f32>()?, w.to_vec2::<f32>()?), (vec![0.6], vec![vec![0.8]]));
    Ok(())
}

#[test]
fn other_norms_move_as_the_paper_says() -> Result<()> {
    let w = Var::new(&[1f64, 1.0, 1.0], CPU)?;
    let g = gradients(&[(&w, &Tensor::new(&[8f64, -1.0, 0.0], CPU)?)]);
    let moved = |p: f64| -> Result<Vec<f64>> {
        let config = SamConfig::sam(0.5).with_p(p);
        let mut sam = Sam::new(sgd(std::slice::from_ref(&w), 0.1)?, config)?;
        let _perturbed = climb(&mut sam, &g)?;
        Ok(w.to_vec1()?)
    };
    for (found, expected) in moved(f64::INFINITY)?.iter().zip([1.5, 0.5, 1.0]) {
        assert!((found - expected).abs() < 1e-11);
    }
    // q = 3/2: e = rho sign(g) √|g| / (Σ|g|^1.5)^(1/3)
    let norm = (8f64.powf(1.5) + 1.0).cbrt();
    for (found, expected) in moved(3.0)?.iter().zip([1.0 + 0.5 * 8f64.sqrt() / norm, 1.0 - 0.5 / norm, 1.0]) {
        assert!((found - expected).abs() < 1e-12);
    }
    Ok(())
}

#[test]
fn a_parameter_may_join_later() -> Result<()> {
    let (v, w) = (Var::new(&[1f64], CPU)?, Var::new(&[1f64], CPU)?);
    let vars = vec![v.clone(), w.clone()];
    let config = SgdConfig::default().with_momentum(0.5).with_dampening(0.5);
    let mut sam = Sam::new(Sgd::new(vars.clone(), config)?, SamConfig::default())?;
    sam.step(|_| v.sqr()?.sum_all())?;
    assert_eq!(w.to_vec1::<f64>()?, [1.0]);
    sam.step(|_| (v.sqr()? + w.sqr()?)?.sum_all())?;
    assert!(w.to_vec1::<f64>()?[0] < 0.8); // its first step is undampened
    Ok(())
}

/// The old weights are kept in one set of buffers, whatever the variables are called later.
#[test]
fn weights_set_between_steps_are_the_ones_restored() -> Result<()> {
    let w = Var::new(&[1f32, 2.0], CPU)?;
    let view = w.as_detached_tensor();
    let mut sam = Sam::new(sgd(std::slice::from_ref(&w), 0.1)?, SamConfig::default())?;
    for values in [[3f32, 4.0], [-1.0, 0.5]] {
        w.set(&Tensor::new(&values, CPU)?)?;
        let perturbed = climb(&mut sam, &w.sqr()?.sum_all()?.backward()?)?;
        assert_eq!(view.to_vec1::<f32>()?, w.to_vec1::<f32>()?); // views follow
        drop(perturbed);
        assert_eq!(w.to_vec1::<f32>()?, values);
        assert_eq!(view.to_vec1::<f32>()?, values);
    }
    Ok(())
}

#[test]
fn works_around_every_optimizer_and_descends() -> Result<()> {
    fn descend<O: Optimizer>(config: O::Config) -> Result<f32> {
        let w = Var::new(&[3f32, -2.0], CPU)?;
        let mut sam = Sam::over(vec![w.clone()], O::new(vec![w.clone()], config)?, SamConfig::default())?;
        for _ in 0..50 {
            sam.step(|_| w.sqr()?.sum_all())?;
        }
        Ok(w.sqr()?.sum_all()?.to_scalar()?)
    }
    assert!(descend::<Sgd>(SgdConfig::default().with_momentum(0.5).with_nesterov(true))? < 0.1);
    assert!(descend::<candle_nn::SGD>(0.1)? < 0.1);
    assert!(descend::<AdamW>(AdamWConfig::new(0.1))? < 1.0);
    let params = candle_nn::ParamsAdamW { lr: 0.1, ..Default::default() };
    assert!(descend::<candle_nn::AdamW>(params)? < 1.0);
    Ok(())
}

#[test]
fn any_number_of_threads_gives_the_same_bits() -> Result<()> {
    let train = |threads: usize| -> Result<Vec<u32>> {
        let context = Cpu::new(threads);
        let values = |len: usize| (0..len).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
        let vars = [70_001, 1_000, 40_000]
            .map(|len| Var::from_vec(values(len), len, CPU))
            .into_iter()
            .collect::<candle_core::Result<Vec<_>>>()?;
        let config = SgdConfig::default().with_momentum(0.9).with_weight_decay(5e-4);
        let base = Sgd::new(vars.clone(), config)?.with_cpu(context.clone());
        let sam = SamConfig::adaptive(0.5);
        let mut sam = Sam::new(base, sam)?.with_cpu(context);
        for _ in 0..3 {
            sam.step(|_| {
                let losses = vars.iter().map(|var| (var.sqr()? * 0.5)?.sum_all());
                losses.reduce(|a, b| a? + b?).expect("three parameters")
            })?;
        }
        bits(&vars)
    };
    let expected = train(1)?;
    for threads in [2, 3] {
        assert!(train(threads)? == expected, "{threads} threads");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// ‖e‖₂ = ρ, the first-order loss rises by ρ‖g‖, and dropping the guard gives every bit back.
    #[test]
    fn the_ascent_has_length_rho(
        (values, slopes) in (1usize..40).prop_flat_map(|len| {
            let element = -10.0..10.0f64;
            (prop::collection::vec(element.clone(), len), prop::collection::vec(element, len))
        }),
        rho in 1e-3..2.0f64,
    ) {
        let norm = slopes.iter().map(|g| g * g).sum::<f64>().sqrt();
        prop_assume!(norm > 1e-3);
        let w = Var::new(values.clone(), CPU)?;
        let g = gradients(&[(&w, &Tensor::new(slopes.clone(), CPU)?)]);
        let mut sam = Sam::new(sgd(std::slice::from_ref(&w), 0.1)?, SamConfig::sam(rho))?;
        let perturbed = climb(&mut sam, &g)?;
        let found: f64 = perturbed.grad_norm().to_scalar()?;
        prop_assert!((found - norm).abs() < 1e-12 * norm);
        let e: Vec<f64> = w.to_vec1::<f64>()?.iter().zip(&values).map(|(after, before)| after - before).collect();
        drop(perturbed);
        prop_assert_eq!(w.to_vec1::<f64>()?, values);
        prop_assert!((e.iter().map(|e| e * e).sum::<f64>().sqrt() - rho).abs() < 1e-8);
        let rise: f64 = e.iter().zip(&slopes).map(|(e, g)| e * g).sum();
        prop_assert!((rise - rho * norm).abs() < 1e-8 * norm.max(1.0));
    }
}
