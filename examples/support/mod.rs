//! What the examples share: an end with one clear message, the choice of a device, and the synthetic images of a recipe.
#![allow(dead_code)] // every example takes what it needs

use std::error::Error;
use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;

use wrn_sam::candle::{Device, DeviceLocation};
pub use wrn_sam::data::with_causes as chain;
use wrn_sam::data::{Cifar, TEST_IMAGES, TRAIN_IMAGES};
use wrn_sam::train::Recipe;

/// Any error, for programs that only report it.
pub type AnyError = Box<dyn Error + Send + Sync>;

/// Exit code 0, or 1 with one message on stderr: the error and what caused it, outermost first.
pub fn end(result: Result<(), AnyError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough (`| head`) is no failure worth a message.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// `--device auto|cpu|cuda[:N]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first NVIDIA GPU where this build and this machine have one, else the CPU.
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("\"{text}\" is none of auto, cpu, cuda and cuda:N");
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let ordinal = text.strip_prefix("cuda:").ok_or_else(expected)?;
                ordinal.parse().map(Self::Cuda).map_err(|_| expected())
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl DeviceChoice {
    /// The device chosen.
    ///
    /// # Errors
    /// A GPU that this build or this machine does not have; with `auto` a driver that is there and does not work.
    pub fn device(self) -> Result<Device, AnyError> {
        let refused = |error: &dyn fmt::Display| {
            AnyError::from(format!("--device {self} cannot be used: {error}; try --device cpu"))
        };
        match self {
            Self::Auto if gpus().map_err(|error| refused(&error))? > 0 => {
                gpu(0).map_err(|error| refused(&error))
            }
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => gpu(ordinal).map_err(|error| refused(&error)),
        }
    }
}

#[cfg(feature = "cuda")]
fn gpus() -> wrn_sam::kernels::Result<usize> {
    wrn_sam::kernels::cuda::device_count()
}

#[cfg(feature = "cuda")]
fn gpu(ordinal: usize) -> wrn_sam::kernels::Result<Device> {
    wrn_sam::kernels::cuda::device(ordinal)
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> Result<usize, String> {
    Ok(0)
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: usize) -> Result<Device, String> {
    Err("this program was built without the feature `cuda`".to_string())
}

/// The most bytes a device has held at once: a GPU, or for the CPU this process, where the system tells.
pub fn peak_bytes_on(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return wrn_sam::kernels::cuda::peak_memory(device);
    }
    if device.is_cpu() { peak_bytes() } else { None }
}

/// "cpu" or "cuda:N", as the flags name it.
pub fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".to_string(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// The synthetic images of a run: no more than its recipe wants of them.
pub fn synthetic(recipe: &Recipe) -> Cifar {
    let limited = |images: usize, limit| if limit == 0 { images } else { images.min(limit) };
    let train = limited(TRAIN_IMAGES, recipe.train_limit);
    Cifar::synthetic(recipe.seed, train, limited(TEST_IMAGES, recipe.test_limit))
}

/// The most memory the process has held, where the system tells (Linux).
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
