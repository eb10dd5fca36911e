// CUDA's words for a C++ compiler: what the kernels use of the language, run serially on the host.
//
// The threads of a block are fibers of one thread, switched only at barriers and warp exchanges; blocks run one after
// another. A barrier that not all threads reach, or an exchange with lanes that never come, is an error, not a hang.
// Blocks and fibers run in ascending or in descending order: a kernel without races gives the same bits in both.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define CUDA_ON_HOST 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static thread_local
#define __constant__ static const
#define __align__(n) alignas(n)

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
using std::memcpy;
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
struct alignas(8) ushort4 { unsigned short x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }

constexpr unsigned warpSize = 32;
inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;

namespace on_host {

constexpr std::size_t STACK = 96 << 10;

/// Where threads wait for each other.
struct Barrier {
    unsigned arrived = 0;
    std::uint64_t generation = 0;
};

struct Warp {
    Barrier barrier;
    std::uint64_t slots[32];
};

struct Fiber {
    ucontext_t context;
    bool done;
};

/// The block that runs on this thread.
struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<char> stacks;
    alignas(16) char shared[48 << 10];
    Barrier barrier;
    ucontext_t scheduler;
    std::function<void()> kernel;
    unsigned current = 0;
    /// Arrivals and ends: a round without any is a deadlock.
    std::uint64_t events = 0;
    /// For `__syncthreads_count` and the like.
    int votes[2] = {0, 0};
};
inline thread_local Block block;

inline void yield() { swapcontext(&block.fibers[block.current].context, &block.scheduler); }

inline void wait(Barrier& barrier, unsigned expected) {
    std::uint64_t generation = barrier.generation;
    ++block.events;
    if (++barrier.arrived == expected) {
        barrier.arrived = 0;
        ++barrier.generation;
    } else {
        while (barrier.generation == generation) yield();
    }
}

inline void entry() {
    block.kernel();
    block.fibers[block.current].done = true;
    ++block.events;
    yield();
}

inline unsigned lanes(unsigned warp) { return std::min(32u, blockDim.x - 32 * warp); }

inline void warp_wait(unsigned mask) {
    unsigned warp = threadIdx.x / 32, present = lanes(warp);
    unsigned all = present == 32 ? ~0u : (1u << present) - 1;
    // Only whole warps exchange here: a mask of fewer lanes than there are would need what no kernel of ours does.
    if ((mask & all) != all) __builtin_trap();
    wait(block.warps[warp].barrier, present);
}

template <class T>
T exchange(unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= 8, "a lane exchanges at most 8 bytes");
    Warp& warp = block.warps[threadIdx.x / 32];
    unsigned lane = threadIdx.x % 32;
    std::memcpy(&warp.slots[lane], &value, sizeof(T));
    warp_wait(mask);
    // A lane that is not there gives back one's own value, as the hardware does for one out of range.
    if (source < lanes(threadIdx.x / 32)) std::memcpy(&value, &warp.slots[source], sizeof(T));
    warp_wait(mask);
    return value;
}

/// Runs a block of fibers to its end; false where they wait for each other for ever.
inline bool run_block(unsigned threads, bool descending) {
    block.barrier = Barrier();
    block.warps.assign((threads + 31) / 32, Warp());
    block.fibers.resize(threads);
    block.stacks.resize(threads * STACK);
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = block.fibers[i];
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = block.stacks.data() + i * STACK;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, entry, 0);
    }
    for (unsigned left = threads; left > 0;) {
        std::uint64_t before = block.events;
        for (unsigned i = 0; i < threads; ++i) {
            unsigned thread = descending ? threads - 1 - i : i;
            if (block.fibers[thread].done) continue;
            block.current = thread;
            threadIdx = {thread, 0, 0};
            swapcontext(&block.scheduler, &block.fibers[thread].context);
            if (block.fibers[thread].done) --left;
        }
        if (left > 0 && block.events == before) return false;
    }
    return true;
}

/// 0, or: 1 threads wait for ever, 2 the argument has another size, 3 no grid of the hardware's.
template <class Arguments>
int launch(void (*kernel)(Arguments), unsigned blocks_x, unsigned blocks_y, unsigned threads, unsigned shared,
           bool descending, const void* arguments, std::size_t size) {
    if (size != sizeof(Arguments)) return 2;
    if (threads == 0 || threads > 1024 || blocks_x == 0 || blocks_y == 0 || blocks_y > 65535) return 3;
    if (shared > sizeof(block.shared) || size > 4096) return 3;
    Arguments copy;
    std::memcpy(&copy, arguments, sizeof(copy));
    block.kernel = [&] { kernel(copy); };
    gridDim = {blocks_x, blocks_y, 1};
    blockDim = {threads, 1, 1};
    std::uint64_t blocks = std::uint64_t(blocks_x) * blocks_y;
    for (std::uint64_t i = 0; i < blocks; ++i) {
        std::uint64_t index = descending ? blocks - 1 - i : i;
        blockIdx = {unsigned(index % blocks_x), unsigned(index / blocks_x), 0};
        // Neither zeros nor what the block before left: what is read before it is written stands out.
        std::memset(block.shared, 0xff, sizeof(block.shared));
        if (!run_block(threads, descending)) return 1;
    }
    return 0;
}

}  // namespace on_host

/// Dynamic shared memory, of the size that the launch gives.
#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(on_host::block.shared)

inline void __syncthreads() { on_host::wait(on_host::block.barrier, blockDim.x); }
inline int __syncthreads_count(int predicate) {
    int& votes = on_host::block.votes[0];
    __syncthreads();
    votes = 0;
    __syncthreads();
    votes += predicate != 0;
    __syncthreads();
    return votes;
}
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
inline int __syncthreads_and(int predicate) { return __syncthreads_count(!predicate) == 0; }
inline void __syncwarp(unsigned mask = ~0u) { on_host::warp_wait(mask); }
template <class T> T __shfl_sync(unsigned mask, T v, int lane) { return on_host::exchange(mask, v, unsigned(lane) % 32); }
template <class T> T __shfl_xor_sync(unsigned mask, T v, int lanes) {
    return on_host::exchange(mask, v, (threadIdx.x % 32) ^ unsigned(lanes));
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by) {
    unsigned lane = threadIdx.x % 32;
    return on_host::exchange(mask, v, lane + by < 32 ? lane + by : lane);
}
inline int __any_sync(unsigned mask, int predicate) {
    int any = 0;
    for (unsigned lane = 0; lane < 32; ++lane) any |= on_host::exchange(mask, int(predicate != 0), lane);
    return any;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// Fibers are never interrupted, so these are atomic as they stand.
template <class T> T atomicAdd(T* to, T value) { T old = *to; *to = old + value; return old; }
template <class T> T atomicMax(T* to, T value) { T old = *to; *to = std::max(old, value); return old; }
template <class T> T atomicMin(T* to, T value) { T old = *to; *to = std::min(old, value); return old; }
template <class T> T atomicOr(T* to, T value) { T old = *to; *to = old | value; return old; }
template <class T> T atomicExch(T* to, T value) { T old = *to; *to = value; return old; }
template <class T> T atomicCAS(T* to, T expected, T value) { T old = *to; if (old == expected) *to = value; return old; }

template <class T> T __ldg(const T* from) { return *from; }
template <class T> T __ldcs(const T* from) { return *from; }
template <class T> void __stcs(T* to, T value) { *to = value; }
using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((std::uint64_t(a) * b) >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
inline float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
