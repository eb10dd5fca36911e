//! Saved and put back, an optimizer continues as if it had never stopped.

use std::collections::HashMap;
use std::process::Command;

use candle_core::{DType, Tensor, Var};
use candle_nn::{Init, Optimizer, VarBuilder, VarMap};
use wrn_sam_optim::{
    AdamW, AdamWConfig, Error, OptimizerState, Result, Sam, SamConfig, Sgd, SgdConfig, named_vars,
};

use crate::common::{CPU, bits, named};

type State = HashMap<String, Tensor>;

fn variables() -> Result<Vec<Var>> {
    Ok(vec![
        Var::new(&[[0.5f32, -1.0], [2.0, 0.1]], CPU)?,
        Var::new(&[3f32], CPU)?,
        Var::new(&[7f32, 7.0], CPU)?, // never has a gradient
    ])
}

fn loss(vars: &[Var]) -> candle_core::Result<Tensor> {
    vars[0].sqr()?.sum_all()?.sqrt()? + vars[1].exp()?.sum_all()?
}

/// Ten steps in one go, and five, through a file, and five with the variables in another order: the same bits.
fn check_resume<O: Optimizer + OptimizerState>(
    new: impl Fn(Vec<(String, Var)>) -> Result<O>,
    other: impl Fn(Vec<(String, Var)>) -> Result<O>,
    entries: usize,
) -> Result<()> {
    let config = SamConfig::adaptive(0.2).with_p(3.0);
    let around = |vars: &[Var], base, config| Sam::over(vars.to_vec(), base, config);
    let straight = variables()?;
    let mut sam = around(&straight, new(named(&straight))?, config)?;
    assert_eq!(sam.state()?.len(), entries);
    for _ in 0..10 {
        sam.step(|_| loss(&straight))?;
    }

    let first = variables()?;
    let mut sam = around(&first, new(named(&first))?, config)?;
    for _ in 0..5 {
        sam.step(|_| loss(&first))?;
    }
    let state = sam.state()?;
    assert_eq!(state.len(), entries, "{state:?}");
    let file = std::env::temp_dir().join(format!("wrn-sam-optim-{}-{entries}", std::process::id()));
    candle_core::safetensors::save(&state.into_iter().collect::<State>(), &file)?;

    // Other hyper-parameters, to be replaced by the saved ones.
    let mut shuffled = named(&first);
    shuffled.reverse();
    let mut sam = around(&first, other(shuffled)?, SamConfig::default())?;
    sam.load_state(&candle_core::safetensors::load(&file, CPU)?)?;
    assert_eq!(sam.config(), &config);
    for _ in 0..5 {
        sam.step(|_| loss(&first))?;
    }
    assert_eq!(bits(&first)?, bits(&straight)?);
    std::fs::remove_file(file).map_err(candle_core::Error::wrap)?;
    Ok(())
}

fn momentum() -> SgdConfig {
    SgdConfig::new(0.01).with_momentum(0.9).with_dampening(0.5).with_weight_decay(0.01)
}

#[test]
fn sgd_continues() -> Result<()> {
    let nesterov = momentum().with_dampening(0.0).with_nesterov(true);
    let of = |config: SgdConfig| move |named| Sgd::named(named, config);
    check_resume(of(momentum()), of(SgdConfig::default()), 10 + 5 + 2 * 3)?;
    check_resume(of(nesterov), of(momentum()), 10 + 5 + 2 * 3)?;
    check_resume(of(SgdConfig::new(0.01)), of(momentum()), 10 + 5)
}

#[test]
fn adamw_continues() -> Result<()> {
    let of = |config: AdamWConfig| move |named| AdamW::named(named, config);
    check_resume(of(AdamWConfig::new(0.01)), of(AdamWConfig::default().with_beta1(0.5)), 10 + 5 + 3 * 3)
}

#[test]
fn candle_sgd_continues() -> Result<()> {
    let of = |rate| {
        move |named: Vec<(String, Var)>| {
            Ok(candle_nn::SGD::new(named.into_iter().map(|(_, var)| var).collect(), rate)?)
        }
    };
    check_resume(of(0.01), of(0.5), 10 + 1)?;
    let mut sgd = candle_nn::SGD::new(variables()?, 0.25)?;
    for (rate, said) in [(f64::NAN, "learning_rate = NaN: must be"), (-1.0, "learning_rate = -1: must be")] {
        let state = State::from([("learning_rate".into(), Tensor::new(rate, CPU)?)]);
        let error = sgd.load_state(&state).expect_err(said).to_string();
        assert!(error.starts_with(said), "{error}");
        assert_eq!(sgd.learning_rate(), 0.25);
    }
    Ok(())
}

#[test]
fn a_saved_state_does_not_change_with_later_steps() -> Result<()> {
    let vars = variables()?;
    let mut sgd = Sgd::named(named(&vars), momentum())?;
    sgd.backward_step(&loss(&vars)?)?;
    let state = sgd.state()?;
    let names: Vec<&str> = state.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..5], ["learning_rate", "momentum", "dampening", "nesterov", "weight_decay"]);
    assert_eq!(
        names[5..9],
        [
            "started.layer3.weight",
            "momentum_buffer.layer3.weight",
            "started.layer2.weight",
            "momentum_buffer.layer2.weight"
        ]
    );
    let before = state[8].1.to_vec1::<f32>()?;
    sgd.backward_step(&loss(&vars)?)?;
    assert_eq!(state[8].1.to_vec1::<f32>()?, before);

    // Nor does what was loaded, by the optimizer's steps.
    let state: State = state.into_iter().collect();
    sgd.load_state(&state)?;
    sgd.backward_step(&loss(&vars)?)?;
    assert_eq!(state["momentum_buffer.layer2.weight"].to_vec1::<f32>()?, before);
    Ok(())
}

/// A momentum that is switched off leaves nothing behind.
#[test]
fn momentum_can_be_switched_off_and_on() -> Result<()> {
    let vars = variables()?;
    let mut sgd = Sgd::named(named(&vars), momentum())?;
    sgd.backward_step(&loss(&vars)?)?;
    let with_momentum = sgd.state()?.len();
    sgd.set_config(momentum().with_weight_decay(0.5))?;
    let started: i64 = sgd.state()?[5].1.to_scalar()?;
    assert_eq!(started, 1);
    sgd.set_config(SgdConfig::new(0.01))?;
    sgd.backward_step(&loss(&vars)?)?;
    assert_eq!(sgd.state()?.len(), 5);
    sgd.set_config(momentum())?;
    let state = sgd.state()?;
    assert_eq!(state.len(), with_momentum);
    assert_eq!((state[5].1.to_scalar::<i64>()?, state[6].1.sum_all()?.to_scalar::<f32>()?), (0, 0.0));
    Ok(())
}

fn described(state: Vec<(String, Tensor)>) -> Vec<String> {
    state.iter().map(|(name, tensor)| format!("{name} {tensor}")).collect()
}

/// Checks that a changed state is refused with `said`, and that nothing of it was loaded.
fn check_refusals<O: OptimizerState>(
    optimizer: &mut O,
    cases: Vec<(&str, Option<Tensor>, &str)>,
) -> Result<()> {
    let before = described(optimizer.state()?);
    let good: State = optimizer.state()?.into_iter().collect();
    for (name, value, said) in cases {
        let mut state = good.clone();
        match value {
            Some(value) => drop(state.insert(name.to_string(), value)),
            None => assert!(state.remove(name).is_some(), "{name}"),
        }
        let error = optimizer.load_state(&state).expect_err(name).to_string();
        assert!(error.contains(said), "{name}: {error}");
        assert_eq!(described(optimizer.state()?), before, "{name}");
    }
    Ok(())
}

fn scalar(value: f64) -> Option<Tensor> {
    Tensor::new(value, CPU).ok()
}

fn counted(count: i64) -> Option<Tensor> {
    Tensor::new(count, CPU).ok()
}

#[test]
fn a_state_of_sam_and_sgd_that_does_not_fit_is_refused_whole() -> Result<()> {
    let vars = variables()?;
    let mut sam = Sam::new(Sgd::named(named(&vars), momentum())?, SamConfig::default())?;
    sam.step(|_| loss(&vars))?;
    let buffer = "momentum_buffer.layer2.weight";
    check_refusals(
        &mut sam,
        vec![
            ("sam.rho", None, "missing sam.rho"),
            ("sam.rho", scalar(-1.0), "rho = -1: must be"),
            ("sam.rho", scalar(f64::NAN), "rho = NaN: must be"),
            ("sam.rho", Tensor::new(&[1f64], CPU).ok(), "misshapen sam.rho (expected [] F64, found [1] F64)"),
            ("sam.p", scalar(0.0), "p = 0: must be above 1"),
            ("sam.normalize", scalar(0.5), "invalid sam.normalize (expected 0 or 1, found 0.5)"),
            ("sam.clip", scalar(-1.0), "clip = -1: must be a number above 0"),
            (
                "sam.along",
                Tensor::new(&[9f64, 0.0, 0.0], CPU).ok(),
                "invalid sam.along ([9.0, 0.0, 0.0] is no choice",
            ),
            (
                "sam.when",
                Tensor::new(&[1f64], CPU).ok(),
                "misshapen sam.when (expected [5] F64, found [1] F64)",
            ),
            ("sam.step", counted(-1), "invalid sam.step"),
            (
                "sam.memory.layer1.weight",
                Tensor::zeros(2, DType::F32, CPU).ok(),
                "unexpected sam.memory.layer1",
            ),
            ("sam.q", scalar(2.0), "unexpected sam.q"),
            ("learning_rate", None, "missing learning_rate"),
            ("learning_rate", scalar(f64::INFINITY), "learning_rate = inf: must be"),
            ("momentum", scalar(-1.0), "momentum = -1: must be"),
            ("momentum", Tensor::new(0.9f32, CPU).ok(), "misshapen momentum (expected [] F64, found [] F32)"),
            ("dampening", scalar(f64::NAN), "dampening = NaN: must be"),
            ("nesterov", scalar(2.0), "invalid nesterov (expected 0 or 1, found 2)"),
            ("nesterov", scalar(1.0), "nesterov = true: must be false unless"),
            ("weight_decay", scalar(-0.1), "weight_decay = -0.1: must be"),
            ("velocity", scalar(1.0), "unexpected velocity"),
            ("started.layer1.weight", None, "missing started.layer1.weight"),
            (
                "started.layer1.weight",
                counted(-1),
                "invalid started.layer1.weight (expected 0 to 1, found -1)",
            ),
            ("started.layer1.weight", counted(2), "invalid started.layer1.weight (expected 0 to 1, found 2)"),
            (buffer, None, "missing momentum_buffer.layer2.weight"),
            (
                buffer,
                Tensor::new(&[f32::NAN], CPU).ok(),
                "invalid momentum_buffer.layer2.weight (holds infinities or NaN)",
            ),
            (buffer, Tensor::new(&[f32::NEG_INFINITY], CPU).ok(), "(holds infinities or NaN)"),
            (buffer, Tensor::zeros(2, DType::F64, CPU).ok(), "(expected [1] F32, found [2] F64)"),
            (
                "momentum_buffer.layer4.weight",
                Tensor::new(&[1f32], CPU).ok(),
                "unexpected momentum_buffer.layer4.weight",
            ),
        ],
    )?;
    let mut state: State = sam.state()?.into_iter().collect();
    state.remove("momentum");
    state.insert("velocity".into(), Tensor::new(1f64, CPU)?);
    state.insert(buffer.into(), Tensor::zeros(2, DType::F64, CPU)?);
    state.insert("started.layer1.weight".into(), Tensor::new(7i64, CPU)?);
    let error = sam.load_state(&state).expect_err("everything is wrong");
    assert!(matches!(&error, Error::State { missing, .. } if missing == &["momentum"]));
    Ok(())
}

#[test]
fn a_state_of_adamw_that_does_not_fit_is_refused_whole() -> Result<()> {
    let vars = variables()?;
    let mut adamw = AdamW::named(named(&vars), AdamWConfig::default())?;
    adamw.backward_step(&loss(&vars)?)?;
    let (first, second) = ("exp_avg.layer2.weight", "exp_avg_sq.layer2.weight");
    check_refusals(
        &mut adamw,
        vec![
            ("learning_rate", scalar(f64::NAN), "learning_rate = NaN: must be"),
            ("beta1", scalar(1.0), "beta1 = 1: must be"),
            ("beta2", scalar(-0.5), "beta2 = -0.5: must be"),
            ("epsilon", scalar(-1.0), "epsilon = -1: must be"),
            ("weight_decay", scalar(f64::INFINITY), "weight_decay = inf: must be"),
            ("step.layer2.weight", None, "missing step.layer2.weight"),
            ("step.layer2.weight", counted(-3), "invalid step.layer2.weight"),
            ("step.layer2.weight", counted(i64::MAX), "invalid step.layer2.weight"),
            (first, None, "missing exp_avg.layer2.weight"),
            (
                first,
                Tensor::new(&[f32::INFINITY], CPU).ok(),
                "invalid exp_avg.layer2.weight (holds infinities or NaN)",
            ),
            (
                second,
                Tensor::new(&[f32::NAN], CPU).ok(),
                "invalid exp_avg_sq.layer2.weight (holds infinities or NaN)",
            ),
            (
                second,
                Tensor::new(&[-1f32], CPU).ok(),
                "invalid exp_avg_sq.layer2.weight (holds negative numbers)",
            ),
            (second, Tensor::new(&[1f32, 1.0], CPU).ok(), "misshapen exp_avg_sq.layer2.weight"),
            ("exp_avg.0", Tensor::new(&[1f32], CPU).ok(), "unexpected exp_avg.0"),
        ],
    )?;
    // The largest count that can be counted on from.
    let mut state: State = adamw.state()?.into_iter().collect();
    state.insert("step.layer2.weight".into(), Tensor::new(i64::MAX - 1, CPU)?);
    adamw.load_state(&state)?;
    adamw.backward_step(&loss(&vars)?)?;
    let state: State = adamw.state()?.into_iter().collect();
    assert_eq!(state["step.layer2.weight"].to_scalar::<i64>()?, i64::MAX);
    Ok(())
}

const PART: &str = "WRN_SAM_OPTIM_TEST_PART";

/// Layers of one shape in a `VarMap`, whose order is another in every process.
struct Network {
    variables: VarMap,
    layers: Vec<Tensor>,
}

impl Network {
    fn new() -> Result<Self> {
        let variables = VarMap::new();
        let builder = VarBuilder::from_varmap(&variables, DType::F32, CPU);
        let layer = |index: usize| {
            let value = Init::Const(0.1 + 0.07 * index as f64);
            builder.get_with_hints((3, 3), &format!("layer{index}"), value)
        };
        let layers = (0..6).map(layer).collect::<candle_core::Result<_>>()?;
        Ok(Self { variables, layers })
    }

    fn loss(&self) -> candle_core::Result<Tensor> {
        let x = Tensor::new(&[[0.5f32, -1.0, 0.25]], CPU)?;
        let y = self.layers.iter().try_fold(x, |x, layer| x.matmul(layer)?.tanh())?;
        (y - 0.4)?.sqr()?.sum_all()
    }

    fn train(&self, sam: &mut Sam<AdamW>, steps: usize) -> Result<Vec<u32>> {
        (0..steps).map(|_| Ok(sam.step(|_| self.loss())?.to_scalar::<f32>()?.to_bits())).collect()
    }

    fn sam(&self) -> Result<Sam<AdamW>> {
        Sam::new(AdamW::named(named_vars(&self.variables), AdamWConfig::new(0.05))?, SamConfig::sam(0.1))
    }
}

/// Trains in this process, in another one, and from there on in a third: the same losses to the bit.
#[test]
fn a_var_map_resumes_in_another_process() -> Result<()> {
    let folder = match std::env::var_os(PART) {
        Some(folder) => std::path::PathBuf::from(folder),
        None => std::env::temp_dir().join(format!("wrn-sam-optim-{}-parts", std::process::id())),
    };
    let (weights, optimizer, losses) =
        (folder.join("weights"), folder.join("optimizer"), folder.join("losses"));
    let mut network = Network::new()?;
    let mut sam = network.sam()?;
    if std::env::var_os(PART).is_some() {
        let mut found = if weights.is_file() {
            network.variables.load(&weights)?;
            sam.load_state(&candle_core::safetensors::load(&optimizer, CPU)?)?;
            std::fs::read(&losses).map_err(candle_core::Error::wrap)?
        } else {
            Vec::new()
        };
        found.extend(network.train(&mut sam, 4)?.into_iter().flat_map(u32::to_le_bytes));
        network.variables.save(&weights)?;
        candle_core::safetensors::save(&sam.state()?.into_iter().collect::<State>(), &optimizer)?;
        std::fs::write(&losses, found).map_err(candle_core::Error::wrap)?;
        return Ok(());
    }

    let expected = network.train(&mut sam, 8)?;
    std::fs::create_dir_all(&folder).map_err(candle_core::Error::wrap)?;
    for _ in 0..2 {
        let program = std::env::current_exe().map_err(candle_core::Error::wrap)?;
        let output = Command::new(program)
            .args(["--exact", "state::a_var_map_resumes_in_another_process"])
            .env(PART, &folder)
            .output()
            .map_err(candle_core::Error::wrap)?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let found = std::fs::read(&losses).map_err(candle_core::Error::wrap)?;
    let found: Vec<u32> = found.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    assert_eq!(found, expected);
    std::fs::remove_dir_all(folder).map_err(candle_core::Error::wrap)?;
    Ok(())
}
