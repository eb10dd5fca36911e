//! The kernels of `cuda.cu`, run on the host, against the reference.

use super::cuda_args::{Product, Sums};
use super::{LinearShape, plain};
use crate::on_host::images::{assert_close, random};
use crate::on_host::{Grid, Guarded, Order, compile};

#[test]
fn kernels_agree_with_the_reference() {
    let Some(module) = compile("linear", &["linear_product", "linear_sums"]) else { return };
    for (batch, inputs, outputs) in [(1, 1, 1), (3, 17, 5), (16, 16, 16), (19, 40, 100), (33, 7, 31)] {
        let shape = LinearShape { batch, inputs, outputs };
        let (x, w) = (random(1, batch * inputs), random(2, outputs * inputs));
        let (b, dy) = (random(3, outputs), random(4, batch * outputs));
        let [on_x, on_w, on_b, on_dy] = [&x, &w, &b, &dy].map(|values| Guarded::new(&values[..]));
        let product = |size: [usize; 3], a: (u64, [usize; 2]), b: (u64, [usize; 2]), bias: u64| {
            let [ascending, descending] = Order::BOTH.map(|order| {
                let y = Guarded::new(&vec![f32::NAN; size[0] * size[1]]);
                let arguments = Product::new(size, a, b, bias, y.device());
                let (blocks, threads) = (Product::blocks(size), Product::TILE * Product::TILE);
                module.launch("linear_product", Grid { blocks, threads, shared: 0 }, order, &arguments);
                y.to_vec()
            });
            assert_eq!(ascending, descending, "{shape:?}: a race");
            ascending
        };
        // As cuda.rs launches them.
        let (x_at, w_at, dy_at) = (on_x.device(), on_w.device(), on_dy.device());
        let y = product([batch, outputs, inputs], (x_at, [inputs, 1]), (w_at, [inputs, 1]), on_b.device());
        let dx = product([batch, inputs, outputs], (dy_at, [outputs, 1]), (w_at, [1, inputs]), 0);
        let dw = product([outputs, inputs, batch], (dy_at, [1, outputs]), (x_at, [1, inputs]), 0);
        let db = Guarded::new(&vec![f32::NAN; outputs]);
        let arguments = Sums { x: dy_at, sums: db.device(), rows: batch as i32, columns: outputs as i32 };
        let grid = Grid { blocks: (outputs.div_ceil(32), 1), threads: 32, shared: 0 };
        module.launch("linear_sums", grid, Order::Ascending, &arguments);

        let mut expected = vec![0.; batch * outputs];
        plain::forward(&shape, &x, &w, &b, &mut expected);
        assert_close(&format!("{shape:?}"), &y, &expected, 1e-6);
        let mut expected = vec![0.; batch * inputs];
        plain::backward_input(&shape, &dy, &w, &mut expected);
        assert_close(&format!("{shape:?} dx"), &dx, &expected, 1e-6);
        let (mut expected, mut sums) = (vec![0.; outputs * inputs], vec![0.; outputs]);
        plain::backward_parameters(&shape, &x, &dy, &mut expected, &mut sums);
        assert_close(&format!("{shape:?} dw"), &dw, &expected, 1e-6);
        assert_close(&format!("{shape:?} db"), &db, &sums, 1e-6);
    }
}
