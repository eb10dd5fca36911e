//! Ranks that are threads: sums have the bits of one process, and ranks that fail or do not match are named.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use wrn_sam_collective::{Collective, Error, Precision, Ranks, Result, Solo};

/// What each of `world` ranks makes of its end, in order.
fn on_ranks<T: Send + 'static>(world: usize, work: impl Fn(Ranks) -> T + Send + Sync + 'static) -> Vec<T> {
    let work = Arc::new(work);
    let ranks = Ranks::threads(world).unwrap().into_iter().map(|ranks| {
        let work = work.clone();
        thread::spawn(move || work(ranks))
    });
    let ranks: Vec<_> = ranks.collect();
    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
}

/// Part `part` of a sum, with values of many sizes so that the order of additions shows.
fn part(part: usize, len: usize, dtype: DType) -> Tensor {
    let value = |i: usize| {
        let x = ((i * 2_654_435_761 + part * 40_503) % 1_000_003) as f64 / 1_000_003.0 - 0.5;
        x * 10f64.powi(((i + part) % 7) as i32)
    };
    let values: Vec<f64> = (0..len).map(value).collect();
    Tensor::from_vec(values, len, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// The sum of parts `first..first + count` along the tree, `count` a power of two.
fn along_the_tree(first: usize, count: usize, len: usize, dtype: DType) -> Tensor {
    if count == 1 {
        return part(first, len, dtype);
    }
    let half = count / 2;
    let (left, right) =
        (along_the_tree(first, half, len, dtype), along_the_tree(first + half, half, len, dtype));
    (left + right).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u64> {
    let values = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    values.into_iter().map(f64::to_bits).collect()
}

#[test]
fn sums_have_the_bits_of_one_process() {
    const PARTS: usize = 8;
    for dtype in [DType::F32, DType::F64] {
        for len in [0, 1, 3, 64, 1001] {
            let expected = bits(&along_the_tree(0, PARTS, len, dtype));
            for world in [1, 2, 4, 8] {
                let sums = on_ranks(world, move |ranks| {
                    let count = PARTS / ranks.world();
                    let own = along_the_tree(ranks.rank() * count, count, len, dtype);
                    // In two tensors, to see that they come back as they went.
                    let (left, right) = (own.narrow(0, 0, len / 3)?, own.narrow(0, len / 3, len - len / 3)?);
                    Tensor::cat(&ranks.all_reduce(&[left, right], Precision::Exact)?.wait()?, 0)
                        .map_err(Error::from)
                });
                for sum in sums {
                    assert_eq!(bits(&sum.unwrap()), expected, "{world} ranks, {len} of {dtype:?}");
                }
            }
        }
    }
    // The values do show the order: another one has other bits.
    let backwards = (1..PARTS)
        .rev()
        .fold(part(0, 1001, DType::F32), |sum, index| (sum + part(index, 1001, DType::F32)).unwrap());
    assert_ne!(bits(&backwards), bits(&along_the_tree(0, PARTS, 1001, DType::F32)));
}

#[test]
fn sums_on_their_way_do_not_wait_for_each_other() {
    let sums = on_ranks(2, |ranks| {
        let begun: Vec<_> = (0..5)
            .map(|i| ranks.all_reduce(&[part(ranks.rank() + i, 100, DType::F32)], Precision::Exact))
            .collect::<Result<_>>()?;
        begun.into_iter().map(|sum| Ok(bits(&sum.wait()?[0]))).collect::<Result<Vec<_>>>()
    });
    for sums in sums {
        for (i, sum) in sums.unwrap().into_iter().enumerate() {
            assert_eq!(sum, bits(&along_the_tree(i, 2, 100, DType::F32)));
        }
    }
}

#[test]
fn sums_in_bf16_are_near_and_the_same_on_every_rank() {
    let sums = on_ranks(4, |ranks| {
        let own = part(ranks.rank(), 1001, DType::F32);
        Ok(ranks.all_reduce(&[own], Precision::Bf16)?.wait()?.swap_remove(0))
    });
    let sums: Vec<Tensor> = sums.into_iter().collect::<Result<_>>().unwrap();
    assert!(sums.iter().all(|sum| bits(sum) == bits(&sums[0])));
    let exact: Vec<f32> = along_the_tree(0, 4, 1001, DType::F32).to_vec1().unwrap();
    let parts: Vec<Vec<f32>> = (0..4).map(|i| part(i, 1001, DType::F32).to_vec1().unwrap()).collect();
    let mut rounded = 0;
    for (i, sum) in sums[0].to_vec1::<f32>().unwrap().into_iter().enumerate() {
        let size: f32 = parts.iter().map(|part| part[i].abs()).sum();
        // Three roundings, each by half of 2^-7 of a number that is no larger than `size`.
        assert!((sum - exact[i]).abs() <= size * 3.0 / 256.0, "{sum} for {}", exact[i]);
        rounded += usize::from(sum != exact[i]);
    }
    assert!(rounded > 900, "only {rounded} values show that they were rounded");
}

#[test]
fn gatherings_and_broadcasts_know_every_rank() {
    for world in [1, 2, 8] {
        let all = on_ranks(world, |ranks| {
            ranks.barrier()?;
            let root = ranks.world() - 1;
            let told = ranks.broadcast(format!("from {}", ranks.rank()).into_bytes(), root)?;
            Ok((ranks.all_gather(vec![ranks.rank() as u8; 3 * ranks.rank()])?, told))
        });
        for all in all {
            let (gathered, told): (Vec<Vec<u8>>, Vec<u8>) = all.map_err(|error: Error| error).unwrap();
            assert_eq!(gathered, (0..world).map(|rank| vec![rank as u8; 3 * rank]).collect::<Vec<_>>());
            assert_eq!(told, format!("from {}", world - 1).into_bytes());
        }
    }
}

#[test]
fn one_rank_by_itself_gets_what_it_gives() {
    let own = part(3, 10, DType::F64);
    let sum = Solo.all_reduce(std::slice::from_ref(&own), Precision::Exact).unwrap().wait().unwrap();
    assert_eq!(bits(&sum[0]), bits(&own));
    assert_eq!(Solo.broadcast(vec![5], 0).unwrap(), [5]);
    assert_eq!((Solo.rank(), Solo.world()), (0, 1));
}

/// Whichever rank fails, and whatever the others do then, all of them hear of it in that call.
#[test]
fn a_failure_reaches_every_rank() {
    for world in [2, 4, 8] {
        for failing in 0..world {
            let errors = on_ranks(world, move |ranks| {
                ranks.barrier().unwrap();
                if ranks.rank() == failing {
                    ranks.fail("the batch has NaN");
                    ranks.fail("said once only");
                } else {
                    let sum = ranks.all_reduce(&[part(0, 9, DType::F32)], Precision::Exact).unwrap().wait();
                    assert!(matches!(sum, Err(Error::Failed { .. })), "{sum:?}");
                    // What this rank makes of it does not matter any more.
                    ranks.fail("the sum failed");
                }
                ranks.barrier().unwrap_err().to_string()
            });
            for error in errors {
                assert_eq!(error, format!("rank {failing} has stopped: the batch has NaN"));
            }
        }
    }
}

#[test]
fn of_several_failures_all_ranks_report_the_lowest() {
    let errors = on_ranks(4, |ranks| {
        if ranks.rank() % 2 == 1 {
            ranks.fail("bad batch");
        }
        ranks.barrier().unwrap_err().to_string()
    });
    assert_eq!(errors, ["rank 1 has stopped: bad batch"; 4]);
}

#[test]
fn ranks_in_different_calls_are_told_apart() {
    let errors = on_ranks(4, |ranks| {
        ranks.barrier().unwrap();
        let len = if ranks.rank() == 2 { 8 } else { 9 };
        ranks
            .all_reduce(&[part(0, len, DType::F32)], Precision::Exact)
            .unwrap()
            .wait()
            .unwrap_err()
            .to_string()
    });
    for error in &errors[2..] {
        let expected = "ranks 2 and 3 do not match: rank 2 is at call 1, a sum of 8 f32, rank 3 at call 1, a sum of 9 f32";
        assert!(error.ends_with(expected), "{error}");
    }
    for error in &errors[..2] {
        assert!(error.starts_with("rank 2 has stopped: ranks 2 and 3 do not match"), "{error}");
    }

    let errors = on_ranks(2, |ranks| match ranks.rank() {
        0 => ranks.barrier().unwrap_err().to_string(),
        _ => ranks
            .all_reduce(&[part(0, 4, DType::F64)], Precision::Exact)
            .unwrap()
            .wait()
            .unwrap_err()
            .to_string(),
    });
    for error in errors {
        assert!(
            error.contains("rank 0 is at call 0, a gathering, rank 1 at call 0, a sum of 4 f64"),
            "{error}"
        );
    }
}

#[test]
fn a_rank_that_is_gone_or_silent_is_named() {
    let errors = on_ranks(2, |ranks| match ranks.rank() {
        0 => ranks.barrier().unwrap_err().to_string(),
        _ => String::new(), // dropped
    });
    assert_eq!(errors[0], "rank 1 is gone");

    let errors = on_ranks(2, |ranks| {
        let ranks = ranks.with_deadline(Duration::from_millis(200));
        let began = Instant::now();
        if ranks.rank() == 0 {
            let error = ranks.barrier().unwrap_err();
            assert!(matches!(error, Error::Silent { rank: 1, .. }), "{error}");
            assert!(began.elapsed() >= Duration::from_millis(200));
        } else {
            thread::sleep(Duration::from_millis(900));
        }
    });
    assert_eq!(errors.len(), 2);
}

#[test]
fn a_number_of_ranks_without_a_tree_is_refused() {
    for world in [0, 3, 6] {
        assert!(matches!(Ranks::threads(world), Err(Error::WorldSize { .. })), "{world}");
    }
}

#[test]
fn what_was_sent_is_counted() {
    let traffic = on_ranks(2, |ranks| {
        ranks.all_reduce(&[part(0, 1000, DType::F32)], Precision::Exact)?.wait()?;
        ranks.barrier()?;
        ranks.traffic()
    });
    for traffic in traffic {
        let traffic = traffic.unwrap();
        assert_eq!((traffic.sums, traffic.gatherings), (1, 1));
        // Two halves of 500 and their header; the barrier's header, and rank, length and nothing.
        assert_eq!(traffic.bytes_sent, 2 * 500 * 4 + 256 + 256 + 16);
        assert!(traffic.seconds > 0.0);
    }
}
