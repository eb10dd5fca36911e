//! CUDA kernels on the host: the very source that nvcc compiles, compiled as C++ under the header of this folder and run
//! serially, so that tests check its arithmetic, bounds and barriers on a machine without a GPU.
//!
//! ```ignore
//! let Some(module) = on_host::compile("pool", &["pool_forward"]) else { return }; // says why
//! for order in Order::BOTH {
//!     let (x, mut y) = (Guarded::new(&x), Guarded::new(&[0f32; 7]));
//!     module.launch("pool_forward", Grid { blocks: (1, 1), threads: 64, shared: 0 }, order, &Arguments {
//!         x: x.device(), y: y.device(), len: 7,
//!     });
//!     assert_eq!(y[..], expected);
//! }
//! ```

pub(crate) mod images;

use std::ffi::{CString, c_int, c_uint, c_void};
use std::fmt::Write;
use std::ops::Deref;
use std::path::Path;
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// In what order blocks, and the threads of one between two barriers, run. A result that depends on it is a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Ascending,
    Descending,
}

impl Order {
    pub(crate) const BOTH: [Self; 2] = [Self::Ascending, Self::Descending];
}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) blocks: (usize, usize),
    pub(crate) threads: usize,
    pub(crate) shared: usize,
}

/// The kernels of one operation.
pub(crate) struct Module {
    library: NonNull<c_void>,
}

// SAFETY: the library is code and thread-local data; looking functions up is safe from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// Compiles `src/{operation}/cuda.cu` (for this folder's own, `tests/…`) for `kernels`. `None`, with the reason printed, where there is no C++ compiler.
///
/// # Panics
/// If the source does not compile.
pub(crate) fn compile(operation: &str, kernels: &[&str]) -> Option<Module> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let compilers = std::env::var("CXX").into_iter().chain(["c++", "g++", "clang++"].map(String::from));
    let works =
        |name: &String| Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success());
    let Some(compiler) = compilers.into_iter().find(works) else {
        eprintln!("skipped: no C++ compiler (CXX, c++, g++, clang++) to run CUDA kernels on the host");
        return None;
    };
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = ["src", "tests"].map(|place| crate_folder.join(place).join(operation).join("cuda.cu"));
    let kernel_file = places.iter().find(|path| path.is_file()).expect("the operation has a cuda.cu");
    let mut source = format!("#include \"cuda_on_host.h\"\n#include \"{}\"\n", kernel_file.display());
    for kernel in kernels {
        writeln!(
            source,
            "extern \"C\" int on_host_{kernel}(unsigned x, unsigned y, unsigned threads, unsigned shared, int descending,\n\
             const void* arguments, std::size_t size) {{\n\
             return on_host::launch({kernel}, x, y, threads, shared, descending != 0, arguments, size); }}"
        )
        .unwrap();
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("cuda-on-host-{}-{count}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (cpp, library) = (folder.join("kernels.cpp"), folder.join("kernels.so"));
    std::fs::write(&cpp, source).unwrap();
    let output = Command::new(compiler)
        .args(["-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-Wall", "-Werror"])
        .args(["-Wno-unknown-pragmas", "-Wno-unused-function"])
        // A misaligned vector, a shift too far, an overflow: the process ends there.
        .args(["-fsanitize=undefined", "-fno-sanitize=vptr", "-fsanitize-undefined-trap-on-error"])
        .arg("-I")
        .arg(crate_folder.join("tests/on_host/include"))
        .arg("-I")
        .arg(crate_folder.join("src"))
        .arg("-o")
        .arg(&library)
        .arg(&cpp)
        .output()
        .unwrap();
    assert!(output.status.success(), "{operation}:\n{}", String::from_utf8_lossy(&output.stderr));
    let path = CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: the path is a string that ends in NUL; the library's initializers are those of the C++ standard library.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    std::fs::remove_dir_all(&folder).unwrap();
    Some(Module { library: NonNull::new(handle).expect("the library just made can be loaded") })
}

impl Module {
    /// Runs a kernel, which takes one `repr(C)` struct.
    ///
    /// # Panics
    /// If there is no such kernel, its argument has another size, the grid is none that CUDA takes, or threads wait for
    /// each other for ever.
    pub(crate) fn launch<T: Copy>(&self, kernel: &str, grid: Grid, order: Order, arguments: &T) {
        type Launch =
            unsafe extern "C" fn(c_uint, c_uint, c_uint, c_uint, c_int, *const c_void, usize) -> c_int;
        let name = CString::new(format!("on_host_{kernel}")).unwrap();
        // SAFETY: the handle is open, the name ends in NUL.
        let address = unsafe { libc::dlsym(self.library.as_ptr(), name.as_ptr()) };
        assert!(!address.is_null(), "there is no kernel {kernel}; name it in `compile`");
        // SAFETY: `compile` wrote a function of this type under this name.
        let launch = unsafe { std::mem::transmute::<*mut c_void, Launch>(address) };
        let count = |count: usize| c_uint::try_from(count).unwrap();
        let (x, y) = (count(grid.blocks.0), count(grid.blocks.1));
        // SAFETY: the argument is as long as said; what it points to, the test answers for (see `Guarded`).
        let status = unsafe {
            launch(
                x,
                y,
                count(grid.threads),
                count(grid.shared),
                c_int::from(order == Order::Descending),
                std::ptr::from_ref(arguments).cast(),
                size_of::<T>(),
            )
        };
        match status {
            0 => {}
            1 => panic!("{kernel}: threads wait at a barrier or an exchange that others never reach"),
            2 => panic!("{kernel}: its argument has not the {} bytes of the struct given", size_of::<T>()),
            _ => panic!("{kernel}: {grid:?} is no grid that CUDA takes"),
        }
    }
}

/// Memory as a kernel sees it, with a page behind its end that nobody may touch: an access past the end ends the process.
/// It ends at the page where its length allows 16 bytes of alignment, else a little before, and those bytes are checked.
pub(crate) struct Guarded<T: Copy> {
    mapping: *mut libc::c_void,
    mapped: usize,
    start: *mut T,
    len: usize,
}

const CANARY: u8 = 0xa5;

impl<T: Copy> Guarded<T> {
    pub(crate) fn new(values: &[T]) -> Self {
        let page = 1 << 16; // a multiple of every page size in use
        let bytes = size_of_val(values);
        let padded = bytes.next_multiple_of(16);
        let body = padded.next_multiple_of(page).max(page);
        // SAFETY: a fresh private mapping, whose last page is then closed; sizes are checked by the calls.
        let (mapping, start) = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let mapping = libc::mmap(std::ptr::null_mut(), body + page, protection, flags, -1, 0);
            assert_ne!(mapping, libc::MAP_FAILED);
            let bytes = mapping.cast::<u8>();
            bytes.write_bytes(CANARY, body);
            assert_eq!(libc::mprotect(bytes.add(body).cast(), page, libc::PROT_NONE), 0);
            (mapping, bytes.add(body - padded).cast::<T>())
        };
        // SAFETY: `padded` writable bytes begin at `start`, which is aligned to 16.
        unsafe { start.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        Self { mapping, mapped: body + page, start, len: values.len() }
    }

    /// As kernels take pointers.
    pub(crate) fn device(&self) -> u64 {
        self.start as u64
    }
}

impl<T: Copy> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` wrote `len` values there; kernels, which write others, do not run while this borrow is in use.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Copy> Drop for Guarded<T> {
    fn drop(&mut self) {
        let bytes = self.len * size_of::<T>();
        // SAFETY: the bytes between the end of the values and the closed page, and the mapping that `new` made.
        let untouched = unsafe {
            let end = self.start.cast::<u8>().add(bytes);
            let rest = std::slice::from_raw_parts(end, bytes.next_multiple_of(16) - bytes);
            let untouched = rest.iter().all(|&byte| byte == CANARY);
            libc::munmap(self.mapping, self.mapped);
            untouched
        };
        if !std::thread::panicking() {
            assert!(untouched, "a kernel wrote past the end of {} values", self.len);
        }
    }
}

mod tests {
    use super::{Grid, Guarded, Order, compile};

    #[derive(Clone, Copy)]
    #[repr(C)]
    struct Arguments {
        x: u64,
        sums: u64,
        rounded: u64,
        len: u64,
    }

    const GRID: Grid = Grid { blocks: (3, 1), threads: 96, shared: 0 };

    /// Every block's sum through shared memory and shuffles, and bfloat16's rounding.
    #[test]
    fn barriers_shuffles_and_rounding_are_those_of_cuda() {
        let Some(module) = compile("on_host", &["block_sums", "divergent"]) else { return };
        let mut x: Vec<f32> = (0..GRID.blocks.0 * GRID.threads - 5).map(|i| i as f32).collect();
        x[7] = 1.0 + 1.0 / 256.0; // halfway to the next bfloat16 from an even one
        x[8] = 1.0 + 3.0 / 256.0; // and from an odd one
        x[9] = f32::NAN;
        for order in Order::BOTH {
            let (input, sums) = (Guarded::new(&x), Guarded::new(&[0f32; 3]));
            let rounded = Guarded::new(&vec![0u16; x.len()]);
            let arguments = Arguments {
                x: input.device(),
                sums: sums.device(),
                rounded: rounded.device(),
                len: x.len() as u64,
            };
            module.launch("block_sums", GRID, order, &arguments);
            let expected = |block: usize| -> f32 {
                x.iter().skip(block * GRID.threads).take(GRID.threads).filter(|x| !x.is_nan()).sum()
            };
            assert_eq!(sums[1..], [expected(1), expected(2)]);
            assert_eq!((rounded[7], rounded[8], rounded[9]), (0x3f80, 0x3f82, 0x7fff));
            assert_eq!(rounded[200], half_of(200.0));
        }
    }

    fn half_of(value: f32) -> u16 {
        (value.to_bits() >> 16) as u16
    }

    #[test]
    #[should_panic(expected = "threads wait at a barrier")]
    fn a_barrier_that_not_all_threads_reach_is_found() {
        let arguments = Arguments { x: 0, sums: 0, rounded: 0, len: 0 };
        match compile("on_host", &["divergent"]) {
            Some(module) => module.launch("divergent", GRID, Order::Ascending, &arguments),
            None => panic!("threads wait at a barrier: not tested"),
        }
    }

    #[test]
    #[should_panic(expected = "argument has not the 8 bytes")]
    fn an_argument_of_another_size_is_found() {
        match compile("on_host", &["divergent"]) {
            Some(module) => module.launch("divergent", GRID, Order::Ascending, &1u64),
            None => panic!("its argument has not the 8 bytes: not tested"),
        }
    }
}
