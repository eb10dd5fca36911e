//! scratch
use std::time::Instant;
use wrn_sam_data::*;
fn cpu() -> f64 { // of the whole process
    let mut t = 0.0;
    for d in std::fs::read_dir("/proc/self/task").unwrap() {
        let f = std::fs::read_to_string(d.unwrap().path().join("schedstat")).unwrap_or_default();
        t += f.split(' ').next().unwrap_or("0").parse::<f64>().unwrap_or(0.0);
    }
    t / 1e9
}
fn main() {
    let t = Instant::now();
    let c = Cifar100::synthetic(17, 50_000, 10_000);
    println!("synthetic {:.3}", t.elapsed().as_secs_f64());
    let t = Instant::now();
    let s = Statistics::of(&c.train).unwrap();
    println!("statistics {:.3} {s:?}", t.elapsed().as_secs_f64());
    let t = Instant::now();
    let real = Cifar100::from_dir("/work/data").unwrap();
    println!("from_dir {:.3}", t.elapsed().as_secs_f64());
    println!("{:?}", Statistics::of(&real.train));
    let t = Instant::now();
    let _ = Cifar100::from_archive("/work/data/cifar-100-binary.tar.gz").unwrap();
    println!("from_archive {:.3}", t.elapsed().as_secs_f64());
    for (name, aug) in [("reference", Augmentation::reference(s)), ("none", Augmentation::none(s))] {
        for threads in [0, 1, 2] {
            let l = Loader::new(&c.train, aug.clone(), LoaderConfig { threads, ..Default::default() }).unwrap();
            let mut best = f64::INFINITY;
            for e in 0..8 {
                let t = Instant::now();
                for b in l.epoch(e) { std::hint::black_box(b.unwrap()); }
                best = best.min(t.elapsed().as_secs_f64());
            }
            if threads == 0 { let t = cpu(); for e in 0..4 { for b in l.epoch(e) { std::hint::black_box(b.unwrap()); } } println!("inline per cpu second {:.0}", 200_000.0 / (cpu() - t)); }
            println!("{name} {threads} threads: {:.0} images/s", 50_000.0 / best);
        }
        let mut out = [0f32; 3072];
        let mut rng = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(1);
        let t = cpu();
        for i in 0..50_000 { let d = aug.sample(&mut rng); aug.apply(c.train.image(i), &d, &mut out); std::hint::black_box(&out); }
        println!("{name} apply alone one thread {:.0}/s of cpu", 50_000.0 / (cpu() - t));
        let t = cpu(); for _ in 0..50_000 { std::hint::black_box(aug.sample(&mut rng)); } println!("sample {:.0}/s", 50_000.0 / (cpu() - t));
    }
    if let Some(dir) = std::env::args().nth(1) {
        std::fs::create_dir_all(&dir).unwrap();
        for (n, s) in [("train.bin", &c.train), ("test.bin", &c.test)] {
            let mut v = Vec::new();
            for i in 0..s.len() { v.push(s.coarse_label(i)); v.push(s.label(i)); v.extend(s.image(i)); }
            std::fs::write(format!("{dir}/{n}"), v).unwrap();
        }
    }
}
