//! The fork-join pool behind [`Cpu::run`]: sections from one thread and from several, nested, idle before, and panicking.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wrn_sam_kernels::Cpu;

/// Longer than a worker watches before it parks.
const IDLE: Duration = Duration::from_millis(5);

fn check(cpu: &Cpu, tasks: usize) {
    let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    cpu.run(tasks, |task| {
        counts[task].fetch_add(1, Ordering::Relaxed);
    });
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
}

#[test]
fn every_task_runs_once() {
    for count in 1..5 {
        let cpu = Cpu::new(count);
        for tasks in (0..50).chain([1000]) {
            check(&cpu, tasks);
        }
    }
}

#[test]
fn parked_workers_do_not_hold_a_section_up() {
    let cpu = Cpu::new(3);
    for _ in 0..3 {
        std::thread::sleep(IDLE);
        check(&cpu, 100);
    }
}

#[test]
fn sections_from_several_threads_and_nested_ones_complete() {
    let cpu = Cpu::new(2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|tasks| check(&cpu, tasks)));
        }
    });
    let total = AtomicUsize::new(0);
    cpu.run(8, |_| {
        cpu.run(8, |_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(total.into_inner(), 64);
}

#[test]
fn a_panic_reaches_the_caller_and_leaves_the_pool_usable() {
    let cpu = Cpu::new(2);
    for bad in [0, 50, 99] {
        let run = || cpu.run(100, |task| assert_ne!(task, bad, "task {task}"));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        check(&cpu, 100);
    }
}
