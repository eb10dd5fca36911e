//! Ranks that are processes: this program starts itself under `mpirun`, with 2 and 4 ranks on this machine.
//!
//! `cargo test -p wrn-sam-collective --features mpi --test mpi`. Without `mpirun` it says so and does nothing.

use std::process::{Command, ExitCode, Output};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use wrn_sam_collective::{Collective, Error, Precision, Ranks, from_environment};

/// The variable that tells a rank which scenario it is in.
const SCENARIO: &str = "WRN_SAM_MPI_SCENARIO";

fn main() -> ExitCode {
    if let Ok(scenario) = std::env::var(SCENARIO) {
        return rank(&scenario);
    }
    if Command::new("mpirun").arg("--version").output().is_err() {
        println!("skipped: there is no mpirun");
        return ExitCode::SUCCESS;
    }
    sums_have_the_bits_of_one_process();
    failures_reach_every_rank();
    a_killed_rank_ends_the_others();
    ExitCode::SUCCESS
}

/// What the ranks print, in any order, and how they ended.
fn mpirun(world: usize, scenario: &str) -> Output {
    let output = Command::new("mpirun")
        .args(["--allow-run-as-root", "--oversubscribe", "-n", &world.to_string()])
        .arg(std::env::current_exe().expect("a path of this program"))
        .env(SCENARIO, scenario)
        .output()
        .expect("mpirun runs");
    println!("{scenario} on {world} ranks: {}", output.status);
    output
}

fn lines(output: &Output) -> Vec<String> {
    let mut lines: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect();
    lines.sort();
    lines
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn sums_have_the_bits_of_one_process() {
    let expected = format!("{:016x}", hash(&along_the_tree(0, PARTS)));
    for world in [1, 2, 4] {
        let output = mpirun(world, "sum");
        succeeded(&output);
        assert_eq!(lines(&output), vec![expected.clone(); world]);
    }
}

fn failures_reach_every_rank() {
    let output = mpirun(4, "fail");
    let expected = "rank 2 has stopped: bad batch";
    assert_eq!(lines(&output), vec![expected; 4], "{}", String::from_utf8_lossy(&output.stderr));

    let output = mpirun(2, "mismatch");
    let found = lines(&output);
    assert_eq!(found.len(), 2);
    for line in found {
        assert!(
            line.contains("rank 0 is at call 0, a sum of 5 f32, rank 1 at call 0, a sum of 6 f32"),
            "{line}"
        );
    }

    let output = mpirun(2, "silent");
    assert!(!output.status.success());
    assert_eq!(
        lines(&output),
        ["rank 1 has not answered for 0.5 s: it hangs, its machine is gone, or the deadline is too short"]
    );

    let output = mpirun(3, "start");
    assert!(lines(&output).iter().all(|line| line.starts_with("3 ranks: start a power of two")));
}

/// `kill -9` of a rank: mpirun ends the others and says which it was.
fn a_killed_rank_ends_the_others() {
    let began = Instant::now();
    let output = mpirun(4, "kill");
    assert!(!output.status.success());
    // The ranks would otherwise wait for their deadline, 10 minutes.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("process rank 3") && said.contains("signal 9"), "{said}");
}

const PARTS: usize = 8;
const LEN: usize = 100_003;

/// Values of many sizes, so that the order of additions shows.
fn part(part: usize) -> Vec<f32> {
    let value =
        |i: usize| ((i * 7919 + part * 104_729) % 65_537) as f32 * 2f32.powi(((i + part) % 19) as i32 - 9);
    (0..LEN).map(value).collect()
}

fn along_the_tree(first: usize, count: usize) -> Vec<f32> {
    if count == 1 {
        return part(first);
    }
    let half = count / 2;
    let right = along_the_tree(first + half, half);
    along_the_tree(first, half).into_iter().zip(right).map(|(left, right)| left + right).collect()
}

/// FNV-1a of the bits.
fn hash(values: &[f32]) -> u64 {
    let bytes = values.iter().flat_map(|value| value.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn rank(scenario: &str) -> ExitCode {
    match in_scenario(scenario) {
        Ok(()) => ExitCode::SUCCESS,
        // Only where it is about that: mpirun ends the others, who may have something to say, when a rank has failed.
        Err(error) => {
            println!("{error}");
            ExitCode::from(u8::from(matches!(error, Error::Silent { .. })))
        }
    }
}

fn in_scenario(scenario: &str) -> Result<(), Error> {
    let sum = |ranks: &dyn Collective, values: Vec<f32>| -> Result<Vec<f32>, Error> {
        let values = Tensor::new(values, &Device::Cpu)?;
        Ok(ranks.all_reduce(&[values], Precision::Exact)?.wait()?[0].to_vec1()?)
    };
    match scenario {
        "sum" => {
            let ranks = from_environment()?;
            let count = PARTS / ranks.world();
            let sum = sum(&*ranks, along_the_tree(ranks.rank() * count, count))?;
            let told = ranks.broadcast(vec![ranks.rank() as u8; 3], 0)?;
            assert_eq!(told, [0; 3]);
            println!("{:016x}", hash(&sum));
            Ok(())
        }
        "fail" => {
            let ranks = Ranks::mpi()?;
            if ranks.rank() == 2 {
                ranks.fail("bad batch");
            }
            ranks.barrier()
        }
        "mismatch" => {
            let ranks = Ranks::mpi()?;
            sum(&ranks, vec![1.0; 5 + ranks.rank()]).map(drop)
        }
        "silent" => {
            let ranks = Ranks::mpi()?.with_deadline(Duration::from_millis(500));
            if ranks.rank() == 1 {
                std::thread::sleep(Duration::from_secs(20));
            }
            ranks.barrier()
        }
        "kill" => {
            let ranks = Ranks::mpi()?;
            ranks.barrier()?;
            if ranks.rank() == 3 {
                let pid = std::process::id().to_string();
                Command::new("kill").args(["-9", &pid]).status().expect("kill runs");
            }
            ranks.barrier()
        }
        _ => Ranks::mpi().map(drop),
    }
}
