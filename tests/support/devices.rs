//! One test, every device: the CPU, and with the feature `cuda` the first NVIDIA GPU.

use wrn_sam::candle::Device;

/// Makes of each function that takes a device a test on each.
macro_rules! on_every_device {
    ($($(#[$doc:meta])* fn $name:ident($device:ident: &Device) $body:block)*) => {
        $($(#[$doc])* fn $name($device: &Device) $body)*

        mod cpu {
            $(#[test] fn $name() { super::$name(&wrn_sam::candle::Device::Cpu); })*
        }

        #[cfg(feature = "cuda")]
        mod cuda {
            $(#[test] fn $name() {
                if let Some(device) = $crate::devices::gpu() {
                    super::$name(&device);
                }
            })*
        }
    };
}
pub(crate) use on_every_device;

/// The first GPU. Where there is none the reason is printed; with `WRN_SAM_GPU=1` in the environment it is a failure.
#[cfg(feature = "cuda")]
pub fn gpu() -> Option<Device> {
    let required = std::env::var_os("WRN_SAM_GPU").is_some_and(|value| value == "1");
    match wrn_sam::kernels::cuda::device_count() {
        Ok(0) if !required => {
            eprintln!("skipped: no NVIDIA GPU");
            None
        }
        Err(error) if !required => {
            eprintln!("skipped: {error}");
            None
        }
        _ => Some(wrn_sam::kernels::cuda::device(0).expect("a GPU that works")),
    }
}

#[cfg(not(feature = "cuda"))]
#[allow(dead_code)]
pub fn gpu() -> Option<Device> {
    None
}
