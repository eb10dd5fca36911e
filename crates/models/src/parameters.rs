use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor, Var, bail};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::error::Result;
use crate::{init, state_dict};

/// The names, without their prefix, that are state but not trained.
const BUFFERS: [&str; 3] = ["running_mean", "running_var", "num_batches_tracked"];

/// Whether a named value is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// An optimizer changes it.
    Trainable,
    /// Nothing changes it: see [`Parameters::with_frozen`].
    Frozen,
    /// The model itself changes it: batch normalization's running statistics.
    Buffer,
}

impl Kind {
    /// A name ending in `running_mean`, `running_var` or `num_batches_tracked` is a buffer, every other is trainable.
    pub fn of(name: &str) -> Self {
        let last = name.rsplit('.').next().unwrap_or(name);
        if BUFFERS.contains(&last) { Self::Buffer } else { Self::Trainable }
    }
}

/// A model's values by name, in the order in which the model made them: a backend of candle's [`VarBuilder`] that
/// initializes from a seed, knows trainable values from buffers, and saves and loads state dicts.
///
/// A clone is another handle to the same values.
///
/// ```
/// use candle_core::{DType, Device};
/// use wrn_sam_models::{BasicUnit, Kind, Parameters};
///
/// let parameters = Parameters::new(17, DType::F32, &Device::Cpu);
/// let unit = BasicUnit::new(16, 0.0, parameters.var_builder().pp("unit"))?;
/// assert_eq!(parameters.trainable().len(), 6); // two convolutions, two weights and two biases
/// let (name, kind, var) = &parameters.named()[2];
/// assert_eq!((name.as_str(), *kind, var.dims()), ("unit.block.0_normalization.running_mean", Kind::Buffer, &[16][..]));
/// # let _ = unit;
/// # Ok::<(), wrn_sam_models::Error>(())
/// ```
#[derive(Clone)]
pub struct Parameters {
    seed: u64,
    dtype: DType,
    device: Device,
    store: Arc<Mutex<Store>>,
    frozen: Option<Arc<Predicate>>,
}

/// Says yes or no to a value by its name.
type Predicate = dyn Fn(&str) -> bool + Send + Sync;

#[derive(Default)]
struct Store {
    entries: Vec<(String, Var)>,
    index: HashMap<String, usize>,
}

impl Store {
    fn get(&self, name: &str) -> Option<&Var> {
        self.index.get(name).map(|&at| &self.entries[at].1)
    }
}

impl Parameters {
    /// An empty store. `dtype` is the element type of the values that [`var_builder`](Self::var_builder) makes
    /// (`num_batches_tracked` is I64 in any case). Each tensor's first values come from a stream of its own, keyed by
    /// `seed` and its name: they are the same on every machine and device, in whatever order they are made.
    pub fn new(seed: u64, dtype: DType, device: &Device) -> Self {
        Self { seed, dtype, device: device.clone(), store: Arc::default(), frozen: None }
    }

    /// Another handle to the same values, by which those that `frozen` says yes to by their name are not trained:
    /// [`trainable`](Self::trainable) leaves them out, and in a network built from this handle's
    /// [`var_builder`](Self::var_builder) they are constants. A pass then computes no gradient of them, nor of anything that
    /// only they depend on. Buffers are never frozen: with frozen batch norms, train in
    /// [`Mode::EvalWithGradients`](crate::Mode::EvalWithGradients), or their running statistics move.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use wrn_sam_models::{Mode, Parameters, WideResNet, WideResNetConfig};
    ///
    /// let config = WideResNetConfig::new(10, 1).with_classes(5);
    /// let all = Parameters::new(17, DType::F32, &Device::Cpu);
    /// let head = all.with_frozen(|name| !name.starts_with(WideResNet::CLASSIFIER));
    /// let model = WideResNet::new(&config, head.var_builder())?;
    /// let images = Tensor::rand(-1f32, 1f32, (2, 3, 32, 32), &Device::Cpu)?;
    /// let gradients = model.forward(&images, Mode::EvalWithGradients)?.sum_all()?.backward()?;
    /// assert_eq!(head.trainable().len(), 2); // the classifier's weight and bias
    /// assert!(head.trainable().iter().all(|var| gradients.get(var).is_some()));
    /// # Ok::<(), wrn_sam_models::Error>(())
    /// ```
    #[must_use]
    pub fn with_frozen(&self, frozen: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self { frozen: Some(Arc::new(frozen)), ..self.clone() }
    }

    fn kind(&self, name: &str) -> Kind {
        match Kind::of(name) {
            Kind::Trainable if self.frozen.as_ref().is_some_and(|frozen| frozen(name)) => Kind::Frozen,
            kind => kind,
        }
    }

    /// A builder over this store. A name asked for again gives the same value, so two layers can share one.
    pub fn var_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.dtype, self.device.clone())
    }

    /// The values to hand to an optimizer, in the order in which the model made them, which is that of PyTorch's
    /// `parameters()`.
    pub fn trainable(&self) -> Vec<Var> {
        self.named_trainable().into_iter().map(|(_, var)| var).collect()
    }

    /// [`trainable`](Self::trainable) with their names, by which an optimizer can save its state.
    pub fn named_trainable(&self) -> Vec<(String, Var)> {
        let named = self.named().into_iter().filter(|(_, kind, _)| *kind == Kind::Trainable);
        named.map(|(name, _, var)| (name, var)).collect()
    }

    /// The weights and biases of normalization layers, which are those beside a `running_mean`: what SAM-ON perturbs.
    pub fn norms(&self) -> Vec<Var> {
        let store = self.store();
        let of_norm = |name: &str| {
            let layer = name.rsplit_once('.').map_or(String::new(), |(layer, _)| format!("{layer}."));
            self.kind(name) == Kind::Trainable && store.get(&format!("{layer}running_mean")).is_some()
        };
        store.entries.iter().filter(|(name, _)| of_norm(name)).map(|(_, var)| var.clone()).collect()
    }

    /// [`norms`](Self::norms), and every value whose name ends in `bias`: what is often spared weight decay.
    pub fn norms_and_biases(&self) -> Vec<Var> {
        let norms: Vec<_> = self.norms().iter().map(|var| var.id()).collect();
        let spared = |(name, var): &(String, Var)| {
            norms.contains(&var.id()) || name.rsplit('.').next() == Some("bias")
        };
        self.named_trainable().into_iter().filter(spared).map(|(_, var)| var).collect()
    }

    /// The values that the model itself changes, which SAM is to keep in its second pass and after an error.
    pub fn buffers(&self) -> Vec<Var> {
        let buffers = self.named().into_iter().filter(|(_, kind, _)| *kind == Kind::Buffer);
        buffers.map(|(.., var)| var).collect()
    }

    /// Every value with its name and kind, in the order in which the model made them.
    pub fn named(&self) -> Vec<(String, Kind, Var)> {
        let store = self.store();
        store.entries.iter().map(|(name, var)| (name.clone(), self.kind(name), var.clone())).collect()
    }

    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<Var> {
        self.store().get(name).cloned()
    }

    /// How many numbers the trainable values hold.
    pub fn parameter_count(&self) -> usize {
        self.trainable().iter().map(|var| var.elem_count()).sum()
    }

    /// Copies of all values, buffers included: the state dict. Later changes of the model do not show in it.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) where there is no memory for the copies.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let store = self.store();
        store.entries.iter().map(|(name, var)| Ok((name.clone(), var.copy()?.detach()))).collect()
    }

    /// Sets all values from a state dict, whose tensors may be on any device.
    ///
    /// A prefix that all names share is taken off, such as `module.` of PyTorch's DataParallel or `_orig_mod.` of
    /// torch.compile. The names of [xternalz/WideResNet-pytorch] are understood. f16, bf16, f32 and f64 are converted to
    /// the parameters' element type. `num_batches_tracked` may be of any integer type and of shape `[]`
    /// or `[1]`; where it is missing, it becomes 0. Values that are not finite are loaded as they are:
    /// [`check_values`](Self::check_values) finds them.
    ///
    /// [xternalz/WideResNet-pytorch]: https://github.com/xternalz/WideResNet-pytorch
    ///
    /// # Errors
    /// [`Error::StateDict`](crate::Error::StateDict) names every value that is missing, unexpected, or of another shape
    /// or kind of element; [`Error::OtherNetwork`](crate::Error::OtherNetwork) a known network that is not this one.
    /// Nothing is changed on an error.
    pub fn load_state(&self, state: &HashMap<String, Tensor>) -> Result<()> {
        state_dict::assign_tensors(&self.named(), state)
    }

    /// Sets the values that `chosen` says yes to by their name from a file, and leaves the others: to take a trained network
    /// over but for its head, which has other classes. The file's value of a name that is not chosen may have any shape.
    ///
    /// ```
    /// # use candle_core::{DType, Device};
    /// # use wrn_sam_models::{Parameters, WideResNet, WideResNetConfig};
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("model.safetensors");
    /// # let trained = Parameters::new(1, DType::F32, &Device::Cpu);
    /// # WideResNet::new(&WideResNetConfig::new(10, 1), trained.var_builder())?;
    /// # trained.save(&path)?;
    /// let config = WideResNetConfig::from_state_dict(&path)?.with_classes(7);
    /// let parameters = Parameters::new(17, DType::F32, &Device::Cpu);
    /// let model = WideResNet::new(&config, parameters.var_builder())?;
    /// parameters.load_only(&path, |name| !name.starts_with(WideResNet::CLASSIFIER))?;
    /// # Ok::<(), wrn_sam_models::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`load`](Self::load), for the chosen values and for names in the file that the model does not have.
    pub fn load_only(&self, path: impl AsRef<Path>, chosen: impl Fn(&str) -> bool) -> Result<()> {
        state_dict::load(path.as_ref(), &self.named(), &chosen)
    }

    /// Writes all values to a safetensors file under their names, which are PyTorch's: a reader there is
    /// `model.load_state_dict(safetensors.torch.load_file(path))`. Equal values give equal bytes. The file is whole
    /// under its name, or not there: see [`wrn_sam_files::write`]. [`save_state_dict`](crate::save_state_dict) adds a text.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) where the folder is missing, full or not writable; an existing file stays.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let values =
            self.named().into_iter().map(|(name, _, var)| (name, var.into_inner())).collect::<Vec<_>>();
        state_dict::save_state_dict(path, &values, None)
    }

    /// Sets all values from a file, as [`load_state`](Self::load_state) does. Its first bytes tell what it is:
    ///
    /// - safetensors, of this crate or of PyTorch (`safetensors.torch.save_file(model.state_dict(), path)`);
    /// - PyTorch's own since version 1.6 (`torch.save(model.state_dict(), path)`), usually named `.pth` or `.pt`, which is
    ///   read as data: nothing in it is executed. A state dict within a checkpoint, as its entry `state_dict`, `model` or
    ///   `net`, is found.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) where the file cannot be read; [`Error::NotWeights`](crate::Error::NotWeights)
    /// names what it is instead, such as a Git LFS pointer;
    /// [`Error::SafeTensors`](crate::Error::SafeTensors) and [`Error::PyTorch`](crate::Error::PyTorch) where it is
    /// damaged or holds no state dict. Otherwise as [`load_state`](Self::load_state). Nothing is changed on an error.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<()> {
        state_dict::load(path.as_ref(), &self.named(), &|_| true)
    }

    /// Checks that every value is finite and every running variance at least 0. Training that diverged, or a damaged
    /// file, gives other values, and a network computes nothing meaningful from them.
    ///
    /// # Errors
    /// [`Error::BadValues`](crate::Error::BadValues) names the first tensor with such values.
    pub fn check_values(&self) -> Result<()> {
        state_dict::check_values(&self.named())
    }

    /// What a network gets: a variable, or a constant that shares a frozen variable's values.
    fn handed_out(&self, name: &str, var: &Var) -> Tensor {
        match self.kind(name) {
            Kind::Frozen => var.as_detached_tensor(),
            _ => var.as_tensor().clone(),
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // An entry is only ever added whole, so a panic elsewhere leaves the store sound.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimpleBackend for Parameters {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        hint: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut store = self.store();
        if let Some(var) = store.get(name) {
            if var.shape() != &shape || var.dtype() != dtype {
                let (old, old_dtype) = (var.shape(), var.dtype());
                bail!("{name} is {old_dtype:?} {old:?} already and cannot be {dtype:?} {shape:?} as well");
            }
            return Ok(self.handed_out(name, var));
        }
        let var = Var::from_tensor(&init::tensor(self.seed, name, hint, &shape, dtype, device)?)?;
        let tensor = self.handed_out(name, &var);
        let at = store.entries.len();
        store.index.insert(name.to_string(), at);
        store.entries.push((name.to_string(), var));
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        match self.store().get(name) {
            Some(var) if var.dtype() == dtype => self.handed_out(name, var).to_device(device),
            Some(var) => bail!("{name} is {:?}, not {dtype:?}", var.dtype()),
            None => bail!("there is no {name} yet: ask for it with its shape"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.store().get(name).is_some()
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, dtype, device, .. } = self;
        let values = self.store().entries.len();
        write!(f, "Parameters {{ seed: {seed}, dtype: {dtype:?}, device: {device:?}, values: {values} }}")
    }
}
