//! The synthetic set: made quickly, and with classes that can be told apart.

use std::hint::black_box;
use std::time::Instant;

use wrn_sam_data::Cifar;

#[test]
fn a_whole_set_takes_less_than_two_seconds() {
    // The fastest of many small parts, so that other work on the machine does not count.
    let part = (0..50).map(|seed| {
        let start = Instant::now();
        black_box(Cifar::synthetic(seed, 500, 100));
        start.elapsed().as_secs_f64()
    });
    let seconds = part.fold(f64::INFINITY, f64::min) * 100.0;
    println!("{seconds:.2} s for 60,000 images");
    assert!(seconds < 2.0, "{seconds} s");
}

/// The mean of each channel, which a mirrored or shifted image shares.
fn mean_color(image: &[u8; 3072]) -> [f64; 3] {
    std::array::from_fn(|channel| {
        image[channel * 1024..][..1024].iter().map(|&byte| f64::from(byte)).sum::<f64>() / 1024.0
    })
}

#[test]
fn color_alone_tells_a_little_about_the_coarse_label() {
    let cifar = Cifar::synthetic(17, 4000, 2000);
    let mut means = [[0.0; 3]; 20];
    for (image, &label) in cifar.train.images().iter().zip(cifar.train.coarse_labels().unwrap()) {
        let color = mean_color(image);
        let gray = color.iter().sum::<f64>() / 3.0;
        for (mean, color) in means[usize::from(label)].iter_mut().zip(color) {
            *mean += (color - gray) / 200.0;
        }
    }
    let nearest = |image| {
        let color = mean_color(image);
        let gray = color.iter().sum::<f64>() / 3.0;
        let distance = |mean: &[f64; 3]| -> f64 {
            mean.iter().zip(color).map(|(mean, color)| (mean - color + gray).powi(2)).sum()
        };
        (0..20).min_by(|&a, &b| distance(&means[a]).total_cmp(&distance(&means[b])))
    };
    let images = cifar.test.images().iter().zip(cifar.test.coarse_labels().unwrap());
    let right = images.filter(|(image, label)| nearest(*image) == Some(usize::from(**label))).count();
    let accuracy = right as f64 / 2000.0;
    // 0.05 by chance; there are two widths to each hue, so 0.5 at best.
    assert!((0.15..0.45).contains(&accuracy), "{accuracy}");
}
