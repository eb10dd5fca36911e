//! Every optimizer against PyTorch's, step by step, on the values of testdata/make_optim_fixtures.py: in f64
//! (plain candle operations) closely, in f32 (fused passes) within its rounding.

use std::collections::HashMap;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_optim::{AdamW, AdamWConfig, Pass, Result, Sam, SamConfig, Sgd, SgdConfig};

const NAMES: [&str; 3] = ["weight", "bias", "scale"];
const STEPS: usize = 5;
const PRECISIONS: [(DType, f64); 2] = [(DType::F64, 1e-13), (DType::F32, 2e-6)];

struct Fixture {
    tensors: HashMap<String, Tensor>,
    dtype: DType,
    tolerance: f64,
}

impl Fixture {
    fn load((dtype, tolerance): (DType, f64)) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/optim.safetensors");
        Ok(Self { tensors: candle_core::safetensors::load(path, &Device::Cpu)?, dtype, tolerance })
    }

    fn get(&self, key: &str) -> candle_core::Result<Tensor> {
        self.tensors[key].to_dtype(self.dtype)
    }

    fn vars(&self) -> Result<Vec<Var>> {
        NAMES.iter().map(|name| Ok(Var::from_tensor(&self.get(&format!("initial/{name}"))?)?)).collect()
    }

    fn gradients(&self, step: usize, vars: &[Var]) -> Result<GradStore> {
        let mut gradients = GradStore::default();
        for (name, var) in NAMES.iter().zip(vars) {
            if let Some(gradient) = self.tensors.get(&format!("gradient/{step}/{name}")) {
                gradients.insert(var, gradient.to_dtype(self.dtype)?);
            }
        }
        Ok(gradients)
    }

    #[track_caller]
    fn assert_close(&self, key: &str, found: &Tensor) -> Result<()> {
        let difference = (found.to_dtype(DType::F64)? - &self.tensors[key])?.abs()?.flatten_all()?.max(0)?;
        let difference = difference.to_scalar::<f64>()?;
        assert!(difference <= self.tolerance, "{key} in {:?}: off by {difference:e}", self.dtype);
        Ok(())
    }
}

fn check_plain<O: Optimizer>(case: &str, config: impl Fn() -> O::Config) -> Result<()> {
    for precision in PRECISIONS {
        let fixture = Fixture::load(precision)?;
        let vars = fixture.vars()?;
        let mut optimizer = O::new(vars.clone(), config())?;
        for step in 0..STEPS {
            optimizer.step(&fixture.gradients(step, &vars)?)?;
            for (name, var) in NAMES.iter().zip(&vars) {
                fixture.assert_close(&format!("{case}/{step}/{name}"), var)?;
            }
        }
    }
    Ok(())
}

fn momentum() -> SgdConfig {
    SgdConfig::new(0.1).with_momentum(0.9).with_weight_decay(5e-4)
}

fn adamw_other() -> AdamWConfig {
    AdamWConfig::new(0.02).with_beta1(0.8).with_beta2(0.95).with_epsilon(1e-6).with_weight_decay(0.1)
}

#[test]
fn sgd() -> Result<()> {
    check_plain::<Sgd>("sgd", SgdConfig::default)?;
    check_plain::<candle_nn::SGD>("sgd", || 0.1)?;
    check_plain::<Sgd>("sgd_decay", || SgdConfig::new(0.1).with_weight_decay(0.01))?;
    check_plain::<Sgd>("sgd_momentum", momentum)?;
    check_plain::<Sgd>("sgd_dampening", || {
        SgdConfig::default().with_momentum(0.8).with_dampening(0.3).with_weight_decay(0.01)
    })?;
    check_plain::<Sgd>("sgd_nesterov", || momentum().with_nesterov(true))
}

#[test]
fn adamw() -> Result<()> {
    check_plain::<AdamW>("adamw", AdamWConfig::default)?;
    check_plain::<AdamW>("adamw_other", adamw_other)
}

/// Mean squared error of tanh(x weight + bias); `scale` takes no part and has no gradient.
fn model_loss(fixture: &Fixture, vars: &[Var]) -> candle_core::Result<Tensor> {
    let (x, y) = (fixture.get("data/x")?, fixture.get("data/y")?);
    (x.matmul(&vars[0])?.broadcast_add(&vars[1])?.tanh()? - y)?.sqr()?.mean_all()
}

fn check_sam<O: Optimizer>(case: &str, sam: SamConfig, base: impl Fn() -> O::Config) -> Result<()> {
    for precision in PRECISIONS {
        let fixture = Fixture::load(precision)?;
        let vars = fixture.vars()?;
        let mut sam = Sam::over(vars.clone(), O::new(vars.clone(), base())?, sam)?;
        for step in 0..STEPS {
            let loss = sam.step(|pass| {
                if pass == Pass::Second {
                    for (name, var) in NAMES.iter().zip(&vars) {
                        fixture.assert_close(&format!("{case}/{step}/perturbed/{name}"), var)?;
                    }
                }
                model_loss(&fixture, &vars)
            })?;
            fixture.assert_close(&format!("{case}/{step}/loss"), &loss)?;
            for (name, var) in NAMES.iter().zip(&vars) {
                fixture.assert_close(&format!("{case}/{step}/after/{name}"), var)?;
            }
        }
    }
    Ok(())
}

#[test]
fn sam_around_sgd() -> Result<()> {
    check_sam::<Sgd>("sam_sgd", SamConfig::default(), momentum)
}

#[test]
fn adaptive_sam_around_sgd() -> Result<()> {
    check_sam::<Sgd>("asam_sgd", SamConfig::adaptive(0.5), momentum)
}

#[test]
fn sam_around_either_adamw() -> Result<()> {
    let sam = SamConfig::sam(0.1);
    check_sam::<AdamW>("sam_adamw", sam, adamw_other)?;
    check_sam::<candle_nn::AdamW>("sam_adamw", sam, || candle_nn::ParamsAdamW {
        lr: 0.02,
        beta1: 0.8,
        beta2: 0.95,
        eps: 1e-6,
        weight_decay: 0.1,
    })
}
