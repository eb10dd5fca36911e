//! The kernels of `cuda.cu`, run on the host.

use super::cuda_args::{Add, Images, MOST_PARAMETERS, Parameter, Parameters, Pixels};
use crate::cuda_args::pitch;
use crate::on_host::images::{Element, Rows, random};
use crate::on_host::{Grid, Guarded, Module, Order, compile};

const KERNELS: [&str; 10] = [
    "layout_images_f32",
    "layout_images_bf16",
    "layout_pixels_f32",
    "layout_pixels_bf16",
    "layout_add_f32",
    "layout_add_bf16",
    "layout_filters_f32",
    "layout_filters_bf16",
    "layout_gradients_f32",
    "layout_gradients_bf16",
];

/// Fewer threads than there is to do, so that the strides over the rest are tested.
const FEW: Grid = Grid { blocks: (2, 1), threads: 32, shared: 0 };

#[test]
fn images_of_any_strides_go_there_and_back() {
    let Some(module) = compile("layout", &KERNELS) else { return };
    for (batch, channels, height, width) in [(1, 1, 1, 1), (2, 3, 5, 4), (3, 17, 2, 7), (2, 16, 3, 3)] {
        let pixels = batch * height * width;
        let source = random(1, pixels * channels);
        // Stored as [N, C, H, W], as [N, H, W, C], and as [C, W, N, H].
        for strides in [
            [channels * height * width, height * width, width, 1],
            [height * width * channels, 1, width * channels, channels],
            [height, width * batch * height, 1, batch * height],
        ] {
            let mut expected = Vec::new();
            for n in 0..batch {
                for h in 0..height {
                    for w in 0..width {
                        let at = |c| n * strides[0] + c * strides[1] + h * strides[2] + w * strides[3];
                        expected.extend((0..channels).map(|c| source[at(c)]));
                    }
                }
            }
            for element in Element::BOTH {
                let (from, to) = (Guarded::new(&source), Rows::unwritten(element, pixels, channels));
                let arguments = Images {
                    from: from.device(),
                    to: to.device(),
                    by_image: strides[0] as i64,
                    by_channel: strides[1] as i64,
                    by_row: strides[2] as i64,
                    by_column: strides[3] as i64,
                    pixels: pixels as i64,
                    height: height as i32,
                    width: width as i32,
                    channels: channels as i32,
                    pitch: pitch(channels) as i32,
                };
                module.launch(&element.kernel("layout_images"), FEW, Order::Ascending, &arguments);
                let expected = element.round(&expected);
                assert_eq!(to.read(channels), expected, "{strides:?}");
                let back = Guarded::new(&vec![f32::NAN; pixels * channels]);
                let arguments = Pixels {
                    from: to.device(),
                    to: back.device(),
                    pixels: pixels as i64,
                    channels: channels as i32,
                    pitch: pitch(channels) as i32,
                };
                module.launch(&element.kernel("layout_pixels"), FEW, Order::Descending, &arguments);
                assert_eq!(back[..], expected);
            }
        }
    }
}

#[test]
fn images_are_added() {
    let Some(module) = compile("layout", &KERNELS) else { return };
    for element in Element::BOTH {
        let [a, b] = [1, 2].map(|seed| element.round(&random(seed, 70 * 8)));
        let [to, add] = [&a, &b].map(|values| Rows::new(element, values, 8));
        let arguments = Add { to: to.device(), add: add.device(), vectors: 70 };
        module.launch(&element.kernel("layout_add"), FEW, Order::Ascending, &arguments);
        let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_eq!(to.read(8), element.round(&sum));
    }
}

/// A weight's dimensions, or a vector's length.
const PARAMETERS: [[usize; 4]; 7] =
    [[16, 3, 3, 3], [5, 17, 3, 3], [24, 16, 1, 1], [3, 5, 1, 1], [9, 8, 2, 2], [40, 64, 3, 3], [1, 1, 5, 5]];

fn parameter(dims: [usize; 4], from: u64, to: u64) -> Parameter {
    Parameter {
        from,
        to,
        outputs: dims[0] as i32,
        inputs: dims[1] as i32,
        window: (dims[2] * dims[3]) as i32,
        padded_outputs: pitch(dims[0]) as i32,
        pitch: pitch(dims[1]) as i32,
        ..Parameter::default()
    }
}

fn launch_all(module: &Module, kernel: &str, order: Order, parameters: &[Parameter]) {
    for (arguments, blocks) in Parameters::launches(parameters) {
        let grid = Grid { blocks: (blocks, 1), threads: Parameters::THREADS, shared: 0 };
        module.launch(kernel, grid, order, &arguments);
    }
}

/// Weights become `[padded O, window, padded I]`, and gradients of that layout become `[O, I, window]`, many at once.
#[test]
fn parameters_change_their_layout_and_back() {
    let Some(module) = compile("layout", &KERNELS) else { return };
    let many: Vec<[usize; 4]> = PARAMETERS.into_iter().cycle().take(MOST_PARAMETERS + 9).collect();
    for element in Element::BOTH {
        for order in Order::BOTH {
            let weights: Vec<Vec<f32>> =
                many.iter().enumerate().map(|(i, dims)| random(i as u64, dims.iter().product())).collect();
            let sources: Vec<_> = weights.iter().map(|weight| Guarded::new(weight)).collect();
            let filters: Vec<_> = many
                .iter()
                .map(|dims| Rows::unwritten(element, pitch(dims[0]) * dims[2] * dims[3], dims[1]))
                .collect();
            let parameters: Vec<_> = many
                .iter()
                .zip(sources.iter().zip(&filters))
                .map(|(&dims, (from, to))| parameter(dims, from.device(), to.device()))
                .collect();
            launch_all(&module, &element.kernel("layout_filters"), order, &parameters);
            for ((dims, weight), filter) in many.iter().zip(&weights).zip(&filters) {
                let [outputs, inputs, height, width] = *dims;
                let (window, found) = (height * width, filter.read(inputs));
                for (i, found) in found.iter().enumerate() {
                    let (o, w, c) = (i / inputs / window, i / inputs % window, i % inputs);
                    let expected = if o < outputs { weight[(o * inputs + c) * window + w] } else { 0.0 };
                    assert_eq!(*found, element.round(&[expected])[0], "{dims:?}");
                }
            }

            let back: Vec<_> =
                weights.iter().map(|weight| Guarded::new(&vec![f32::NAN; weight.len()])).collect();
            let vector = Guarded::new(&random(3, 1003));
            let copy = Guarded::new(&[f32::NAN; 1003]);
            let mut parameters: Vec<_> = many
                .iter()
                .zip(filters.iter().zip(&back))
                .map(|(&dims, (from, to))| parameter(dims, from.device(), to.device()))
                .collect();
            parameters.insert(
                3,
                Parameter {
                    from: vector.device(),
                    to: copy.device(),
                    outputs: 1,
                    inputs: 1003,
                    window: 1,
                    padded_outputs: 1,
                    pitch: pitch(1003) as i32,
                    plain: 1,
                    ..Parameter::default()
                },
            );
            launch_all(&module, &element.kernel("layout_gradients"), order, &parameters);
            for ((dims, weight), back) in many.iter().zip(&weights).zip(&back) {
                assert_eq!(back[..], element.round(weight), "{dims:?}");
            }
            assert_eq!(copy[..], vector[..]);
        }
    }
}
