//! What signals ask of a run.
//!
//! | signal | what the run does |
//! |---|---|
//! | SIGHUP, SIGINT (Ctrl-C), SIGTERM | finishes its step, writes a checkpoint and ends |
//! | SIGINT again, a second or more after the first | ends at once |
//! | SIGUSR1 | writes a checkpoint and goes on |
//!
//! Only SIGINT can end a run at once: a terminal that closes sends SIGHUP twice, and a batch system may repeat SIGTERM.
//! The second between two SIGINTs keeps one Ctrl-C that arrives twice, from the terminal and from a program that passes it
//! on, from counting as two.
//!
//! A signal that is ignored when the program starts stays ignored, for `nohup` and the `&` of a script protect a program
//! in this way. Linux tells which signals those are; other systems tell it only to `unsafe` code.

use std::io;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use wrn_sam::train::Control;

use crate::support::warn;

/// A SIGINT sooner than this after the first one is the same Ctrl-C.
const SAME_INTERRUPT: Duration = Duration::from_secs(1);

/// From now on, SIGUSR1 asks for a checkpoint.
///
/// # Errors
/// The system gives no handler or no thread.
pub fn checkpoint_on_usr1(control: &Control) -> io::Result<()> {
    let control = control.clone();
    on(&[SIGUSR1], move |_| control.request_checkpoint())
}

/// From now on, SIGHUP, SIGINT and SIGTERM ask the run to stop.
///
/// # Errors
/// The system gives no handler or no thread.
pub fn stop_on_the_others(control: &Control) -> io::Result<()> {
    let control = control.clone();
    let (mut stopping, mut interrupted) = (false, None::<Instant>);
    on(&[SIGHUP, SIGINT, SIGTERM], move |signal| {
        control.stop();
        if !std::mem::replace(&mut stopping, true) {
            warn("\nstopping after this step (Ctrl-C again, a second later: at once)");
        }
        if signal == SIGINT && interrupted.get_or_insert_with(Instant::now).elapsed() >= SAME_INTERRUPT {
            warn("error: ended at once; what was trained after the last checkpoint is lost");
            std::process::exit(1);
        }
    })
}

/// Calls `act`, on a thread of its own, for each of `signals` that comes and was not ignored until now.
fn on(signals: &[i32], mut act: impl FnMut(i32) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new(signals.iter().filter(|&&signal| !is_ignored(signal)))?;
    let thread = std::thread::Builder::new().name("signals".into());
    thread.spawn(move || signals.forever().for_each(&mut act)).map(drop)
}

/// Whether the process ignores `signal`. False where the system does not tell.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
