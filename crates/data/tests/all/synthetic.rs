//! The synthetic set: its classes can be told apart.

use wrn_sam_data::Dataset;

/// The mean of each channel, which a mirrored or shifted image shares.
fn mean_color(image: &[u8]) -> [f64; 3] {
    std::array::from_fn(|channel| {
        image[channel * 1024..][..1024].iter().map(|&byte| f64::from(byte)).sum::<f64>() / 1024.0
    })
}

#[test]
fn color_alone_tells_a_little_about_the_coarse_label() {
    let cifar = Dataset::synthetic(17, 4000, 2000);
    let mut means = [[0.0; 3]; 20];
    for (image, &label) in cifar.train.images().zip(cifar.train.coarse_labels().unwrap()) {
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
    let images = cifar.test.images().zip(cifar.test.coarse_labels().unwrap());
    let right = images.filter(|(image, label)| nearest(image) == Some(usize::from(**label))).count();
    let accuracy = right as f64 / 2000.0;
    // 0.05 by chance; there are two widths to each hue, so 0.5 at best.
    assert!((0.15..0.45).contains(&accuracy), "{accuracy}");
}
