//! What is refused: every hyper-parameter's range, and lists of variables that cannot be optimized.

use candle_core::{DType, Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::Cpu;
use wrn_sam_optim::{
    AdamW, AdamWConfig, Along, Descent, Error, OptimizerState, Result, Sam, SamConfig, Scale, Sgd, SgdConfig,
    Variables, When,
};

use crate::common::{CPU, first_line, gradients, named};

const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

/// Checks that each value is refused as (name, value), and that none of the good ones is.
#[track_caller]
fn check<C: Copy>(
    validate: impl Fn(&C) -> Result<()>,
    with: impl Fn(f64) -> C,
    name: &str,
    bad: &[f64],
    good: &[f64],
) {
    for &value in bad {
        let error = validate(&with(value)).expect_err(name);
        assert!(matches!(&error, Error::OutOfRange(error) if error.name == name), "{error:?}");
        assert!(error.to_string().starts_with(&format!("{name} = {value}: must be ")), "{error}");
    }
    for &value in good {
        assert!(validate(&with(value)).is_ok(), "{name} = {value}");
    }
}

const NOT_NEGATIVE: [f64; 4] = [-1e-300, -1.0, NAN, INF];

#[test]
fn every_range_of_sgd() {
    let (valid, validate) = (SgdConfig::default(), SgdConfig::validate);
    check(validate, SgdConfig::new, "learning_rate", &NOT_NEGATIVE, &[0.0, 1e-300, 1e300]);
    check(validate, |x| valid.with_learning_rate(x), "learning_rate", &NOT_NEGATIVE, &[0.0, 1.0]);
    check(validate, |x| valid.with_momentum(x), "momentum", &NOT_NEGATIVE, &[0.0, 0.9, 1.5]);
    check(validate, |x| valid.with_dampening(x), "dampening", &[NAN, INF, -INF], &[0.0, -1.0, 2.0]);
    check(validate, |x| valid.with_weight_decay(x), "weight_decay", &NOT_NEGATIVE, &[0.0, 5e-4]);
    for (momentum, dampening, defined) in
        [(0.9, 0.0, true), (0.0, 0.0, false), (0.9, 0.1, false), (0.9, -0.1, false), (0.0, 0.1, false)]
    {
        let config = valid.with_momentum(momentum).with_dampening(dampening);
        assert!(config.validate().is_ok());
        let nesterov = config.with_nesterov(true).validate();
        assert_eq!(nesterov.is_ok(), defined, "{momentum} {dampening}");
        assert!(
            defined || nesterov.is_err_and(|error| error.to_string().starts_with("nesterov = true: must be"))
        );
    }
}

#[test]
fn every_range_of_adamw() {
    let (valid, validate) = (AdamWConfig::default(), AdamWConfig::validate);
    check(validate, AdamWConfig::new, "learning_rate", &NOT_NEGATIVE, &[0.0, 1e-300, 1e300]);
    check(validate, |x| valid.with_learning_rate(x), "learning_rate", &NOT_NEGATIVE, &[0.0, 1.0]);
    check(validate, |x| valid.with_beta1(x), "beta1", &[-0.1, 1.0, 1.5, NAN, INF], &[0.0, 0.9, 0.999_999]);
    check(validate, |x| valid.with_beta2(x), "beta2", &[-0.1, 1.0, 1.5, NAN, INF], &[0.0, 0.9, 0.999_999]);
    check(validate, |x| valid.with_epsilon(x), "epsilon", &NOT_NEGATIVE, &[0.0, 1e-8]);
    check(validate, |x| valid.with_weight_decay(x), "weight_decay", &NOT_NEGATIVE, &[0.0, 0.1]);
}

#[test]
fn every_range_of_sam() {
    let (valid, validate) = (SamConfig::default(), SamConfig::validate);
    check(validate, SamConfig::sam, "rho", &NOT_NEGATIVE, &[0.0, 1e-300, 1e300]);
    check(validate, |x| valid.with_rho(x), "rho", &NOT_NEGATIVE, &[0.0, 1.0]);
    check(validate, |x| valid.with_p(x), "p", &[1.0, 0.5, -2.0, NAN, -INF], &[1.000_001, 2.0, INF]);
}

#[test]
fn defaults_are_the_documented_ones() {
    let SgdConfig { learning_rate, momentum, dampening, nesterov, weight_decay, .. } = SgdConfig::default();
    assert_eq!((learning_rate, momentum, dampening, nesterov, weight_decay), (0.1, 0.0, 0.0, false, 0.0));
    let AdamWConfig { learning_rate, beta1, beta2, epsilon, weight_decay, .. } = AdamWConfig::default();
    assert_eq!((learning_rate, beta1, beta2, epsilon, weight_decay), (1e-3, 0.9, 0.999, 1e-8, 0.01));
    let SamConfig { climb, descent, when, clip, .. } = SamConfig::default();
    assert_eq!((climb.rho, climb.p, climb.along), (0.05, 2.0, Along::Gradient));
    assert_eq!((climb.scale, climb.normalize), (Scale::Plain, true));
    assert_eq!((descent, when, clip), (Descent::Perturbed, When::Always, None));
}

/// Constructors and setters check; after an error the old values stay in force.
#[test]
fn a_bad_configuration_never_comes_into_force() -> Result<()> {
    let w = Var::new(&[1f32], CPU)?;
    let vars = vec![w.clone()];
    let (sgd_bad, adamw_bad) = (SgdConfig::new(NAN), AdamWConfig::new(-1.0));
    assert!(Sgd::new(vars.clone(), sgd_bad).is_err() && Sgd::named(named(&vars), sgd_bad).is_err());
    assert!(AdamW::new(vars.clone(), adamw_bad).is_err() && AdamW::named(named(&vars), adamw_bad).is_err());

    let (sgd_good, adamw_good) = (SgdConfig::new(0.3), AdamWConfig::new(0.3));
    let mut sgd = Sgd::new(vars.clone(), SgdConfig::default())?;
    sgd.set_config(sgd_good)?;
    assert!(sgd.set_config(sgd_bad).is_err());
    assert_eq!((*sgd.config(), sgd.learning_rate()), (sgd_good, 0.3));
    let mut adamw = AdamW::new(vars.clone(), AdamWConfig::default())?;
    adamw.set_config(adamw_good)?;
    assert!(adamw.set_config(adamw_bad).is_err());
    assert_eq!((*adamw.config(), adamw.learning_rate()), (adamw_good, 0.3));
    adamw.set_learning_rate(0.4);
    assert_eq!(adamw.learning_rate(), 0.4);

    assert!(Sam::new(Sgd::new(vars.clone(), sgd_good)?, SamConfig::sam(-1.0)).is_err());
    assert!(Sam::over(vars.clone(), (), SamConfig::sam(NAN)).is_err());
    let mut sam = Sam::new(sgd, SamConfig::default())?;
    sam.set_rho(0.7)?;
    assert!(sam.set_rho(INF).is_err() && sam.set_config(SamConfig::default().with_p(1.0)).is_err());
    assert_eq!(*sam.config(), SamConfig::sam(0.7));
    sam.base_mut().set_learning_rate(0.25);
    assert_eq!((sam.learning_rate(), sam.base().learning_rate()), (0.25, 0.25));
    sam.set_learning_rate(0.5);
    assert_eq!(sam.into_base().learning_rate(), 0.5);
    Ok(())
}

#[test]
fn lists_that_cannot_be_optimized() -> Result<()> {
    let (v, w) = (Var::new(&[1f32], CPU)?, Var::new(&[2f32], CPU)?);
    let pair =
        |first: &str, second: &str| vec![(first.to_string(), v.clone()), (second.to_string(), w.clone())];
    type Make = (&'static str, fn(Vec<Var>) -> Result<()>, fn(Vec<(String, Var)>) -> Result<()>);
    let makes: [Make; 3] = [
        (
            "Sgd",
            |vars| Ok(Sgd::new(vars, SgdConfig::default()).map(drop)?),
            |named| Sgd::named(named, SgdConfig::default()).map(drop),
        ),
        (
            "AdamW",
            |vars| Ok(AdamW::new(vars, AdamWConfig::default()).map(drop)?),
            |named| AdamW::named(named, AdamWConfig::default()).map(drop),
        ),
        (
            "Sam",
            |vars| Sam::over(vars, (), SamConfig::default()).map(drop),
            |named| {
                let (names, vars) = named.into_iter().unzip();
                Sam::new(Listed { names, vars }, SamConfig::default()).map(drop)
            },
        ),
    ];
    for (name, unnamed, named) in makes {
        let said = |result: Result<()>| first_line(result.expect_err(name));
        assert!(said(unnamed(vec![])).starts_with("there are no parameters to optimize"), "{name}");
        assert!(said(named(vec![])).starts_with("there are no parameters to optimize"), "{name}");
        let twice = said(unnamed(vec![v.clone(), w.clone(), v.clone()]));
        assert_eq!(twice, "parameters 0 and 2 are the same variable; list each once", "{name}");
        let twice = said(named([pair("a", "b"), pair("c", "d")].concat()));
        assert_eq!(twice, "parameters a and c are the same variable; list each once", "{name}");
        assert_eq!(
            said(named(pair("a", "a"))),
            "two parameters have the name a; give each its own",
            "{name}"
        );
        assert!(unnamed(vec![v.clone(), w.clone()]).is_ok() && named(pair("b", "a")).is_ok(), "{name}");
    }
    Ok(())
}

/// A base optimizer that lists whatever it was given.
struct Listed {
    names: Vec<String>,
    vars: Vec<Var>,
}

impl Variables for Listed {
    fn vars(&self) -> &[Var] {
        &self.vars
    }

    fn names(&self) -> Option<&[String]> {
        Some(&self.names)
    }
}

#[test]
fn what_an_optimizer_lists_is_what_it_was_given() -> Result<()> {
    let (v, w) = (Var::new(&[1f32], CPU)?, Var::new(&[2f32], CPU)?);
    let vars = vec![v, w];
    let ids = |vars: &[Var]| vars.iter().map(|var| var.id()).collect::<Vec<_>>();
    let names = ["layer2.weight".to_string(), "layer1.weight".to_string()];
    let sgd = Sgd::named(named(&vars), SgdConfig::default())?;
    assert_eq!((ids(sgd.vars()), sgd.names()), (ids(&vars), Some(names.as_slice())));
    let adamw = AdamW::named(named(&vars), AdamWConfig::default())?;
    assert_eq!((ids(adamw.vars()), adamw.names()), (ids(&vars), Some(names.as_slice())));
    assert_eq!(Sgd::new(vars.clone(), SgdConfig::default())?.names(), None);
    assert_eq!(AdamW::new(vars.clone(), AdamWConfig::default())?.names(), None);
    assert_eq!(ids(Sam::new(sgd, SamConfig::default())?.vars()), ids(&vars));
    Ok(())
}

/// As their `Debug` shows it: results do not depend on it.
#[test]
fn each_runs_on_the_threads_it_was_given() -> Result<()> {
    let (vars, cpu) = (vec![Var::new(&[1f32], CPU)?], Cpu::new(7));
    let threads = format!("{cpu:?}");
    let sgd = Sgd::new(vars.clone(), SgdConfig::default())?.with_cpu(cpu.clone());
    assert!(format!("{sgd:?}").contains(&threads), "{sgd:?}");
    let adamw = AdamW::new(vars.clone(), AdamWConfig::default())?.with_cpu(cpu.clone());
    assert!(format!("{adamw:?}").contains(&threads), "{adamw:?}");
    let sam = Sam::over(vars, (), SamConfig::default())?.with_cpu(cpu);
    assert!(format!("{sam:?}").contains(&threads), "{sam:?}");
    Ok(())
}

/// Without names there is no state to save or to mix up.
#[test]
fn a_state_needs_names() -> Result<()> {
    let w = Var::new(&[1f32], CPU)?;
    let mut sgd = Sgd::new(vec![w.clone()], SgdConfig::default().with_momentum(0.9))?;
    let mut adamw = AdamW::new(vec![w.clone()], AdamWConfig::default())?;
    let gradient = gradients(&[(&w, &Tensor::ones(1, DType::F32, CPU)?)]);
    sgd.step(&gradient)?;
    adamw.step(&gradient)?;
    let saved = [
        Sgd::named(named(std::slice::from_ref(&w)), *sgd.config())?.state()?,
        AdamW::named(named(std::slice::from_ref(&w)), *adamw.config())?.state()?,
    ];
    let [sgd_state, adamw_state] = saved.map(|state| state.into_iter().collect());
    for result in [
        sgd.state().map(drop),
        adamw.state().map(drop),
        sgd.load_state(&sgd_state),
        adamw.load_state(&adamw_state),
        Sam::new(sgd, SamConfig::default())?.state().map(drop),
    ] {
        let error = result.expect_err("unnamed");
        assert!(
            matches!(error, Error::Unnamed) && error.to_string().contains("make it with `named`"),
            "{error}"
        );
    }
    Ok(())
}

#[test]
fn a_head_on_features_without_a_graph_is_an_error() -> Result<()> {
    let (w, features) = (Var::new(&[[1f32], [2.0]], CPU)?, Var::new(&[[1f32, 1.0]], CPU)?);
    let mut sam = Sam::new(Sgd::new(vec![w.clone()], SgdConfig::default())?, SamConfig::default())?;
    let error = sam.step(|_| features.matmul(&w.as_detached_tensor())?.sum_all()).expect_err("no graph");
    assert!(matches!(error, Error::NoGradient { parameters: 1 }), "{error}");
    assert!(error.to_string().contains("not in an evaluation mode"), "{error}");
    Ok(())
}
