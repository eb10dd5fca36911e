//! The folder of a run that was given none.

use std::path::PathBuf;

/// `result/YYYYmmdd-HHMMSS`, the time in UTC, or the same with `-2`, `-3`, … : the first that does not exist.
pub fn unused() -> PathBuf {
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let named = |name: String| PathBuf::from("result").join(name);
    // Two runs may begin in the same second.
    let others = (2_u64..).map(|n| named(format!("{stamp}-{n}")));
    std::iter::once(named(stamp.clone()))
        .chain(others)
        .find(|path| !path.exists())
        .expect("endless candidates")
}
