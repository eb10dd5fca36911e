// The passes of an optimizer step over all parameters in a launch or two: a launch takes a table of tensors by value, and
// each block a chunk of one of them.
#include <cmath>

#include "cuda/reduce.cuh"

static const int TENSORS = 64;
static const int OPERANDS = 4;
// Elements of a block: a multiple of 4, so that a chunk of an aligned tensor is aligned.
static const unsigned long long CHUNK = 16384;

struct Tensors {
    float* operands[OPERANDS][TENSORS];
    unsigned long long lens[TENSORS];
    // The first block of each tensor, and behind the last the number of all.
    unsigned first_blocks[TENSORS + 1];
    unsigned count;
};

// A block's chunk: where each operand of it begins, and its length.
struct Chunk {
    float* operands[OPERANDS];
    unsigned long long len;
};

static __device__ __forceinline__ Chunk chunk_of_block(const Tensors& tensors) {
    // The last tensor whose first block is not behind this one.
    unsigned low = 0, high = tensors.count;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (tensors.first_blocks[middle] <= blockIdx.x) low = middle;
        else high = middle;
    }
    unsigned long long start = (blockIdx.x - tensors.first_blocks[low]) * CHUNK;
    unsigned long long left = tensors.lens[low] - start;
    Chunk chunk;
    for (int i = 0; i < OPERANDS; ++i) chunk.operands[i] = tensors.operands[i][low] ? tensors.operands[i][low] + start : nullptr;
    chunk.len = left < CHUNK ? left : CHUNK;
    return chunk;
}

// Whether the operands can be taken four elements at a time.
static __device__ __forceinline__ bool aligned(const Chunk& chunk) {
    unsigned long long bits = 0;
    for (int i = 0; i < OPERANDS; ++i) bits |= (unsigned long long)chunk.operands[i];
    return bits % 16 == 0;
}

// Calls f with up to OPERANDS values of each element, and stores those of the operands in the mask WRITES; an operand
// that is not in READS is not read.
template <int READS, int WRITES, class F>
static __device__ __forceinline__ void for_each(const Chunk& chunk, F f) {
    unsigned long long vectors = aligned(chunk) ? chunk.len / 4 : 0;
    for (unsigned long long i = threadIdx.x; i < vectors; i += blockDim.x) {
        float values[OPERANDS][4];
#pragma unroll
        for (int o = 0; o < OPERANDS; ++o) {
            if (READS >> o & 1) {
                float4 v = reinterpret_cast<const float4*>(chunk.operands[o])[i];
                values[o][0] = v.x, values[o][1] = v.y, values[o][2] = v.z, values[o][3] = v.w;
            }
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) f(values[0][e], values[1][e], values[2][e], values[3][e]);
#pragma unroll
        for (int o = 0; o < OPERANDS; ++o) {
            if (WRITES >> o & 1) {
                reinterpret_cast<float4*>(chunk.operands[o])[i] =
                    make_float4(values[o][0], values[o][1], values[o][2], values[o][3]);
            }
        }
    }
    for (unsigned long long i = 4 * vectors + threadIdx.x; i < chunk.len; i += blockDim.x) {
        float values[OPERANDS];
#pragma unroll
        for (int o = 0; o < OPERANDS; ++o) {
            if (READS >> o & 1) values[o] = chunk.operands[o][i];
        }
        f(values[0], values[1], values[2], values[3]);
#pragma unroll
        for (int o = 0; o < OPERANDS; ++o) {
            if (WRITES >> o & 1) chunk.operands[o][i] = values[o];
        }
    }
}

// ---- Σ|u|^q, u = g or |w| g --------------------------------------------------------------------------------------------

struct PowerSums {
    Tensors tensors;   // w, gradient
    double* partials;  // one for each block of this launch
    double q;
    unsigned adaptive;
};

extern "C" __global__ void __launch_bounds__(256) power_sums(const __grid_constant__ PowerSums a) {
    __shared__ double scratch[32];
    Chunk chunk = chunk_of_block(a.tensors);
    double sum = 0.0;
    double q = a.q;
    if (!a.adaptive && q == 2.0) {
        for_each<2, 0>(chunk, [&](float&, float& g, float&, float&) { sum += (double)g * (double)g; });
    } else if (!a.adaptive) {
        for_each<2, 0>(chunk, [&](float&, float& g, float&, float&) { sum += pow(fabs((double)g), q); });
    } else {
        for_each<3, 0>(chunk, [&](float& w, float& g, float&, float&) {
            double u = (double)w * (double)g;
            sum += q == 2.0 ? u * u : pow(fabs(u), q);
        });
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) a.partials[blockIdx.x] = sum;
}

struct Ascent {
    const double* partials;
    unsigned long long count;
    double* ascent;     // the norm, and what the ascent is scaled by
    double* found_inf;  // 1 once a sum was not finite, and the first such sum
    double rho, p, q;
};

// One block: adds the partial sums in a fixed order.
extern "C" __global__ void __launch_bounds__(1024) ascent(const __grid_constant__ Ascent a) {
    __shared__ double scratch[32];
    double sum = 0.0;
    for (unsigned long long i = threadIdx.x; i < a.count; i += blockDim.x) sum += a.partials[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x != 0) return;
    if (!isfinite(sum) && a.found_inf[0] == 0.0) {
        a.found_inf[0] = 1.0;
        a.found_inf[1] = sum;
    }
    a.ascent[0] = a.q == 2.0 ? sqrt(sum) : pow(sum, 1.0 / a.q);
    a.ascent[1] = a.rho / ((a.p == 2.0 ? sqrt(sum) : pow(sum, 1.0 / a.p)) + 1e-12);
}

// ---- w + e -------------------------------------------------------------------------------------------------------------

struct Perturb {
    Tensors tensors;  // old, gradient, w
    const double* ascent;
    const double* found_inf;
    float power;  // q - 1
    unsigned adaptive;
};

extern "C" __global__ void __launch_bounds__(256) perturb(const __grid_constant__ Perturb a) {
    Chunk chunk = chunk_of_block(a.tensors);
    float scale = (float)a.ascent[1];
    float power = a.power;
    bool adaptive = a.adaptive != 0;
    if (a.found_inf[0] != 0.0) {
        for_each<1, 4>(chunk, [&](float& old, float&, float& w, float&) { w = old; });
    } else if (power == 1.0f && !adaptive) {
        for_each<3, 4>(chunk, [&](float& old, float& g, float& w, float&) { w = old + g * scale; });
    } else if (power == 1.0f) {
        for_each<3, 4>(chunk, [&](float& old, float& g, float& w, float&) { w = old + old * old * g * scale; });
    } else {
        for_each<3, 4>(chunk, [&](float& old, float& g, float& w, float&) {
            float size = adaptive ? fabsf(old) : 1.0f;
            float u = size * g;
            // No sign for a zero, whatever its power.
            float root = u == 0.0f ? 0.0f : copysignf(powf(fabsf(u), power), u);
            w = old + root * scale * size;
        });
    }
}

// ---- SGD ---------------------------------------------------------------------------------------------------------------

struct Sgd {
    Tensors tensors;          // w, gradient, momentum buffer if there is one
    const double* found_inf;  // or null
    float rate, momentum, fresh, decay;
    unsigned nesterov;
    unsigned has_buffer;
};

extern "C" __global__ void __launch_bounds__(256) sgd(const __grid_constant__ Sgd a) {
    if (a.found_inf && a.found_inf[0] != 0.0) return;
    Chunk chunk = chunk_of_block(a.tensors);
    float rate = a.rate, momentum = a.momentum, fresh = a.fresh, decay = a.decay;
    bool nesterov = a.nesterov != 0;
    if (!a.has_buffer) {
        for_each<3, 1>(chunk, [&](float& w, float& g, float&, float&) { w -= rate * (g + decay * w); });
        return;
    }
    for_each<7, 5>(chunk, [&](float& w, float& g, float& b, float&) {
        float d = g + decay * w;
        b = momentum * b + fresh * d;
        w -= rate * (nesterov ? d + momentum * b : b);
    });
}

// ---- AdamW -------------------------------------------------------------------------------------------------------------

struct AdamW {
    Tensors tensors;          // w, gradient, first and second moment
    const double* found_inf;  // or null
    float keep, fresh1, beta2, fresh2, rate, root, epsilon;
};

extern "C" __global__ void __launch_bounds__(256) adamw(const __grid_constant__ AdamW a) {
    if (a.found_inf && a.found_inf[0] != 0.0) return;
    Chunk chunk = chunk_of_block(a.tensors);
    float keep = a.keep, fresh1 = a.fresh1, beta2 = a.beta2, fresh2 = a.fresh2;
    float rate = a.rate, root = a.root, epsilon = a.epsilon;
    for_each<15, 13>(chunk, [&](float& w, float& g, float& m, float& v) {
        m += fresh1 * (g - m);
        v = beta2 * v + fresh2 * (g * g);
        w = keep * w - rate * (m / (sqrtf(v) / root + epsilon));
    });
}

// ---- copies ------------------------------------------------------------------------------------------------------------

struct Copy {
    Tensors tensors;  // from, to; in words of 4 bytes, whatever they mean
    const double* found_inf;
};

extern "C" __global__ void __launch_bounds__(256) copy(const __grid_constant__ Copy a) {
    if (a.found_inf[0] != 0.0) return;
    Chunk chunk = chunk_of_block(a.tensors);
    for_each<1, 2>(chunk, [&](float& from, float& to, float&, float&) { to = from; });
}
