//! Saved and put back, an optimizer continues as if it had never stopped.

use std::collections::HashMap;

use candle_core::{Device, Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_optim::{AdamW, AdamWConfig, Error, OptimizerState, Result, Sam, SamConfig, Sgd, SgdConfig};

const CPU: &Device = &Device::Cpu;

struct Model {
    vars: Vec<Var>,
}

impl Model {
    fn new() -> Result<Self> {
        let vars = vec![
            Var::new(&[[0.5f32, -1.0], [2.0, 0.1]], CPU)?,
            Var::new(&[3f32], CPU)?,
            Var::new(&[7f32, 7.0], CPU)?, // never has a gradient
        ];
        Ok(Self { vars })
    }

    fn with_weights_of(other: &Self) -> Result<Self> {
        let new = Self::new()?;
        for (new, other) in new.vars.iter().zip(&other.vars) {
            new.set(&other.copy()?)?;
        }
        Ok(new)
    }

    fn loss(&self) -> candle_core::Result<Tensor> {
        let first = self.vars[0].sqr()?.sum_all()?;
        first.sqrt()? + self.vars[1].exp()?.sum_all()?
    }

    fn values(&self) -> Result<Vec<f32>> {
        let values =
            self.vars.iter().map(|var| Ok(var.flatten_all()?.to_vec1()?)).collect::<Result<Vec<_>>>()?;
        Ok(values.concat())
    }
}

/// Ten steps in one go, and five, through a file, and five: the same bits.
fn check_resume<O: Optimizer + OptimizerState>(
    config: impl Fn() -> O::Config,
    other: impl Fn() -> O::Config,
    entries: usize,
) -> Result<()> {
    let sam_config = SamConfig { rho: 0.2, adaptive: true, ..SamConfig::default() };
    let new =
        |model: &Model, config, sam| Sam::new(model.vars.clone(), O::new(model.vars.clone(), config)?, sam);

    let straight = Model::new()?;
    let mut sam = new(&straight, config(), sam_config)?;
    for _ in 0..10 {
        sam.step(|_| straight.loss())?;
    }

    let first = Model::new()?;
    let mut sam = new(&first, config(), sam_config)?;
    for _ in 0..5 {
        sam.step(|_| first.loss())?;
    }
    let state = sam.state()?;
    assert_eq!(state.len(), entries, "{state:?}");
    let directory = tempdir()?;
    let file = directory.join(format!("{entries}.safetensors"));
    candle_core::safetensors::save(&state.into_iter().collect::<HashMap<_, _>>(), &file)?;

    // Other hyper-parameters, to be replaced by the saved ones.
    let second = Model::with_weights_of(&first)?;
    let mut sam = new(&second, other(), SamConfig { p: 3.0, ..SamConfig::default() })?;
    sam.load_state(&candle_core::safetensors::load(&file, CPU)?)?;
    assert_eq!(sam.config(), &sam_config);
    for _ in 0..5 {
        sam.step(|_| second.loss())?;
    }
    assert_eq!(second.values()?, straight.values()?);
    std::fs::remove_dir_all(directory).map_err(candle_core::Error::wrap)?;
    Ok(())
}

fn tempdir() -> Result<std::path::PathBuf> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let unique = format!("wrn-sam-optim-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let directory = std::env::temp_dir().join(unique);
    std::fs::create_dir_all(&directory).map_err(candle_core::Error::wrap)?;
    Ok(directory)
}

const MOMENTUM: SgdConfig =
    SgdConfig { learning_rate: 0.01, momentum: 0.9, dampening: 0.5, nesterov: false, weight_decay: 0.01 };

#[test]
fn sgd_continues() -> Result<()> {
    check_resume::<Sgd>(|| MOMENTUM, SgdConfig::default, 3 + 6 + 2)?;
    check_resume::<Sgd>(|| SgdConfig { dampening: 0.0, nesterov: true, ..MOMENTUM }, || MOMENTUM, 3 + 6 + 2)?;
    check_resume::<Sgd>(|| SgdConfig { learning_rate: 0.01, ..SgdConfig::default() }, || MOMENTUM, 3 + 6)
}

#[test]
fn adamw_continues() -> Result<()> {
    let config = || AdamWConfig { learning_rate: 0.01, ..AdamWConfig::default() };
    check_resume::<AdamW>(config, AdamWConfig::default, 3 + 6 + 4)
}

#[test]
fn candle_sgd_continues() -> Result<()> {
    check_resume::<candle_nn::SGD>(|| 0.01, || 0.5, 3 + 1)
}

#[test]
fn a_saved_state_does_not_change_with_later_steps() -> Result<()> {
    let model = Model::new()?;
    let mut sgd = Sgd::new(model.vars.clone(), MOMENTUM)?;
    sgd.backward_step(&model.loss()?)?;
    let state = sgd.state()?;
    let names: Vec<&str> = state.iter().map(|(name, _)| name.as_str()).collect();
    let expected = ["learning_rate", "momentum", "dampening", "nesterov", "weight_decay", "started"];
    assert_eq!(names[..6], expected);
    assert_eq!(names[6..], ["momentum_buffer.0", "momentum_buffer.1"]);
    let before = state[7].1.to_vec1::<f32>()?;
    sgd.backward_step(&model.loss()?)?;
    assert_eq!(state[7].1.to_vec1::<f32>()?, before);

    // Nor does what was loaded, by the optimizer's steps.
    let state: HashMap<_, _> = state.into_iter().collect();
    sgd.load_state(&state)?;
    sgd.backward_step(&model.loss()?)?;
    assert_eq!(state["momentum_buffer.1"].to_vec1::<f32>()?, before);
    Ok(())
}

#[test]
fn a_state_that_does_not_fit_is_refused_whole() -> Result<()> {
    let model = Model::new()?;
    let sgd = Sgd::new(model.vars.clone(), MOMENTUM)?;
    let mut sam = Sam::new(model.vars.clone(), sgd, SamConfig::default())?;
    sam.step(|_| model.loss())?;
    let before: Vec<String> = sam.state()?.iter().map(|(name, t)| format!("{name} {t}")).collect();
    let good: HashMap<String, Tensor> = sam.state()?.into_iter().collect();

    let mut refuse = |change: &dyn Fn(&mut HashMap<String, Tensor>)| -> Result<Error> {
        let mut state = good.clone();
        change(&mut state);
        let error = sam.load_state(&state).expect_err("must be refused");
        let after: Vec<String> = sam.state()?.iter().map(|(name, t)| format!("{name} {t}")).collect();
        assert_eq!(after, before);
        Ok(error)
    };
    let error = refuse(&|state| {
        state.remove("momentum_buffer.0");
        state.insert(
            "momentum_buffer.1".into(),
            Tensor::zeros(2, candle_core::DType::F64, CPU).expect("zeros"),
        );
        state.insert("velocity".into(), Tensor::new(1f64, CPU).expect("a scalar"));
    })?;
    assert_eq!(
        error.to_string(),
        "the saved state does not fit this optimizer: missing momentum_buffer.0; unexpected velocity; \
         misshapen momentum_buffer.1 (expected [1] F32, found [2] F64)"
    );
    let error = refuse(&|state| drop(state.remove("sam.rho")))?;
    assert!(error.to_string().ends_with("missing sam.rho"), "{error}");
    let error =
        refuse(&|state| drop(state.insert("sam.p".into(), Tensor::new(0f64, CPU).expect("a scalar"))))?;
    assert!(error.to_string().starts_with("p must be above 1"), "{error}");
    let error =
        refuse(&|state| drop(state.insert("momentum".into(), Tensor::new(-1f64, CPU).expect("a scalar"))))?;
    assert!(error.to_string().starts_with("momentum must be"), "{error}");
    // The state of a model with other parameters.
    let started = Tensor::new(&[1i64], CPU)?;
    let error = refuse(&move |state| drop(state.insert("started".into(), started.clone())))?;
    assert!(error.to_string().contains("misshapen started (expected [3] I64, found [1] I64)"), "{error}");
    Ok(())
}
