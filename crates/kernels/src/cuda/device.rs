//! What a network runs with on a GPU.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use candle_core::Tensor;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::DeviceRepr;

use super::cudnn::Handle;
use super::memory::{Block, Memory};
use super::{Grid, Module, launch, pointer};
use crate::conv2d::cuda::{Choice, Convolutions};
use crate::cuda_args::pitch;
use crate::layout::cuda::add;
use crate::{Error, Precision, Result};

/// A GPU as a [`Backend`](crate::Backend): its stream, a cuDNN handle with the plans of every convolution met so far, and
/// an arena of reused memory, for one [`Precision`]. Cloning is cheap and shares all of them.
///
/// No operation waits for the device, but for a convolution's first, unless it is [deterministic](Self::with_deterministic).
#[derive(Clone)]
pub struct Cuda(Arc<Inner>);

struct Inner {
    device: CudaDevice,
    precision: Precision,
    memory: Arc<Memory>,
    convolutions: Mutex<Convolutions>,
}

impl Cuda {
    /// An engine on a device's stream.
    ///
    /// # Errors
    /// [`Error::Device`] where cuDNN is missing, too old, or fails.
    pub fn new(device: &CudaDevice, precision: Precision) -> Result<Self> {
        let memory = Memory::new(device);
        let convolutions = Convolutions::new(Handle::new(device)?, precision, memory.clone());
        Ok(Self(Arc::new(Inner {
            device: device.clone(),
            precision,
            memory,
            convolutions: Mutex::new(convolutions),
        })))
    }

    /// The engine of this device, precision and choice of plans (see [`with_deterministic`](Self::with_deterministic)) that is
    /// in use already, or a new one: layers that are not told of each other share a handle, the plans and the memory.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn shared(device: &CudaDevice, precision: Precision, deterministic: bool) -> Result<Self> {
        type Key = (candle_core::cuda_backend::DeviceId, Precision, bool);
        static IN_USE: Mutex<Vec<(Key, Weak<Inner>)>> = Mutex::new(Vec::new());
        let key = (device.id(), precision, deterministic);
        let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|(_, engine)| engine.strong_count() > 0);
        let found = in_use.iter().find(|(found, _)| *found == key);
        if let Some(engine) = found.and_then(|(_, engine)| engine.upgrade()) {
            return Ok(Self(engine));
        }
        let engine = Self::new(device, precision)?.with_deterministic(deterministic);
        in_use.push((key, Arc::downgrade(&engine.0)));
        Ok(engine)
    }

    /// With the same plans of convolutions in every run on one kind of GPU with one version of cuDNN, and so the same bits;
    /// else with the fastest that are found at a shape's first use, which may differ from run to run, and in rounding.
    #[must_use]
    pub fn with_deterministic(self, deterministic: bool) -> Self {
        let choice = if deterministic { Choice::Ranked } else { Choice::Timed };
        self.convolutions(|convolutions| convolutions.choose(choice));
        self
    }

    /// The precision it was made for.
    pub fn precision(&self) -> Precision {
        self.0.precision
    }

    /// The device it was made on.
    pub fn device(&self) -> &CudaDevice {
        &self.0.device
    }

    /// Hands the memory of buffers not in use back to the driver.
    pub fn trim(&self) {
        self.0.memory.trim();
    }

    /// Calls `f` with the convolutions' plans.
    pub(crate) fn convolutions<T>(&self, f: impl FnOnce(&mut Convolutions) -> T) -> T {
        f(&mut self.0.convolutions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes of an element of the activations.
    pub(crate) fn element(&self) -> usize {
        if self.0.precision == Precision::Bf16 { 2 } else { 4 }
    }

    /// Memory for `len` elements of so many bytes, with arbitrary contents.
    pub(crate) fn block(&self, operation: &'static str, len: usize, bytes: usize) -> Result<Arc<Block>> {
        Ok(Arc::new(self.0.memory.take(operation, len * bytes)?))
    }

    /// Images of `pixels` pixels, with arbitrary contents.
    pub(crate) fn new_images(
        &self,
        operation: &'static str,
        pixels: usize,
        channels: usize,
    ) -> Result<Images> {
        let pitch = pitch(channels);
        let block = self.block(operation, pixels * pitch, self.element())?;
        Ok(Images::new(block, pixels, channels, pitch))
    }

    /// The address of a contiguous `f32` tensor of this device.
    pub(crate) fn address(&self, operation: &'static str, tensor: &Tensor) -> Result<u64> {
        pointer::<f32>(operation, &self.0.device, tensor)
    }

    /// Launches a kernel that is the same for every type.
    ///
    /// # Safety
    /// As [`launch`].
    pub(crate) unsafe fn launch<T: DeviceRepr>(
        &self,
        module: &Module,
        function: &'static str,
        grid: Grid,
        arguments: &T,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { launch(&self.0.device, module, function, grid, arguments) }
    }

    /// Launches the one of two kernels, for `f32` and for bfloat16, that fits the activations' type; see [`typed`].
    ///
    /// # Safety
    /// As [`launch`].
    pub(crate) unsafe fn launch_typed<T: DeviceRepr>(
        &self,
        module: &Module,
        [f32, bf16]: [&'static str; 2],
        grid: Grid,
        arguments: &T,
    ) -> Result<()> {
        let function = if self.0.precision == Precision::Bf16 { bf16 } else { f32 };
        // SAFETY: the caller's promise.
        unsafe { launch(&self.0.device, module, function, grid, arguments) }
    }

    /// The address of images, once what was left to be added has been.
    pub(crate) fn settled(&self, images: &Images) -> Result<u64> {
        if let Some(addend) = images.take_addend() {
            add(self, images, &addend)?;
        }
        Ok(images.block.address())
    }
}

/// The names of a kernel's two forms.
macro_rules! typed {
    ($name:literal) => {
        [concat!($name, "_f32"), concat!($name, "_bf16")]
    };
}
pub(crate) use typed;

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cuda")
            .field("device", &self.0.device)
            .field("precision", &self.0.precision)
            .finish_non_exhaustive()
    }
}

/// Images on the device, channels last in the activations' type, with their channels padded to the pitch by zeros.
pub struct Images {
    pub(crate) block: Arc<Block>,
    pub(crate) pixels: usize,
    pub(crate) channels: usize,
    pub(crate) pitch: usize,
    /// What is still to be added: a batch norm does it while it reads, [`Cuda::settled`] for all other readers.
    addend: Mutex<Option<Arc<Block>>>,
}

impl Images {
    pub(crate) fn new(block: Arc<Block>, pixels: usize, channels: usize, pitch: usize) -> Self {
        Self { block, pixels, channels, pitch, addend: Mutex::default() }
    }

    /// The same with the addition of a block of this shape left to their first reader.
    pub(crate) fn with_addend(self, addend: Arc<Block>) -> Self {
        Self { addend: Mutex::new(Some(addend)), ..self }
    }

    /// What is still to be added, for the caller to do.
    pub(crate) fn take_addend(&self) -> Option<Arc<Block>> {
        self.addend.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// That they are of the given shape.
    pub(crate) fn check(&self, what: &'static str, pixels: usize, channels: usize) -> Result<()> {
        if (self.pixels, self.channels) == (pixels, channels) {
            return Ok(());
        }
        let describe = |pixels, channels| format!("{pixels} pixels of {channels} channels");
        let (expected, found) = (describe(pixels, channels), describe(self.pixels, self.channels));
        Err(Error::Shape { what, expected, found })
    }
}
