// Cross entropy against smoothed labels, and its gradient: one warp a row.
#include <cmath>

struct CrossEntropy {
    const float* logits;     // [N, K]
    const unsigned* labels;  // [N]
    float* loss;             // [N]
    float* gradient;         // [N, K]: of each row's loss by its logits
    unsigned long long rows;
    unsigned classes;
    float on, off;   // the smoothed label's weight of its class, and of every other
    float constant;  // added to every loss
};

extern "C" __global__ void __launch_bounds__(128) cross_entropy(const __grid_constant__ CrossEntropy a) {
    unsigned long long row = blockIdx.x * (unsigned long long)(blockDim.x / 32) + threadIdx.x / 32;
    if (row >= a.rows) return;  // a whole warp leaves
    unsigned lane = threadIdx.x % 32;
    const float* logits = a.logits + row * a.classes;
    float largest = -INFINITY;
    bool nan = false;
    for (unsigned k = lane; k < a.classes; k += 32) {
        nan |= isnan(logits[k]);
        largest = fmaxf(largest, logits[k]);
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
        nan |= __shfl_xor_sync(0xffffffffu, (int)nan, lanes) != 0;
    }
    float total = 0.0f, sum = 0.0f;
    for (unsigned k = lane; k < a.classes; k += 32) {
        float shifted = logits[k] - largest;
        total += expf(shifted);
        sum += shifted;
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        total += __shfl_xor_sync(0xffffffffu, total, lanes);
        sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    }
    float log_total = logf(total);
    unsigned label = a.labels[row];
    // A label that names no class makes the loss and its gradient NaN, which whoever looks at them sees.
    bool valid = label < a.classes && !nan;
    if (lane == 0) {
        float expected = valid ? (a.on - a.off) * (logits[label] - largest - log_total) : NAN;
        if (a.off > 0.0f) expected += a.off * (sum - (float)a.classes * log_total);
        a.loss[row] = a.constant - expected;
    }
    float* gradient = a.gradient + row * a.classes;
    for (unsigned k = lane; k < a.classes; k += 32) {
        float p = expf(logits[k] - largest - log_total);
        gradient[k] = valid ? p - (k == label ? a.on : a.off) : NAN;
    }
}

struct ScaleRows {
    const float* rows;     // [N, K]
    const float* factors;  // [N]
    float* out;            // [N, K]
    unsigned long long len;
    unsigned classes;
};

extern "C" __global__ void __launch_bounds__(256) scale_rows(const __grid_constant__ ScaleRows a) {
    unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x; i < a.len; i += stride) {
        a.out[i] = a.rows[i] * a.factors[i / a.classes];
    }
}
