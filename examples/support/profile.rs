//! A profile of the kernels: the time of each operation and shape, beside what this machine would need at least.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use wrn_sam::kernels::{Cpu, machine};

/// One line of the profile: all calls of an operation with a shape.
#[derive(Clone, Default)]
struct Line {
    calls: u64,
    time: Duration,
    flops: u64,
    computed: u64,
    bytes: u64,
}

/// Times the spans of `wrn-sam-kernels`; clones share what was collected.
#[derive(Clone, Default)]
pub struct Profile(Arc<Shared>);

#[derive(Default)]
struct Shared {
    next: AtomicU64,
    /// Kernels come one after another from one thread; a lock disturbs none of them.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<u64, Span>,
    entered: usize,
    lines: BTreeMap<(String, String), Line>,
}

#[derive(Clone, Default)]
struct Span {
    operation: String,
    shape: String,
    line: Line,
    since: Option<Instant>,
}

impl Visit for Span {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "flops" => self.line.flops = value,
            "computed" => self.line.computed = value,
            "bytes" => self.line.bytes = value,
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "operation" {
            self.operation = value.to_string();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "shape" {
            self.shape = format!("{value:?}");
        }
    }
}

impl Subscriber for Profile {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.name() == "kernel"
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut span = Span::default();
        attributes.record(&mut span);
        let id = self.0.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.lock(|state| state.open.insert(id, span));
        Id::from_u64(id)
    }

    fn enter(&self, id: &Id) {
        self.lock(|state| {
            state.entered += 1;
            // A kernel within a kernel is part of the outer one.
            if state.entered == 1
                && let Some(span) = state.open.get_mut(&id.into_u64())
            {
                span.since = Some(Instant::now());
            }
        });
    }

    fn exit(&self, id: &Id) {
        let now = Instant::now();
        self.lock(|state| {
            state.entered -= 1;
            let Some(span) = state.open.remove(&id.into_u64()) else { return };
            let Some(since) = span.since else { return };
            let line = state.lines.entry((span.operation, span.shape)).or_default();
            line.calls += 1;
            line.time += now - since;
            line.flops += span.line.flops;
            line.computed += span.line.computed;
            line.bytes += span.line.bytes;
        });
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}
}

impl Profile {
    fn lock<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.state.lock().expect("no kernel panics within the lock"))
    }

    /// Forgets what was collected.
    pub fn clear(&self) {
        self.lock(|state| state.lines.clear());
    }

    /// A Markdown table of one step, the slowest first, of `steps` that took `total` together.
    ///
    /// An operation's floor is the larger of its computation at the measured multiply-add peak and its traffic at the
    /// measured copy rate; what stays in the caches may pass the second.
    pub fn table(&self, ctx: &Cpu, steps: u32, total: Duration) -> String {
        let (peak, copy) = (machine::multiply_add_rate(ctx), machine::copy_rate(ctx));
        let mut text = format!(
            "{} threads, {:?}: multiply-adds {:.0} GFLOP/s, copying {:.1} GB/s\n\n\
             | operation | shape | calls | ms | of the step | GFLOP/s | GB/s | floor, ms | time / floor |\n\
             |---|---|---|---|---|---|---|---|---|\n",
            ctx.threads(),
            ctx.instruction_set(),
            peak / 1e9,
            copy / 1e9
        );
        let mut lines: Vec<_> = self.lock(|state| state.lines.clone()).into_iter().collect();
        lines.sort_by_key(|(_, line)| std::cmp::Reverse(line.time));
        let step = total.as_secs_f64() / f64::from(steps);
        let (mut sum, mut floors) = (0.0, 0.0);
        for ((operation, shape), line) in lines {
            let seconds = line.time.as_secs_f64() / f64::from(steps);
            let per_second = |amount: u64| amount as f64 / line.time.as_secs_f64() / 1e9;
            let least = (line.computed as f64 / peak).max(line.bytes as f64 / copy) / f64::from(steps);
            (sum, floors) = (sum + seconds, floors + least);
            let rate = if line.flops == 0 { String::new() } else { format!("{:.0}", per_second(line.flops)) };
            let _ = writeln!(
                text,
                "| {operation} | {shape} | {} | {:.2} | {:.1} % | {rate} | {:.1} | {:.2} | {:.2} |",
                line.calls / u64::from(steps),
                1e3 * seconds,
                100.0 * seconds / step,
                per_second(line.bytes),
                1e3 * least,
                seconds / least
            );
        }
        let rest = step - sum;
        let _ = writeln!(
            text,
            "| outside of kernels | | | {:.2} | {:.1} % | | | | |",
            1e3 * rest,
            100.0 * rest / step
        );
        let _ = writeln!(
            text,
            "| **step** | | | {:.2} | | | | {:.2} | {:.2} |",
            1e3 * step,
            1e3 * floors,
            step / floors
        );
        text
    }
}
