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

// A block's chunk: of which tensor of the table, where each operand of it begins, and its length.
struct Chunk {
    float* operands[OPERANDS];
    unsigned long long len;
    unsigned tensor;
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
    chunk.tensor = low;
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

// ---- Σ|u|^q, u = T a ---------------------------------------------------------------------------------------------------

struct PowerSums {
    Tensors tensors;   // w, gradient, memory if there is one
    double* partials;  // one for each block of this launch
    double q;
    double of_gradient, of_memory;  // a = of_gradient g + of_memory m where there is a memory, else g
    float sizes[TENSORS];           // T = |w| + size where that is at least 0, else -size
};

extern "C" __global__ void __launch_bounds__(256) power_sums(const __grid_constant__ PowerSums a) {
    __shared__ double scratch[32];
    Chunk chunk = chunk_of_block(a.tensors);
    double sum = 0.0, q = a.q, of_g = a.of_gradient, of_m = a.of_memory;
    float size = a.sizes[chunk.tensor];
    auto add = [&](double u) { sum += q == 2.0 ? u * u : pow(fabs(u), q); };
    if (size >= 0.0f && chunk.operands[2]) {
        for_each<7, 0>(chunk, [&](float& w, float& g, float& m, float&) { add((fabs((double)w) + size) * (of_g * g + of_m * m)); });
    } else if (size >= 0.0f) {
        for_each<3, 0>(chunk, [&](float& w, float& g, float&, float&) { add((fabs((double)w) + size) * (double)g); });
    } else if (chunk.operands[2]) {
        for_each<6, 0>(chunk, [&](float&, float& g, float& m, float&) { add(-(double)size * (of_g * g + of_m * m)); });
    } else {
        for_each<2, 0>(chunk, [&](float&, float& g, float&, float&) { add(-(double)size * (double)g); });
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) a.partials[blockIdx.x] = sum;
}

// Notes that a sum of a step was not finite, if none was noted before.
static __device__ void note(double* found_inf, double sum, double step) {
    if (isfinite(sum) || found_inf[0] != 0.0) return;
    found_inf[0] = 1.0;
    found_inf[1] = sum;
    found_inf[2] = step;
}

struct Ascent {
    const double* partials;
    unsigned long long count;
    double* ascent;     // the norm, and what the ascent is scaled by
    double* found_inf;  // 1 once a sum was not finite, the first such sum, and its step
    double rho, p, q;
    double normalize;  // 1, or 0 to scale by rho
    double step;
};

// One block: adds the partial sums in a fixed order.
extern "C" __global__ void __launch_bounds__(1024) ascent(const __grid_constant__ Ascent a) {
    __shared__ double scratch[32];
    double sum = 0.0;
    for (unsigned long long i = threadIdx.x; i < a.count; i += blockDim.x) sum += a.partials[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x != 0) return;
    note(a.found_inf, sum, a.step);
    a.ascent[0] = a.q == 2.0 ? sqrt(sum) : pow(sum, 1.0 / a.q);
    a.ascent[1] = a.normalize == 0.0 ? a.rho : a.rho / ((a.p == 2.0 ? sqrt(sum) : pow(sum, 1.0 / a.p)) + 1e-12);
}

// ---- w + e -------------------------------------------------------------------------------------------------------------

struct Perturb {
    Tensors tensors;  // old, gradient, w, memory if there is one
    const double* ascent;
    const double* found_inf;
    float power;  // q - 1
    float of_gradient, of_memory;
    float sizes[TENSORS];    // as in PowerSums
    float factors[TENSORS];  // of the radius
};

// No sign for a zero, whatever its power.
static __device__ __forceinline__ float root(float u, float power) {
    return u == 0.0f ? 0.0f : copysignf(powf(fabsf(u), power), u);
}

// w = old + e along a(g, m); READS with the memory or without.
template <int READS, class A>
static __device__ __forceinline__ void climb(const Chunk& chunk, float size, double scale, float power, A a) {
    if (size < 0.0f) {
        // T stands in u^(q - 1) and before it.
        float whole = (float)(scale * (size == -1.0f ? 1.0 : pow(-(double)size, (double)power + 1.0)));
        if (power == 1.0f) {
            for_each<READS, 4>(chunk, [&](float& old, float& g, float& w, float& m) { w = old + a(g, m) * whole; });
        } else {
            for_each<READS, 4>(chunk, [&](float& old, float& g, float& w, float& m) { w = old + root(a(g, m), power) * whole; });
        }
        return;
    }
    float whole = (float)scale;
    if (power == 1.0f) {
        for_each<READS, 4>(chunk, [&](float& old, float& g, float& w, float& m) {
            float t = fabsf(old) + size;
            w = old + t * t * a(g, m) * whole;
        });
    } else {
        for_each<READS, 4>(chunk, [&](float& old, float& g, float& w, float& m) {
            float t = fabsf(old) + size;
            w = old + root(t * a(g, m), power) * whole * t;
        });
    }
}

extern "C" __global__ void __launch_bounds__(256) perturb(const __grid_constant__ Perturb a) {
    Chunk chunk = chunk_of_block(a.tensors);
    if (a.found_inf[0] != 0.0) {
        for_each<1, 4>(chunk, [&](float& old, float&, float& w, float&) { w = old; });
        return;
    }
    double scale = a.ascent[1] * (double)a.factors[chunk.tensor];
    float size = a.sizes[chunk.tensor], of_g = a.of_gradient, of_m = a.of_memory;
    if (chunk.operands[3]) {
        climb<11>(chunk, size, scale, a.power, [&](float g, float m) { return of_g * g + of_m * m; });
    } else {
        climb<3>(chunk, size, scale, a.power, [&](float g, float) { return g; });
    }
}

// ---- x·x, x·y and y·y, and what follows from them ----------------------------------------------------------------------

struct Dots {
    Tensors tensors;   // x, y
    double* partials;  // three for each block of this launch
};

extern "C" __global__ void __launch_bounds__(256) dots(const __grid_constant__ Dots a) {
    __shared__ double scratch[3][32];
    Chunk chunk = chunk_of_block(a.tensors);
    double xx = 0.0, xy = 0.0, yy = 0.0;
    for_each<3, 0>(chunk, [&](float& x, float& y, float&, float&) {
        xx += (double)x * (double)x;
        xy += (double)x * (double)y;
        yy += (double)y * (double)y;
    });
    xx = block_sum(xx, scratch[0]);
    xy = block_sum(xy, scratch[1]);
    yy = block_sum(yy, scratch[2]);
    if (threadIdx.x != 0) return;
    double* to = a.partials + 3 * (unsigned long long)blockIdx.x;
    to[0] = xx, to[1] = xy, to[2] = yy;
}

struct Factors {
    const double* partials;
    unsigned long long count;
    double* factors;    // those of x and y, the norm of their mix before it is clipped, and the cosine between x and y
    double* found_inf;  // as in Ascent
    double alpha, beta;
    double clip;  // infinity for none
    double step;
    unsigned rule;  // Fixed, SurrogateGap, Reuse, Beside
};

// One block: adds the partial sums in a fixed order.
extern "C" __global__ void __launch_bounds__(1024) factors(const __grid_constant__ Factors a) {
    __shared__ double scratch[3][32];
    double xx = 0.0, xy = 0.0, yy = 0.0;
    for (unsigned long long i = threadIdx.x; i < a.count; i += blockDim.x) {
        xx += a.partials[3 * i];
        xy += a.partials[3 * i + 1];
        yy += a.partials[3 * i + 2];
    }
    xx = block_sum(xx, scratch[0]);
    xy = block_sum(xy, scratch[1]);
    yy = block_sum(yy, scratch[2]);
    if (threadIdx.x != 0) return;
    note(a.found_inf, xx + yy, a.step);
    const double epsilon = 1e-12;
    double x = a.alpha, y = a.beta;
    if (a.rule == 1) x = -a.alpha, y = 1.0 + a.alpha * xy / (yy + epsilon);
    if (a.rule == 2) x = 1.0, y = a.alpha * sqrt(xx) / (sqrt(yy) + epsilon);
    if (a.rule == 3) x = -xy / (xx + epsilon), y = 1.0;
    double square = x * x * xx + 2.0 * x * y * xy + y * y * yy;
    double norm = sqrt(square > 0.0 ? square : 0.0);
    double shorter = a.clip / (norm + 1e-6);
    if (!(shorter < 1.0)) shorter = 1.0;
    a.factors[0] = x * shorter;
    a.factors[1] = y * shorter;
    a.factors[2] = norm;
    a.factors[3] = xy / (sqrt(xx) * sqrt(yy) + epsilon);
}

// ---- sums and averages of tensors --------------------------------------------------------------------------------------

struct Combine {
    Tensors tensors;  // v, x, y
    const double* factors;    // of x and y, or null for 1
    const double* found_inf;
    float of_x, of_y;  // what the factors are multiplied by
    unsigned kind;     // Mixed, Plus, Scaled, PlusScaled, Toward
};

extern "C" __global__ void __launch_bounds__(256) combine(const __grid_constant__ Combine a) {
    if (a.found_inf[0] != 0.0) return;
    Chunk chunk = chunk_of_block(a.tensors);
    float x_by = a.factors ? (float)(a.factors[0] * (double)a.of_x) : a.of_x;
    float y_by = a.factors ? (float)(a.factors[1] * (double)a.of_y) : a.of_y;
    if (a.kind == 0) for_each<6, 1>(chunk, [&](float& v, float& x, float& y, float&) { v = x_by * x + y_by * y; });
    if (a.kind == 1) for_each<7, 1>(chunk, [&](float& v, float& x, float& y, float&) { v += x_by * x + y_by * y; });
    if (a.kind == 2) for_each<2, 1>(chunk, [&](float& v, float& x, float&, float&) { v = x_by * x; });
    if (a.kind == 3) for_each<3, 1>(chunk, [&](float& v, float& x, float&, float&) { v += x_by * x; });
    if (a.kind == 4) for_each<3, 1>(chunk, [&](float& v, float& x, float&, float&) { v += x_by * (x - v); });
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
