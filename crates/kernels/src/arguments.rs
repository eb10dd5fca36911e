//! What the CUDA kernels of the network take: each struct here is laid out as the one of its name in an operation's
//! `cuda.cu`, which says what it means. Pointers are addresses on the device (in the tests, where the kernels run as C++,
//! on the host).

/// Declares structs of the C layout.
macro_rules! arguments {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default)]
            pub(crate) struct $name { $(pub(crate) $field: $kind),* }

            // SAFETY: plain numbers in the C layout.
            #[cfg(feature = "cuda")]
            unsafe impl candle_core::cuda_backend::cudarc::driver::DeviceRepr for $name {}
        )*
    };
}

/// An address, or 0 for none.
pub(crate) type Address = u64;

arguments! {
    /// `Mask` of `dropout/mask.cuh`.
    Mask { key: u64, threshold: u64, scale: f32 }

    /// `batch_norm_statistics_arguments`
    Statistics { x: Address, add: Address, partials: Address, counts: Address, rows: i64, pitch: i32 }
    /// `batch_norm_finish_arguments`
    Finish {
        partials: Address, counts: Address, gamma: Address, beta: Address, affine: Address, running_mean: Address,
        running_var: Address, tracked: Address, epsilon: f64, momentum: f64, rows: i64, blocks: i32, pitch: i32,
        channels: i32, moves: i32,
    }
    /// `batch_norm_running_arguments`
    Running {
        gamma: Address, beta: Address, mean: Address, var: Address, affine: Address, epsilon: f64, pitch: i32,
        channels: i32,
    }
    /// `batch_norm_apply_arguments`
    Apply {
        x: Address, add: Address, y: Address, affine: Address, rows: i64, mask: Mask, pitch: i32, channels: i32,
    }
    /// `batch_norm_backward_arguments`
    Backward {
        x: Address, grad: Address, add: Address, affine: Address, partials: Address, sums: Address, rows: i64,
        mask: Mask, pitch: i32, channels: i32,
    }
    /// `batch_norm_add_up_arguments`
    AddUp { partials: Address, sums: Address, blocks: i32, pitch: i32 }

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

    /// `pool_arguments`
    Pool {
        images: Address, features: Address, batch: i32, height: i32, width: i32, window: i32, channels: i32,
        pitch: i32,
    }

    /// `linear_product_arguments`
    Product {
        a: Address, b: Address, bias: Address, y: Address, a_row: i64, a_k: i64, b_column: i64, b_k: i64, rows: i32,
        columns: i32, depth: i32, unused: i32,
    }
    /// `linear_sums_arguments`
    Sums { x: Address, sums: Address, rows: i32, columns: i32 }
}

impl From<Option<crate::dropout::Mask>> for Mask {
    fn from(mask: Option<crate::dropout::Mask>) -> Self {
        mask.map_or_else(Self::default, |mask| Self {
            key: mask.key,
            threshold: mask.threshold,
            scale: mask.scale,
        })
    }
}

impl Product {
    /// Rows, and columns, of the tile of `y` that a block of as many threads computes.
    pub(crate) const TILE: usize = 16;

    /// `y[row, column] = sum over k of a[row, k] b[column, k]`, plus a bias; the operands with their two strides.
    pub(crate) fn new(
        [rows, columns, depth]: [usize; 3],
        (a, [a_row, a_k]): (Address, [usize; 2]),
        (b, [b_column, b_k]): (Address, [usize; 2]),
        bias: Address,
        y: Address,
    ) -> Self {
        Self {
            a,
            b,
            bias,
            y,
            a_row: a_row as i64,
            a_k: a_k as i64,
            b_column: b_column as i64,
            b_k: b_k as i64,
            rows: rows as i32,
            columns: columns as i32,
            depth: depth as i32,
            unused: 0,
        }
    }

    /// The blocks in x and y.
    pub(crate) fn blocks([rows, columns, _]: [usize; 3]) -> (usize, usize) {
        (columns.div_ceil(Self::TILE).max(1), rows.div_ceil(Self::TILE).max(1))
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

/// How the kernels of a batch norm over `rows` of `pitch` channels are spread: blocks in x and y, of 256 threads. By the
/// shape alone, so that sums are added in the same order on every GPU.
pub(crate) fn batch_norm_blocks(rows: usize, pitch: usize) -> (usize, usize) {
    const THREADS: usize = 256;
    const ROWS_OF_A_THREAD: usize = 16;
    const MOST: usize = 528;
    let vectors = pitch / 8;
    let together = THREADS / vectors.min(THREADS);
    (rows.div_ceil(together * ROWS_OF_A_THREAD).clamp(1, MOST), vectors.div_ceil(THREADS))
}

/// Channels with the padding that makes whole vectors of them.
pub(crate) fn pitch(channels: usize) -> usize {
    channels.next_multiple_of(8)
}
