//! What a golden file was computed with: its `config`, every key of which must be known.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use wrn_sam::optim::{Along, AscentOver, Descent, SamConfig, Scale, When};

use crate::support::AnyError;

/// What was computed.
#[derive(Debug)]
pub struct Config {
    pub depth: usize,
    pub width: usize,
    pub labels: usize,
    pub steps: usize,
    pub smoothing: f64,
    pub base: Base,
    pub sam: SamConfig,
    /// The radius of each step, where it is not the same in all.
    pub rho_steps: Option<Vec<f64>>,
    /// Whether normalization layers only are perturbed.
    pub norms_only: bool,
    pub micro_batches: Option<(usize, AscentOver)>,
    /// Weight decay and radius of normalization layers and biases, where they have their own.
    pub norms_and_biases: Option<(f64, f64)>,
    pub ema_decay: Option<f64>,
    /// Whether no ReLU's input is so near to zero that rounding turns it.
    pub without_kinks: bool,
    /// Which steps had a second pass, if the file says so.
    pub second_passes: Option<Vec<bool>>,
}

/// The base optimizer with PyTorch's arguments.
#[derive(Clone, Copy, Debug)]
pub enum Base {
    Sgd { lr: f64, momentum: f64, nesterov: bool, weight_decay: f64 },
    AdamW { lr: f64, weight_decay: f64 },
}

/// The keys that are not read yet.
struct Keys(Map<String, Value>);

impl Keys {
    fn optional<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, AnyError> {
        let Some(value) = self.0.remove(key) else { return Ok(None) };
        serde_json::from_value(value).map(Some).map_err(|error| format!("`{key}`: {error}").into())
    }

    fn get<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, AnyError> {
        self.optional(key)?.ok_or_else(|| format!("there is no `{key}`").into())
    }
}

impl Config {
    /// # Errors
    /// A key that is missing, not known, or has another kind of value; steps of a method that is not known.
    pub fn read(keys: Map<String, Value>) -> Result<Self, AnyError> {
        let mut keys = Keys(keys);
        // What the file was made with, and how far its float32 was from its float64: nothing to replay.
        for key in ["batch", "seed", "f32_replay"] {
            keys.0.remove(key);
        }
        let steps: usize = keys.get("steps")?;
        if steps == 0 {
            return Err("there are no steps".into());
        }
        let rho_steps: Option<Vec<f64>> = keys.optional("rho_steps")?;
        if rho_steps.as_ref().is_some_and(|rho_steps| rho_steps.len() != steps) {
            return Err("`rho_steps` has not a rho for every step".into());
        }
        let config = Self {
            depth: keys.get("depth")?,
            width: keys.get("width")?,
            labels: keys.get("labels")?,
            steps,
            smoothing: keys.get("smoothing")?,
            base: base(&mut keys)?,
            sam: sam(&mut keys)?,
            rho_steps,
            norms_only: match keys.optional::<String>("perturb")?.as_deref() {
                None | Some("all") => false,
                Some("norm") => true,
                Some(other) => return Err(format!("`perturb` is {other}; known are all and norm").into()),
            },
            micro_batches: micro_batches(&mut keys)?,
            norms_and_biases: groups(&mut keys)?,
            ema_decay: keys.optional("ema_decay")?,
            without_kinks: keys.optional::<f64>("margin")?.is_some_and(|margin| margin > 0.0),
            second_passes: keys.optional("second_passes")?,
        };
        match keys.0.keys().next() {
            None => Ok(config),
            Some(key) => Err(format!("`{key}` is not known to this program").into()),
        }
    }
}

fn base(keys: &mut Keys) -> Result<Base, AnyError> {
    let (lr, weight_decay) = (keys.get("lr")?, keys.get("weight_decay")?);
    match keys.get::<String>("base")?.as_str() {
        "sgd" => Ok(Base::Sgd {
            lr,
            momentum: keys.get("momentum")?,
            nesterov: keys.get("nesterov")?,
            weight_decay,
        }),
        "adamw" => Ok(Base::AdamW { lr, weight_decay }),
        other => Err(format!("`base` is {other}; known are sgd and adamw").into()),
    }
}

/// The member of the family, and the numbers that every member may have.
fn sam(keys: &mut Keys) -> Result<SamConfig, AnyError> {
    let variant: Option<String> = keys.optional("variant")?;
    let rho = keys.get("rho")?;
    let every: Option<u64> = keys.optional("every")?;
    let sam = SamConfig::sam(rho);
    let sam = match variant.as_deref() {
        None | Some("sam") => match every {
            Some(k) => sam.with_when(When::Every { k }),
            None => sam,
        },
        Some("aesam") => sam.with_when(When::Adaptive {
            delta: keys.get("delta")?,
            lambda1: keys.get("lambda1")?,
            lambda2: keys.get("lambda2")?,
            steps: keys.get("total_steps")?,
        }),
        Some("looksam") => {
            if let Some(scope) = keys.optional::<String>("scope")? {
                return Err(format!("`scope` is {scope}: LookSAM by tensor is another method").into());
            }
            sam.with_when(When::Look { k: every.ok_or("there is no `every`")?, alpha: keys.get("alpha")? })
        }
        Some("msam") => sam.with_along(Along::Momentum),
        Some("fsam") => {
            sam.with_along(Along::Friendly { sigma: keys.get("sigma")?, lambda: keys.get("lmbda")? })
        }
        Some("vasso") => sam.with_along(Along::Averaged { theta: keys.get("theta")? }),
        Some("gsam") => sam.with_descent(Descent::SurrogateGap { alpha: keys.get("alpha")? }),
        Some("wsam") => sam
            .with_descent(Descent::Weighted { gamma: keys.get("gamma")?, decoupled: keys.get("decouple")? }),
        Some(other) => return Err(format!("the variant {other} is not known to this program").into()),
    };
    if every.is_some() && !matches!(variant.as_deref(), None | Some("sam" | "looksam")) {
        return Err(format!("`every` has no meaning for the variant {}", variant.unwrap_or_default()).into());
    }
    let adaptive: bool = keys.get("adaptive")?;
    let eta = keys.optional("eta")?.unwrap_or(0.0);
    let biases = keys.optional("adaptive_biases")?.unwrap_or(true);
    let p = match keys.optional::<Value>("p")? {
        None => 2.0,
        Some(Value::String(infinite)) if infinite == "inf" => f64::INFINITY,
        Some(p) => p.as_f64().ok_or("`p` is no number")?,
    };
    let sam = if adaptive { sam.with_scale(Scale::Adaptive { eta, biases }) } else { sam };
    Ok(sam
        .with_p(p)
        .with_normalize(keys.optional("normalize")?.unwrap_or(true))
        .with_clip(keys.optional("max_norm")?))
}

fn micro_batches(keys: &mut Keys) -> Result<Option<(usize, AscentOver)>, AnyError> {
    let (parts, over) = (keys.optional("micro_batches")?, keys.optional::<String>("ascent_over")?);
    let over = match over.as_deref() {
        None | Some("batch") => AscentOver::Batch,
        Some("micro") => AscentOver::MicroBatch,
        Some(other) => return Err(format!("`ascent_over` is {other}; known are batch and micro").into()),
    };
    Ok(parts.filter(|parts| *parts != 1).map(|parts| (parts, over)))
}

fn groups(keys: &mut Keys) -> Result<Option<(f64, f64)>, AnyError> {
    let Some(groups) = keys.optional::<Map<String, Value>>("groups")? else { return Ok(None) };
    let mut groups = Keys(groups);
    let mut group = Keys(groups.get("norm_and_bias")?);
    let both = (group.get("weight_decay")?, group.get("rho")?);
    match groups.0.keys().chain(group.0.keys()).next() {
        None => Ok(Some(both)),
        Some(key) => Err(format!("`groups` has {key}, which is not known to this program").into()),
    }
}
