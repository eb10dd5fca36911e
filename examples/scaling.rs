//! How data-parallel SAM scales: measured times of sums over ranks, and the efficiency that a simple model predicts.
//!
//! ```text
//! mpirun -n 2 target/release/examples/scaling measure        (built with --features mpi)
//! cargo run --release --example scaling -- predict --svg scaling.svg
//! ```

#[path = "support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use wrn_sam::candle::{Device, Tensor};
use wrn_sam::charts::{COLORS, Chart, Series};
use wrn_sam::collective::{Collective, Precision, from_environment};

use support::{AnyError, say};

/// Measure sums over ranks, or predict how training scales.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Time sums of several sizes over the ranks that a launcher started
    Measure {
        /// Repetitions, of which the median is printed
        #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
    },
    /// Print the efficiency of 8 to 1024 GPUs for several networks between them
    Predict {
        /// Parameters of the model, in millions
        #[arg(long, default_value_t = 46.2)]
        parameters: f64,
        /// Milliseconds of one rank's step without messages; the default is assumed, not measured
        #[arg(long, default_value_t = 26.0)]
        step_ms: f64,
        /// Where to draw the curves
        #[arg(long)]
        svg: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    support::end(run(&Args::parse()))
}

fn run(args: &Args) -> Result<(), AnyError> {
    match &args.task {
        Task::Measure { repeat } => measure(&*from_environment()?, *repeat),
        Task::Predict { parameters, step_ms, svg } => {
            let step = Step { bytes: parameters * 4e6, seconds: step_ms / 1e3 };
            for line in table(&step) {
                say(line);
            }
            if let Some(path) = svg {
                std::fs::write(path, chart(&step)).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            Ok(())
        }
    }
}

/// The sizes of WRN-10-1, WRN-16-2, WRN-28-10 and WRN-34-10 among others, in elements.
const SIZES: [usize; 8] = [1, 1_000, 10_000, 78_000, 692_000, 6_550_000, 36_500_000, 46_200_000];

fn measure(ranks: &dyn Collective, repeat: u32) -> Result<(), AnyError> {
    let world = ranks.world();
    let mut points = Vec::new();
    for size in SIZES {
        let values = Tensor::zeros(size, wrn_sam::candle::DType::F32, &Device::Cpu)?;
        let mut times = Vec::new();
        for _ in 0..=repeat {
            ranks.barrier()?;
            let began = Instant::now();
            ranks.all_reduce(std::slice::from_ref(&values), Precision::Exact)?.wait()?;
            times.push(began.elapsed().as_secs_f64());
        }
        times.remove(0); // the first makes its buffers
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        // A rank sends and receives 2 (W - 1) / W times the vector.
        let bytes = 2.0 * (world - 1) as f64 / world as f64 * 4.0 * size as f64;
        points.push((bytes, median));
        if ranks.rank() == 0 {
            let rate = bytes / median / 1e9;
            say(format_args!("{world} ranks, {size:>9} f32: {:>9.3} ms, {rate:.2} GB/s", median * 1e3));
        }
    }
    if ranks.rank() == 0 && world > 1 {
        let ((_, least), (bytes, most)) = (points[0], points[points.len() - 1]);
        let (least, rate) = (least * 1e6, bytes / (most - least) / 1e9);
        say(format_args!("a sum takes {least:.0} us, and 1 s for each {rate:.2} GB that a rank sends"));
    }
    Ok(())
}

/// One rank's work in a step.
struct Step {
    /// Gradients to exchange.
    bytes: f64,
    /// Time without messages.
    seconds: f64,
}

/// What joins the GPUs.
struct Network {
    name: &'static str,
    /// Bytes a second within a node of eight, usual effective ones.
    within: f64,
    /// Bytes a second that a node sends to others.
    between: f64,
}

/// Seconds for a message of no length.
const LATENCY: f64 = 20e-6;
const NODE: f64 = 8.0;
const WORLDS: [usize; 8] = [8, 16, 32, 64, 128, 256, 512, 1024];
const NETWORKS: [Network; 5] = [
    Network { name: "NVLink 4, 400 GbE", within: 350e9, between: 45e9 },
    Network { name: "NVLink 4, 100 GbE", within: 350e9, between: 11e9 },
    Network { name: "PCIe 5, 100 GbE", within: 40e9, between: 11e9 },
    Network { name: "PCIe 4, 100 GbE", within: 20e9, between: 11e9 },
    Network { name: "PCIe 4, 25 GbE", within: 20e9, between: 2.8e9 },
];

impl Network {
    /// Seconds of one sum: within each node of eight, then between nodes.
    fn sum(&self, bytes: f64, world: usize) -> f64 {
        let nodes = world as f64 / NODE;
        let shares = |ranks: f64| 2.0 * (ranks - 1.0) / ranks;
        let messages = 2.0 * (world as f64).log2();
        shares(NODE) * bytes / self.within + shares(nodes) * bytes / self.between + messages * LATENCY
    }

    /// The share of its time that a GPU computes. Ascent for each micro-batch: one sum in a step. `overlapped`: gradients leave
    /// while the second backward pass, a third of the step, makes the others; the last of eight buckets cannot.
    fn efficiency(&self, step: &Step, world: usize, overlapped: bool) -> f64 {
        let sum = self.sum(step.bytes, world);
        let seen = if overlapped { (sum - step.seconds / 3.0).max(sum / 8.0) } else { sum };
        step.seconds / (step.seconds + seen)
    }
}

fn table(step: &Step) -> Vec<String> {
    let worlds: Vec<String> = WORLDS.iter().map(|world| format!(" {world} |")).collect();
    let mut lines = vec![
        format!("| efficiency in %, without / with overlap |{}", worlds.concat()),
        format!("|---|{}", "---|".repeat(WORLDS.len())),
    ];
    for network in &NETWORKS {
        let cell = |&world: &usize| {
            let percent = |overlapped| 100.0 * network.efficiency(step, world, overlapped);
            format!(" {:.0} / {:.0} |", percent(false), percent(true))
        };
        lines.push(format!("| {} |{}", network.name, WORLDS.iter().map(cell).collect::<String>()));
    }
    lines
}

fn chart(step: &Step) -> String {
    let title = "Predicted efficiency without overlap";
    let chart =
        Chart::new(title, "GPUs, as a power of two", "share of the time that is computed (%)").from_zero();
    let series = NETWORKS.iter().zip(COLORS).map(|(network, color)| {
        let point = |&world: &usize| ((world as f64).log2(), 100.0 * network.efficiency(step, world, false));
        Series::line(network.name, color, WORLDS.iter().map(point))
    });
    series.fold(chart, Chart::with).to_svg()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 46.2 million parameters in 26 ms, by hand.
    #[test]
    fn eight_gpus_on_pcie() {
        let step = Step { bytes: 184.8e6, seconds: 26e-3 };
        let [.., pcie, _, _] = &NETWORKS else { unreachable!() };
        let sum = 2.0 * 7.0 / 8.0 * 184.8e6 / 40e9 + 6.0 * 20e-6; // 8.2 ms
        assert!((pcie.efficiency(&step, 8, false) - 26e-3 / (26e-3 + sum)).abs() < 1e-12);
        assert!((pcie.efficiency(&step, 8, true) - 26e-3 / (26e-3 + sum / 8.0)).abs() < 1e-12);
    }
}
