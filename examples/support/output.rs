//! Lines on stdout and stderr that end no program: whoever reads them may be gone, and the disk behind them full.

use std::fmt::Display;
use std::io::Write;

/// Writes a line to stdout. What cannot be written is dropped.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Writes a line to stderr. What cannot be written is dropped, where `eprintln!` would panic.
pub fn warn(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
