// Kernels that test the header of this folder.
#include <cuda_bf16.h>

struct Arguments {
    const float* x;
    float* sums;
    __nv_bfloat16* rounded;
    unsigned long long len;
};

extern "C" __global__ void block_sums(Arguments a) {
    __shared__ float partial[32];
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    float value = i < a.len ? a.x[i] : 0.0f;
    if (i < a.len) a.rounded[i] = __float2bfloat16(value);
    if (isnan(value)) value = 0.0f;
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x == 0) {
        float sum = 0.0f;
        for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += partial[warp];
        a.sums[blockIdx.x] = sum;
    }
}

extern "C" __global__ void divergent(Arguments) {
    if (threadIdx.x < 40) __syncthreads();
}
