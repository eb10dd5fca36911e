//! Whatever fails in a step, everything is what it was before it, to the bit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_optim::{
    AdamW, AdamWConfig, Error, OptimizerState, Pass, Result, Sam, SamConfig, Sgd, SgdConfig,
};

use crate::common::{CPU, bits, climb, first_line, gradients, named};

/// A model of one weight, one parameter that takes no part, and two buffers that every pass moves.
struct Model {
    vars: Vec<Var>,
    statistics: Var,
    count: Var,
}

impl Model {
    fn new() -> Result<Self> {
        Ok(Self {
            vars: vec![Var::new(&[[0.1f32, -0.2], [0.3, 1e-20]], CPU)?, Var::new(&[5f32], CPU)?],
            statistics: Var::new(&[0.25f32, -0.5], CPU)?,
            count: Var::new(41i64, CPU)?,
        })
    }

    fn loss(&self) -> candle_core::Result<Tensor> {
        let moved = (self.statistics.as_detached_tensor() * 0.9)?;
        self.statistics.set(&(moved + 0.1)?)?;
        self.count.set(&(self.count.as_detached_tensor() + 1.0)?)?;
        self.vars[0].sqr()?.sum_all()
    }

    fn gradients(&self) -> Result<GradStore> {
        Ok(self.loss()?.backward()?)
    }

    fn buffers(&self) -> Result<(Vec<u32>, i64)> {
        Ok((bits(std::slice::from_ref(&self.statistics))?, self.count.to_scalar()?))
    }

    fn sam<O: Optimizer>(&self, base: O) -> Result<Sam<O>> {
        let buffers = [&self.statistics, &self.count, &self.statistics].map(Var::clone);
        Sam::over(self.vars.clone(), base, SamConfig::default())?.with_buffers(buffers)
    }
}

fn momentum(vars: &[Var]) -> Result<Sgd> {
    Sgd::named(named(vars), SgdConfig::new(0.1).with_momentum(0.9))
}

fn described(state: Vec<(String, Tensor)>) -> Vec<String> {
    state.iter().map(|(name, tensor)| format!("{name} {tensor}")).collect()
}

/// The gradients that no step takes, and what the error says of each.
fn bad_gradients(w: &Var) -> Result<Vec<(GradStore, &'static str)>> {
    let of = |tensor: candle_core::Result<Tensor>| Ok::<_, Error>(gradients(&[(w, &tensor?)]));
    Ok(vec![
        (of(Tensor::full(f32::NAN, (2, 2), CPU))?, "norm is not finite"),
        (of(Tensor::full(f32::INFINITY, (2, 2), CPU))?, "norm is not finite (inf)"),
        (of(Tensor::full(f32::NEG_INFINITY, (2, 2), CPU))?, "norm is not finite (inf)"),
        (of(Tensor::ones(4, DType::F32, CPU))?, "must be [2, 2] F32 on Cpu, found [4] F32 on Cpu"),
        (of(Tensor::ones((2, 2), DType::F64, CPU))?, "must be [2, 2] F32 on Cpu, found [2, 2] F64 on Cpu"),
        (GradStore::default(), "none of the 2 parameters has a gradient"),
    ])
}

#[test]
fn a_step_that_fails_anywhere_changes_nothing() -> Result<()> {
    let model = Model::new()?;
    let mut sam = model.sam(momentum(&model.vars)?)?;
    sam.step(|_| model.loss())?; // so that there is a state to spoil
    let state =
        |sam: &Sam<Sgd>| Ok::<_, Error>((bits(&model.vars)?, model.buffers()?, described(sam.state()?)));
    let before = state(&sam)?;

    for (bad, said) in bad_gradients(&model.vars[0])? {
        let step = sam.begin()?;
        model.gradients()?;
        let error = step.climb(&bad).expect_err(said).to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(state(&sam)?, before, "{said}, first pass");

        let step = sam.begin()?;
        let perturbed = step.climb(&model.gradients()?)?.expect("rho is above 0");
        model.gradients()?;
        let error = perturbed.descend(&bad).expect_err(said).to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(state(&sam)?, before, "{said}, second pass");
    }

    for failing in [Pass::First, Pass::Second] {
        let mut run = |fail: &dyn Fn() -> candle_core::Result<Tensor>| {
            sam.step(|pass| if pass == failing { model.loss().and_then(|_| fail()) } else { model.loss() })
        };
        let error =
            run(&|| candle_core::bail!("the model failed")).expect_err("from the closure").to_string();
        assert!(error.contains("the model failed"), "{error}");
        let error = run(&|| model.vars[0].sqr()).expect_err("not a scalar").to_string();
        assert!(error.contains("single number, found shape [2, 2]"), "{error}");
        let panicked = catch_unwind(AssertUnwindSafe(|| run(&|| panic!("in a pass"))));
        assert!(panicked.is_err());
        assert_eq!(state(&sam)?, before, "{failing:?}");
    }

    sam.set_learning_rate(f64::NAN);
    let error = sam.step(|_| model.loss()).expect_err("a learning rate of NaN").to_string();
    assert_eq!(error, "learning_rate = NaN: must be a finite number");
    sam.set_learning_rate(-0.1);
    let error = sam.step(|_| model.loss()).expect_err("from the base").to_string();
    assert!(error.contains("learning_rate = -0.1: must be a number of at least 0"), "{error}");
    sam.set_learning_rate(0.1);
    assert_eq!(state(&sam)?, before, "learning rates");
    Ok(())
}

#[test]
fn the_error_names_the_parameter_and_the_pass() -> Result<()> {
    let model = Model::new()?;
    let mut sam = Sam::new(momentum(&model.vars)?, SamConfig::default())?;
    let good = model.gradients()?;
    let bad = gradients(&[(&model.vars[0], &Tensor::full(f32::NAN, (2, 2), CPU)?)]);
    let first = sam.begin()?.climb(&bad).expect_err("not finite");
    assert!(
        matches!(&first, Error::NonFiniteGradient { parameter, pass: Pass::First, .. } if parameter == "layer2.weight")
    );
    assert_eq!(
        first.to_string(),
        "the gradient's norm is not finite (NaN), first at parameter layer2.weight of shape [2, 2], in the first pass of \
         the step; nothing was changed, so this batch can be skipped; if it happens again, look for bad values in the \
         batch, or lower the learning rate"
    );
    let second = climb(&mut sam, &good)?.descend(&bad).expect_err("not finite").to_string();
    assert!(second.contains("in the second pass") && second.ends_with("lower rho"), "{second}");
    let mut unnamed = Sam::over(model.vars.clone(), momentum(&model.vars)?, SamConfig::default())?;
    let error = unnamed.begin()?.climb(&bad).expect_err("not finite").to_string();
    assert!(error.contains("at parameter 0 of shape"), "{error}");
    Ok(())
}

#[test]
fn a_dropped_or_leaked_guard_changes_nothing() -> Result<()> {
    let model = Model::new()?;
    let mut sam = model.sam(momentum(&model.vars)?)?;
    let before = (bits(&model.vars)?, model.buffers()?);

    let step = sam.begin()?;
    model.gradients()?;
    assert_ne!(model.buffers()?, before.1);
    drop(step);
    assert_eq!((bits(&model.vars)?, model.buffers()?), before);

    let step = sam.begin()?;
    drop(step.climb(&model.gradients()?)?);
    assert_eq!((bits(&model.vars)?, model.buffers()?), before);

    let step = sam.begin()?;
    std::mem::forget(step.climb(&model.gradients()?)?);
    assert_ne!(bits(&model.vars)?, before.0);
    drop(sam.begin()?);
    assert_eq!((bits(&model.vars)?, model.buffers()?), before);

    sam.step(|_| model.loss())?;
    assert_ne!(bits(&model.vars)?, before.0);
    assert_eq!(model.vars[1].to_vec1::<f32>()?, [5.0]); // no gradient: neither perturbed nor stepped
    Ok(())
}

#[test]
fn buffers_move_in_the_first_pass_only() -> Result<()> {
    let model = Model::new()?;
    let mut sam = model.sam(momentum(&model.vars)?)?;
    sam.step(|_| model.loss())?;
    assert_eq!(model.count.to_scalar::<i64>()?, 42);
    assert_eq!(model.statistics.to_vec1::<f32>()?, [0.25f32 * 0.9 + 0.1, -0.5f32 * 0.9 + 0.1]);
    sam.set_rho(0.0)?;
    sam.step(|_| model.loss())?;
    assert_eq!(model.count.to_scalar::<i64>()?, 43);
    Ok(())
}

/// As when all variables of a `VarMap` are given as both.
#[test]
fn a_parameter_may_be_a_buffer_too() -> Result<()> {
    let (model, other) = (Model::new()?, Model::new()?);
    let mut sam = model.sam(momentum(&model.vars)?)?.with_buffers(model.vars.clone())?;
    let mut expected = other.sam(momentum(&other.vars)?)?;
    for _ in 0..3 {
        sam.step(|_| model.loss())?;
        expected.step(|_| other.loss())?;
        assert_eq!((bits(&model.vars)?, model.buffers()?), (bits(&other.vars)?, other.buffers()?));
    }
    Ok(())
}

/// An optimizer of another crate: it moves its variables one by one, and fails at the second.
struct FailsHalfway(Vec<Var>);

impl Optimizer for FailsHalfway {
    type Config = ();

    fn new(vars: Vec<Var>, (): ()) -> candle_core::Result<Self> {
        Ok(Self(vars))
    }

    fn step(&mut self, _: &GradStore) -> candle_core::Result<()> {
        self.0[0].set(&self.0[0].zeros_like()?)?;
        candle_core::bail!("halfway")
    }

    fn learning_rate(&self) -> f64 {
        1.0
    }

    fn set_learning_rate(&mut self, _: f64) {}
}

#[test]
fn a_base_that_fails_halfway_moves_no_weight() -> Result<()> {
    let model = Model::new()?;
    let before = (bits(&model.vars)?, model.buffers()?);
    for rho in [0.05, 0.0] {
        let mut sam = model.sam(FailsHalfway(model.vars.clone()))?;
        sam.set_rho(rho)?;
        let error = sam.step(|_| model.loss()).expect_err("halfway").to_string();
        assert!(error.contains("halfway"), "{error}");
        assert_eq!((bits(&model.vars)?, model.buffers()?), before, "rho {rho}");
    }
    Ok(())
}

#[test]
fn a_base_with_other_variables_is_found_out() -> Result<()> {
    fn check<O: Optimizer>(config: impl Fn() -> O::Config) -> Result<()> {
        let (w, other) = (Var::new(&[1f32, 2.0], CPU)?, Var::new(&[1f32, 2.0], CPU)?);
        for rho in [0.05, 0.0] {
            let base = O::new(vec![other.clone()], config())?;
            let mut sam = Sam::over(vec![w.clone()], base, SamConfig::sam(rho))?;
            // Its own check or SAM's: an error in any case.
            let error = sam.step(|_| w.sqr()?.sum_all()).expect_err("other variables").to_string();
            assert!(error.contains("same variables as Sam") || error.contains("has a gradient"), "{error}");
            assert_eq!(w.to_vec1::<f32>()?, [1.0, 2.0]);
        }
        Ok(())
    }
    check::<candle_nn::SGD>(|| 0.1)?;
    check::<candle_nn::AdamW>(candle_nn::ParamsAdamW::default)?;
    check::<Sgd>(SgdConfig::default)?;

    // Nothing to object to: no learning rate, or no slope.
    let w = Var::new(&[1f32, 0.0], CPU)?;
    let mut sam =
        Sam::over(vec![w.clone()], candle_nn::SGD::new(vec![w.clone()], 0.0)?, SamConfig::default())?;
    sam.step(|_| w.sqr()?.sum_all())?;
    sam.set_learning_rate(0.5);
    sam.set_rho(0.0)?;
    sam.step(|_| (w.as_tensor() - w.detach())?.sqr()?.sum_all())?;
    sam.step(|_| w.sqr()?.sum_all())?;
    assert_eq!(w.to_vec1::<f32>()?, [0.0, 0.0]);
    sam.step(|_| w.sqr()?.sum_all())?; // at the minimum
    Ok(())
}

/// Without SAM, an optimizer promises the same.
#[test]
fn a_failed_step_of_a_base_changes_nothing() -> Result<()> {
    fn check<O: Optimizer + OptimizerState>(model: &Model, mut base: O) -> Result<()> {
        let second = Tensor::ones(1, DType::F64, CPU)?; // the first is fine, the second is not
        let good = Tensor::ones((2, 2), DType::F32, CPU)?;
        let mixed = gradients(&[(&model.vars[0], &good), (&model.vars[1], &second)]);
        base.step(&gradients(&[(&model.vars[0], &good)]))?;
        let before = (bits(&model.vars)?, described(base.state()?));
        let mut bad = bad_gradients(&model.vars[0])?.split_off(3);
        bad.push((mixed, "must be [1] F32 on Cpu, found [1] F64 on Cpu"));
        for (bad, said) in bad {
            let error = base.step(&bad).expect_err(said).to_string();
            assert!(error.contains(said), "{error}");
            assert_eq!((bits(&model.vars)?, described(base.state()?)), before, "{said}");
        }
        let rate = base.learning_rate();
        for wrong in [f64::NAN, f64::INFINITY, -1.0] {
            base.set_learning_rate(wrong);
            let error = base.step(&gradients(&[(&model.vars[0], &good)])).expect_err("a bad rate");
            let expected = format!("learning_rate = {wrong}: must be a number of at least 0");
            assert_eq!(first_line(error), expected);
            base.set_learning_rate(rate);
            assert_eq!((bits(&model.vars)?, described(base.state()?)), before, "{wrong}");
        }
        Ok(())
    }
    let model = Model::new()?;
    check(&model, momentum(&model.vars)?)?;
    check(&model, AdamW::named(named(&model.vars), AdamWConfig::default())?)
}
