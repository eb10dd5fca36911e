// Sums over a block in a fixed order.
#pragma once

// The sum of `value` over all threads of the block, in every thread. `scratch` is shared memory of 32 doubles, free to be
// used again after the next barrier. All threads must call it; the block is a multiple of 32 threads.
static __device__ __forceinline__ double block_sum(double value, double* scratch) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0.0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += scratch[warp];
    return sum;
}
