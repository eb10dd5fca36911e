//! The kernels of `cuda.cu`, run on the host, against the reference.

use super::cuda_args::Pool;
use super::{PoolShape, plain};
use crate::cuda_args::pitch;
use crate::on_host::images::{Element, Rows, assert_close, random};
use crate::on_host::{Grid, Guarded, Order, compile};

#[test]
fn kernels_agree_with_the_reference() {
    let kernels = ["pool_forward_f32", "pool_forward_bf16", "pool_backward_f32", "pool_backward_bf16"];
    let Some(module) = compile("pool", &kernels) else { return };
    let grid = Grid { blocks: (3, 1), threads: 32, shared: 0 };
    for (batch, height, width, channels, window) in
        [(1, 1, 1, 1, 1), (2, 8, 8, 17, 8), (3, 4, 6, 3, 2), (2, 16, 24, 40, 8)]
    {
        let shape = PoolShape { batch, height, width, channels, window };
        for element in Element::BOTH {
            let x = element.round(&random(1, shape.input_len()));
            let dy = random(2, shape.output_len());
            let (images, features) =
                (Rows::new(element, &x, channels), Guarded::new(&vec![f32::NAN; shape.output_len()]));
            let (dx, given) = (Rows::unwritten(element, batch * height * width, channels), Guarded::new(&dy));
            let arguments = |images: &Rows, features: &Guarded<f32>| Pool {
                images: images.device(),
                features: features.device(),
                batch: batch as i32,
                height: height as i32,
                width: width as i32,
                window: window as i32,
                channels: channels as i32,
                pitch: pitch(channels) as i32,
            };
            module.launch(
                &element.kernel("pool_forward"),
                grid,
                Order::Ascending,
                &arguments(&images, &features),
            );
            module.launch(&element.kernel("pool_backward"), grid, Order::Descending, &arguments(&dx, &given));
            let mut expected = vec![0.; shape.output_len()];
            plain::forward(&shape, &x, None, &mut expected);
            assert_close(&format!("{shape:?}"), &features, &expected, 1e-6);
            let mut expected = vec![0.; shape.input_len()];
            plain::backward(&shape, &dy, &mut expected);
            assert_close(&format!("{shape:?} dx"), &dx.read(channels), &expected, element.tolerance(1e-6));
        }
    }
}
