//! With the feature `cuda`, compiles every `src/**/*.cu` to PTX, under the same relative path below `OUT_DIR`:
//!
//! ```text
//! src/pool/kernels.cu   ->   include_str!(concat!(env!("OUT_DIR"), "/pool/kernels.ptx"))
//! ```
//!
//! PTX is for a virtual architecture; the driver compiles it for the GPU it finds, as new as that one or newer.
//! Without the feature nothing is done.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::SystemTime;

/// What runs on every GPU that has bfloat16: Ampere and later.
const DEFAULT_COMPUTE_CAP: &str = "80";

/// Where a CUDA toolkit is looked for, in this order.
const TOOLKITS: [&str; 4] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];

fn main() -> ExitCode {
    let Err(error) = build() else { return ExitCode::SUCCESS };
    for line in error.to_string().lines() {
        println!("cargo::error={line}");
    }
    ExitCode::FAILURE
}

fn build() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    println!("cargo::rerun-if-changed=src");
    for variable in TOOLKITS.into_iter().chain(["NVCC", "CUDA_COMPUTE_CAP"]) {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let nvcc = nvcc();
    let architecture = format!("--gpu-architecture=compute_{}", compute_cap()?);

    let mut sources = Vec::new();
    find(Path::new("src"), &mut sources)?;
    let newest = newest(sources.iter().map(PathBuf::as_path).chain([Path::new("build.rs")]))?;
    // What the PTX there was made by; with other flags it is made anew.
    let flags = format!("{} {architecture}", nvcc.display());
    let stamp = out.join("ptx-flags.txt");
    let same_flags = fs::read_to_string(&stamp).is_ok_and(|found| found == flags);

    for source in sources.iter().filter(|path| path.extension().is_some_and(|extension| extension == "cu")) {
        let ptx = out.join(source.strip_prefix("src")?).with_extension("ptx");
        if same_flags && newer(&ptx, newest) {
            continue;
        }
        fs::create_dir_all(ptx.parent().unwrap_or(&out))?;
        compile(&nvcc, &architecture, source, &ptx)?;
    }
    fs::write(stamp, flags)?;
    Ok(())
}

/// Compiles one file.
fn compile(nvcc: &Path, architecture: &str, source: &Path, ptx: &Path) -> Result<(), String> {
    let mut command = Command::new(nvcc);
    command.args(["--ptx", "-O3", "--std=c++17", "-I", "src", architecture, "-o"]).arg(ptx).arg(source);
    let output = command.output().map_err(|error| {
        format!(
            "the feature `cuda` needs nvcc of a CUDA toolkit, 12 or later, and {} does not run: {error}. Install the \
             toolkit, and say where it is with CUDA_HOME (or where nvcc is with NVCC)",
            nvcc.display()
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let messages = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} does not compile ({command:?}):\n{messages}", source.display()))
}

/// nvcc by name, by its toolkit, or by `PATH`.
fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let toolkits = TOOLKITS.into_iter().filter_map(env::var_os).map(PathBuf::from);
    let known = toolkits.chain(["/usr/local/cuda".into(), "/opt/cuda".into()]);
    let mut candidates = known.map(|home| home.join("bin").join("nvcc"));
    candidates.find(|nvcc| nvcc.is_file()).unwrap_or_else(|| "nvcc".into())
}

/// The virtual architecture: that of `CUDA_COMPUTE_CAP` ("90" or "9.0"), else [`DEFAULT_COMPUTE_CAP`].
fn compute_cap() -> Result<String, String> {
    let Ok(text) = env::var("CUDA_COMPUTE_CAP") else { return Ok(DEFAULT_COMPUTE_CAP.into()) };
    let digits: String = text.trim().chars().filter(|&c| c != '.').collect();
    match digits.trim_end_matches(['a', 'f']).parse::<u32>() {
        Ok(80..) => Ok(digits),
        _ => {
            Err(format!("CUDA_COMPUTE_CAP is {text:?}; expected 80 or more, such as 90 (bfloat16 needs 80)"))
        }
    }
}

/// Every CUDA source and header below a folder, in a fixed order.
fn find(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for path in entries.into_iter().map(|entry| entry.path()) {
        if path.is_dir() {
            find(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh") {
            found.push(path);
        }
    }
    Ok(())
}

fn newest<'a>(paths: impl Iterator<Item = &'a Path>) -> std::io::Result<SystemTime> {
    let times = paths.map(|path| path.metadata()?.modified()).collect::<std::io::Result<Vec<_>>>()?;
    Ok(times.into_iter().max().unwrap_or(SystemTime::UNIX_EPOCH))
}

fn newer(path: &Path, than: SystemTime) -> bool {
    path.metadata().and_then(|found| found.modified()).is_ok_and(|modified| modified > than)
}
