// Batch norm and ReLU over rows of channels; see mod.rs for the formulas, and cuda.rs for the launches.
//
// Blocks have 256 threads. A thread keeps to eight channels (its lane) and strides over rows, so that what belongs to a
// channel stays in registers, and a block reads whole rows that follow each other. Sums are per thread, then per block,
// then over blocks, each in a fixed order: which row goes where depends only on the shape.
#include "cuda/vector.cuh"
#include "dropout/mask.cuh"

#define THREADS 256

struct Part {
    int lanes;     // vectors of a row that a block has threads for
    int together;  // rows that a block takes at once
    int row;       // this thread's among them
    int vector;    // this thread's within a row
    bool active;   // whether it has any
    long long first, step;
};

static __device__ __forceinline__ Part part(int pitch) {
    Part part;
    int vectors = pitch / 8;
    part.lanes = vectors < THREADS ? vectors : THREADS;
    part.together = THREADS / part.lanes;
    part.row = (int)threadIdx.x / part.lanes;
    part.vector = (int)(blockIdx.y * THREADS + threadIdx.x % part.lanes);
    part.active = part.row < part.together && part.vector < vectors;
    part.first = (long long)blockIdx.x * part.together + part.row;
    part.step = (long long)gridDim.x * part.together;
    return part;
}

// How many rows the thread has that starts at `first`.
static __device__ __forceinline__ int rows_from(long long first, long long step, long long rows) {
    return first < rows ? (int)((rows - 1 - first) / step) + 1 : 0;
}

static __device__ __forceinline__ Eight channels_of(const float *values, int vector) { return load(values, vector); }

// A vector of `x`, after an addend's (if there is one) was added to it there, as the images' type has the sum.
template <typename T> static __device__ __forceinline__ Eight load_sum(T *x, const T *add, long long index) {
    Eight value = load(x, index);
    if (!add) return value;
    Eight other = load(add, index);
#pragma unroll
    for (int j = 0; j < 8; ++j) value.v[j] += other.v[j];
    return store(x, index, value);
}

// ---- Statistics --------------------------------------------------------------------------------------------------------

struct batch_norm_statistics_arguments {
    void *x;         // rows of channels; where there is an addend, on return their sum
    const void *add; // or null
    float *partials; // of each block, a pitch each: a value of every channel, the means less that, and the sums of squares
                     // around the means
    float *counts;   // of each block: how many rows it saw
    long long rows;
    int pitch;
};

template <typename T> static __device__ void statistics(const batch_norm_statistics_arguments &p) {
    // Around the thread's own first row, and then around the block's, so that a mean far from zero costs no digits.
    __shared__ float origins[THREADS * 8], means[THREADS * 8], squares[THREADS * 8];
    Part at = part(p.pitch);
    int vectors = p.pitch / 8;
    Eight shift = {}, sum = {}, square = {};
    int count = 0;
    if (at.active) {
        T *x = (T *)p.x;
        const T *add = (const T *)p.add;
#pragma unroll 4
        for (long long row = at.first; row < p.rows; row += at.step) {
            long long index = row * vectors + at.vector;
            Eight value = load_sum(x, add, index);
            if (count == 0) shift = value;
            ++count;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                float distance = value.v[j] - shift.v[j];
                sum.v[j] += distance;
                square.v[j] = fmaf(distance, distance, square.v[j]);
            }
        }
        if (at.row == 0) {
#pragma unroll
            for (int j = 0; j < 8; ++j) origins[threadIdx.x * 8 + j] = shift.v[j];
        }
    }
    __syncthreads();
    if (at.active) {
        int lane = (int)threadIdx.x % at.lanes;
        float share = count ? 1.0f / (float)count : 0.0f;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            float mean = sum.v[j] * share;
            means[threadIdx.x * 8 + j] = (shift.v[j] - origins[lane * 8 + j]) + mean;
            float around = square.v[j] - sum.v[j] * mean;
            squares[threadIdx.x * 8 + j] = around < 0.0f ? 0.0f : around; // below zero by rounding only; a NaN stays one
        }
    }
    __syncthreads();
    for (int c = (int)threadIdx.x; c < at.lanes * 8; c += THREADS) {
        int vector = (int)blockIdx.y * THREADS + c / 8;
        if (vector >= vectors) break;
        float count = 0.0f, mean = 0.0f, square = 0.0f;
        for (int row = 0; row < at.together; ++row) {
            float n = (float)rows_from((long long)blockIdx.x * at.together + row, at.step, p.rows);
            if (n == 0.0f) break;
            int from = row * at.lanes * 8 + c;
            float distance = means[from] - mean, both = count + n;
            mean = fmaf(distance, n / both, mean);
            square += squares[from] + distance * distance * (count * n / both);
            count = both;
        }
        long long to = (long long)blockIdx.x * 3 * p.pitch + vector * 8 + c % 8;
        p.partials[to] = origins[c];
        p.partials[to + p.pitch] = mean;
        p.partials[to + 2 * p.pitch] = square;
        if (vector == 0 && c == 0) p.counts[blockIdx.x] = count;
    }
}

FOR_EACH_TYPE(batch_norm_statistics, statistics)

// Writes what the other kernels read: the factors, summands, means and inverse deviations of the channels, one after the
// other. Channels of the padding get factor and summand zero.
static __device__ __forceinline__ void write_affine(float *affine, int pitch, int c, double mean, double var,
                                                    double gamma, double beta, double epsilon) {
    double inv_std = 1.0 / sqrt(var + epsilon);
    float scale = (float)(gamma * inv_std);
    affine[c] = scale;
    affine[pitch + c] = (float)(beta - (double)(float)mean * (double)scale);
    affine[2 * pitch + c] = (float)mean;
    affine[3 * pitch + c] = (float)inv_std;
}

struct batch_norm_finish_arguments {
    const float *partials, *counts; // of batch_norm_statistics
    const float *gamma, *beta;
    float *affine;
    float *running_mean, *running_var;
    long long *tracked;
    double epsilon, momentum;
    long long rows;
    int blocks; // of batch_norm_statistics
    int pitch, channels;
    int moves; // whether the running statistics do
};

// A block for each eight channels: 32 threads a channel.
extern "C" __global__ void batch_norm_finish(batch_norm_finish_arguments p) {
    __shared__ double counts[THREADS], means[THREADS], squares[THREADS];
    int part = (int)threadIdx.x / 8, c = (int)blockIdx.x * 8 + (int)threadIdx.x % 8;
    double count = 0.0, mean = 0.0, square = 0.0;
    for (int block = part; block < p.blocks; block += THREADS / 8) {
        double n = p.counts[block];
        if (n == 0.0) continue;
        const float *from = p.partials + (long long)block * 3 * p.pitch + c;
        double distance = (double)from[0] + from[p.pitch] - mean, both = count + n;
        mean += distance * (n / both);
        square += from[2 * p.pitch] + distance * distance * (count * n / both);
        count = both;
    }
    counts[threadIdx.x] = count;
    means[threadIdx.x] = mean;
    squares[threadIdx.x] = square;
    __syncthreads();
    if (threadIdx.x >= 8) return;
    for (int other = 1; other < THREADS / 8; ++other) {
        int from = other * 8 + (int)threadIdx.x;
        double n = counts[from];
        if (n == 0.0) continue;
        double distance = means[from] - mean, both = count + n;
        mean += distance * (n / both);
        square += squares[from] + distance * distance * (count * n / both);
        count = both;
    }
    bool there = c < p.channels;
    double var = square / (double)p.rows;
    write_affine(p.affine, p.pitch, c, mean, var, there ? p.gamma[c] : 0.0f, there ? p.beta[c] : 0.0f, p.epsilon);
    if (there && p.moves) {
        double unbiased = square / (double)(p.rows - 1);
        p.running_mean[c] = (float)((1.0 - p.momentum) * p.running_mean[c] + p.momentum * mean);
        p.running_var[c] = (float)((1.0 - p.momentum) * p.running_var[c] + p.momentum * unbiased);
    }
    if (c == 0) ++*p.tracked;
}

struct batch_norm_running_arguments {
    const float *gamma, *beta, *mean, *var;
    float *affine;
    double epsilon;
    int pitch, channels;
};

// A thread for each channel.
extern "C" __global__ void batch_norm_running(batch_norm_running_arguments p) {
    int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= p.pitch) return;
    bool there = c < p.channels;
    write_affine(p.affine, p.pitch, c, there ? p.mean[c] : 0.0f, there ? p.var[c] : 0.0f, there ? p.gamma[c] : 0.0f,
                 there ? p.beta[c] : 0.0f, p.epsilon);
}

// ---- Application -------------------------------------------------------------------------------------------------------

struct batch_norm_apply_arguments {
    void *x;         // where there is an addend, on return their sum
    const void *add; // or null
    void *y;
    const float *affine;
    long long rows;
    Mask mask;
    int pitch, channels;
};

template <typename T> static __device__ void apply(const batch_norm_apply_arguments &p) {
    Part at = part(p.pitch);
    if (!at.active) return;
    int vectors = p.pitch / 8;
    Eight scale = channels_of(p.affine, at.vector), shift = channels_of(p.affine + p.pitch, at.vector);
    T *x = (T *)p.x;
    const T *add = (const T *)p.add;
#pragma unroll 4
    for (long long row = at.first; row < p.rows; row += at.step) {
        long long index = row * vectors + at.vector;
        Eight value = load_sum(x, add, index);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            float z = fmaf(value.v[j], scale.v[j], shift.v[j]);
            value.v[j] = z < 0.0f ? 0.0f : z; // a NaN stays one
        }
        if (p.mask.threshold) {
            unsigned long long element = (unsigned long long)row * p.channels + at.vector * 8;
#pragma unroll
            for (int j = 0; j < 8; ++j) value.v[j] *= mask_factor(p.mask, element + j);
        }
        store((T *)p.y, index, value);
    }
}

FOR_EACH_TYPE(batch_norm_apply, apply)

// ---- Gradients ---------------------------------------------------------------------------------------------------------

struct batch_norm_backward_arguments {
    const void *x;
    void *grad;      // with respect to what batch_norm_apply made; batch_norm_gradient makes it that of x
    const void *add; // to the gradient of x, or null
    const float *affine;
    float *partials;   // of each block of batch_norm_sums: the channels' parts of dgamma, then of dbeta
    const float *sums; // dgamma, then dbeta
    long long rows;
    Mask mask;
    int pitch, channels;
    int constant; // whether the statistics were: else gradients flow through them
};

// The gradient with respect to the normalized x: that of the ReLU's (and mask's) output where the ReLU was open, which it
// is at a NaN too.
static __device__ __forceinline__ Eight through_relu(Eight grad, Eight x, Eight scale, Eight shift, const Mask &mask,
                                                     unsigned long long element) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        if (mask.threshold) grad.v[j] *= mask_factor(mask, element + j);
        if (fmaf(x.v[j], scale.v[j], shift.v[j]) <= 0.0f) grad.v[j] = 0.0f;
    }
    return grad;
}

template <typename T> static __device__ void sums(const batch_norm_backward_arguments &p) {
    __shared__ float products[THREADS * 8], totals[THREADS * 8];
    Part at = part(p.pitch);
    int vectors = p.pitch / 8;
    if (at.active) {
        Eight scale = channels_of(p.affine, at.vector), shift = channels_of(p.affine + p.pitch, at.vector);
        Eight mean = channels_of(p.affine + 2 * p.pitch, at.vector);
        Eight inv_std = channels_of(p.affine + 3 * p.pitch, at.vector);
        Eight product = {}, total = {};
#pragma unroll 4
        for (long long row = at.first; row < p.rows; row += at.step) {
            long long index = row * vectors + at.vector;
            Eight x = load((const T *)p.x, index), grad = load((const T *)p.grad, index);
            unsigned long long element = (unsigned long long)row * p.channels + at.vector * 8;
            grad = through_relu(grad, x, scale, shift, p.mask, element);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                total.v[j] += grad.v[j];
                product.v[j] = fmaf(grad.v[j], (x.v[j] - mean.v[j]) * inv_std.v[j], product.v[j]);
            }
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            products[threadIdx.x * 8 + j] = product.v[j];
            totals[threadIdx.x * 8 + j] = total.v[j];
        }
    }
    __syncthreads();
    for (int c = (int)threadIdx.x; c < at.lanes * 8; c += THREADS) {
        int vector = (int)blockIdx.y * THREADS + c / 8;
        if (vector >= vectors) break;
        float product = 0.0f, total = 0.0f;
        for (int row = 0; row < at.together; ++row) {
            product += products[row * at.lanes * 8 + c];
            total += totals[row * at.lanes * 8 + c];
        }
        long long to = (long long)blockIdx.x * 2 * p.pitch + vector * 8 + c % 8;
        p.partials[to] = product;
        p.partials[to + p.pitch] = total;
    }
}

FOR_EACH_TYPE_OF(batch_norm_sums, sums, batch_norm_backward_arguments)

struct batch_norm_add_up_arguments {
    const float *partials; // of batch_norm_sums
    float *sums;           // dgamma, then dbeta
    int blocks;            // of batch_norm_sums
    int pitch;
};

// A block for each eight of the 2 * pitch sums: 32 threads a sum.
extern "C" __global__ void batch_norm_add_up(batch_norm_add_up_arguments p) {
    __shared__ double totals[THREADS];
    int part = (int)threadIdx.x / 8, c = (int)blockIdx.x * 8 + (int)threadIdx.x % 8;
    double total = 0.0;
    for (int block = part; block < p.blocks; block += THREADS / 8) total += p.partials[(long long)block * 2 * p.pitch + c];
    totals[threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.x >= 8) return;
    for (int other = 1; other < THREADS / 8; ++other) total += totals[other * 8 + threadIdx.x];
    p.sums[c] = (float)total;
}

template <typename T> static __device__ void gradient(const batch_norm_backward_arguments &p) {
    Part at = part(p.pitch);
    if (!at.active) return;
    int vectors = p.pitch / 8;
    Eight scale = channels_of(p.affine, at.vector), shift = channels_of(p.affine + p.pitch, at.vector);
    Eight mean = channels_of(p.affine + 2 * p.pitch, at.vector);
    Eight inv_std = channels_of(p.affine + 3 * p.pitch, at.vector);
    Eight slope = channels_of(p.sums, at.vector), dbeta = channels_of(p.sums + p.pitch, at.vector);
    float share = 1.0f / (float)p.rows;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        slope.v[j] = p.constant ? 0.0f : slope.v[j] * inv_std.v[j] * share; // x^ dgamma / n = (x - mean) slope
        dbeta.v[j] = p.constant ? 0.0f : dbeta.v[j] * share;
    }
    T *grads = (T *)p.grad;
#pragma unroll 4
    for (long long row = at.first; row < p.rows; row += at.step) {
        long long index = row * vectors + at.vector;
        Eight x = load((const T *)p.x, index), grad = load(grads, index);
        unsigned long long element = (unsigned long long)row * p.channels + at.vector * 8;
        grad = through_relu(grad, x, scale, shift, p.mask, element);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            float through_statistics = fmaf(x.v[j] - mean.v[j], slope.v[j], dbeta.v[j]);
            grad.v[j] = scale.v[j] * (grad.v[j] - through_statistics);
        }
        if (p.add) {
            Eight add = load((const T *)p.add, index);
#pragma unroll
            for (int j = 0; j < 8; ++j) grad.v[j] += add.v[j];
        }
        store(grads, index, grad);
    }
}

FOR_EACH_TYPE_OF(batch_norm_gradient, gradient, batch_norm_backward_arguments)
