//! The device that a program computes on.

use std::fmt;
use std::str::FromStr;

use wrn_sam::candle::{Device, DeviceLocation};
use wrn_sam::kernels::Precision;

use super::{AnyError, WrongFlags};

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
    /// A GPU that this build or this machine does not have; with `auto`, a driver that does not work.
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

/// Checks that the device computes in `precision`.
///
/// # Errors
/// Any precision but f32 without a GPU.
pub fn check_precision(precision: Precision, device: &Device) -> Result<(), WrongFlags> {
    if precision == Precision::F32 || device.is_cuda() {
        return Ok(());
    }
    let device = device_name(device);
    Err(WrongFlags(format!(
        "--precision {precision} needs a GPU, but the device is {device}; try --precision f32"
    )))
}

/// "cpu" or "cuda:N", as the flags name it.
pub fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".to_string(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// The most bytes that the device has held at once: a GPU, or for the CPU this process, where the system tells.
pub fn peak_bytes_on(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return wrn_sam::kernels::cuda::peak_memory(device);
    }
    if device.is_cpu() { peak_bytes() } else { None }
}

/// The most memory that the process has held, where the system tells (Linux).
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
