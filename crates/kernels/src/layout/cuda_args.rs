//! What the kernels of `cuda.cu` take, as they lay it out.

use crate::cuda_args::{Address, arguments};

arguments! {
    /// `layout_images_arguments`
    Images {
        from: Address, to: Address, by_image: i64, by_channel: i64, by_row: i64, by_column: i64, pixels: i64,
        height: i32, width: i32, channels: i32, pitch: i32,
    }
    /// `layout_pixels_arguments`
    Pixels { from: Address, to: Address, pixels: i64, channels: i32, pitch: i32 }
    /// `layout_add_arguments`
    Add { to: Address, add: Address, vectors: i64 }
    /// `Parameter` of `layout/cuda.cu`
    Parameter {
        from: Address, to: Address, first_block: i32, outputs: i32, inputs: i32, window: i32, padded_outputs: i32,
        pitch: i32, plain: i32, unused: i32,
    }
}

/// How many parameters `layout_filters` and `layout_gradients` take in a launch: as many as fit its 4 KiB of arguments.
pub(crate) const MOST_PARAMETERS: usize = 80;

/// `layout_parameters_arguments`
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Parameters {
    pub(crate) parameters: [Parameter; MOST_PARAMETERS],
    pub(crate) count: i32,
    pub(crate) unused: i32,
}

// SAFETY: plain numbers in the C layout.
#[cfg(feature = "cuda")]
unsafe impl candle_core::cuda_backend::cudarc::driver::DeviceRepr for Parameters {}

impl Parameters {
    /// Threads of a block, each of which takes eight inputs of an output.
    pub(crate) const THREADS: usize = 256;

    /// The launches that take all of the parameters, whose first blocks are set here, with their blocks.
    pub(crate) fn launches(parameters: &[Parameter]) -> Vec<(Self, usize)> {
        let launch = |parameters: &[Parameter]| {
            let mut launch = Self {
                parameters: [Parameter::default(); MOST_PARAMETERS],
                count: parameters.len() as i32,
                unused: 0,
            };
            let mut blocks = 0;
            for (to, from) in launch.parameters.iter_mut().zip(parameters) {
                *to = Parameter { first_block: blocks as i32, ..*from };
                let vectors = from.padded_outputs as usize * from.pitch as usize / 8;
                blocks += vectors.div_ceil(Self::THREADS).max(1);
            }
            (launch, blocks)
        };
        parameters.chunks(MOST_PARAMETERS).map(launch).collect()
    }
}
