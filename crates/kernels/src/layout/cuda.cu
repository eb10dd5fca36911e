// Between candle's tensors (f32, [N, C, H, W] and [O, I, kernel, kernel]) and what the CUDA layers keep: channels last, in
// the type of the activations, channels padded with zeros to a multiple of eight.
#include "cuda/vector.cuh"

// ---- Images ------------------------------------------------------------------------------------------------------------

struct layout_images_arguments {
    const float *from;
    void *to;
    long long by_image, by_channel, by_row, by_column; // strides of `from`, in elements
    long long pixels;
    int height, width, channels, pitch;
};

// Reads images of any strides. A thread takes eight channels of a pixel, and then others.
template <typename T> static __device__ void images(const layout_images_arguments &p) {
    int vectors = p.pitch / 8;
    long long all = p.pixels * vectors, step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += step) {
        // Neighboring threads take neighboring pixels, as images are most often stored.
        long long pixel = i % p.pixels;
        int vector = (int)(i / p.pixels);
        long long row = pixel / p.width;
        const float *from = p.from + row / p.height * p.by_image + row % p.height * p.by_row + pixel % p.width * p.by_column;
        Eight x;
        for (int j = 0; j < 8; ++j) {
            int c = vector * 8 + j;
            x.v[j] = c < p.channels ? from[c * p.by_channel] : 0.0f;
        }
        store((T *)p.to, pixel * vectors + vector, x);
    }
}

FOR_EACH_TYPE(layout_images, images)

struct layout_pixels_arguments {
    const void *from;
    float *to; // [pixels, channels]
    long long pixels;
    int channels, pitch;
};

// Writes images as floats without the padding.
template <typename T> static __device__ void pixels(const layout_pixels_arguments &p) {
    int vectors = p.pitch / 8;
    long long all = p.pixels * vectors, step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += step) {
        long long pixel = i / vectors;
        int c = (int)(i % vectors) * 8;
        Eight x = load((const T *)p.from, i);
        for (int j = 0; j < 8 && c + j < p.channels; ++j) p.to[pixel * p.channels + c + j] = x.v[j];
    }
}

FOR_EACH_TYPE(layout_pixels, pixels)

struct layout_add_arguments {
    void *to;
    const void *add;
    long long vectors;
};

// to += add
template <typename T> static __device__ void add(const layout_add_arguments &p) {
    long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < p.vectors; i += step) {
        Eight a = load((const T *)p.to, i), b = load((const T *)p.add, i);
        for (int j = 0; j < 8; ++j) a.v[j] += b.v[j];
        store((T *)p.to, i, a);
    }
}

FOR_EACH_TYPE(layout_add, add)

// ---- Parameters --------------------------------------------------------------------------------------------------------

#define MOST_PARAMETERS 80
#define THREADS 256

struct Parameter {
    const void *from;
    void *to;
    int first_block; // of the grid that is this parameter's
    int outputs, inputs, window;
    int padded_outputs, pitch; // of the side that is channels last
    int plain;                 // a vector of `inputs` floats, which is copied
    int unused;
};

struct layout_parameters_arguments {
    Parameter parameters[MOST_PARAMETERS];
    int count;
    int unused;
};

// The parameter that a block works on, and the thread's index in it: a binary search over the first blocks.
static __device__ __forceinline__ int parameter_of(const layout_parameters_arguments &p, long long &index) {
    int low = 0, high = p.count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (p.parameters[middle].first_block <= (int)blockIdx.x) low = middle;
        else high = middle - 1;
    }
    index = ((long long)blockIdx.x - p.parameters[low].first_block) * THREADS + threadIdx.x;
    return low;
}

// Weights [O, I, window] to [padded O, window, pitch]. A thread takes eight inputs of an output: what it reads follows each
// other, what it writes lies beside what its neighbors write.
template <typename T> static __device__ void filters(const layout_parameters_arguments &p) {
    long long index;
    const Parameter &parameter = p.parameters[parameter_of(p, index)];
    int vectors = parameter.pitch / 8;
    if (index >= (long long)parameter.padded_outputs * vectors) return;
    int output = (int)(index / vectors), vector = (int)(index % vectors), window = parameter.window;
    const float *from = (const float *)parameter.from + ((long long)output * parameter.inputs + vector * 8) * window;
    for (int w = 0; w < window; ++w) {
        Eight x;
        for (int j = 0; j < 8; ++j) {
            bool there = output < parameter.outputs && vector * 8 + j < parameter.inputs;
            x.v[j] = there ? from[j * window + w] : 0.0f;
        }
        store((T *)parameter.to, ((long long)output * window + w) * vectors + vector, x);
    }
}

FOR_EACH_TYPE_OF(layout_filters, filters, layout_parameters_arguments)

// Gradients [padded O, window, pitch] to [O, I, window], with the window known where it is a usual one, so that a thread
// holds all it writes, which is in one piece.
template <typename T, int WINDOW> static __device__ void gradients_of_window(const Parameter &parameter, long long index) {
    int vectors = parameter.pitch / 8;
    int output = (int)(index / vectors), vector = (int)(index % vectors);
    if (output >= parameter.outputs) return;
    float values[WINDOW * 8];
#pragma unroll
    for (int w = 0; w < WINDOW; ++w) {
        Eight x = load((const T *)parameter.from, ((long long)output * WINDOW + w) * vectors + vector);
#pragma unroll
        for (int j = 0; j < 8; ++j) values[j * WINDOW + w] = x.v[j];
    }
    float *to = (float *)parameter.to + ((long long)output * parameter.inputs + vector * 8) * WINDOW;
    if (parameter.inputs % 8 == 0) {
        float4 *wide = reinterpret_cast<float4 *>(to);
#pragma unroll
        for (int i = 0; i < WINDOW * 2; ++i)
            wide[i] = make_float4(values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < WINDOW * 8; ++i)
            if (vector * 8 + i / WINDOW < parameter.inputs) to[i] = values[i];
    }
}

template <typename T> static __device__ void gradients(const layout_parameters_arguments &p) {
    long long index;
    const Parameter &parameter = p.parameters[parameter_of(p, index)];
    if (parameter.plain) {
        for (int j = 0; j < 8; ++j) {
            long long i = index * 8 + j;
            if (i < parameter.inputs) ((float *)parameter.to)[i] = ((const float *)parameter.from)[i];
        }
        return;
    }
    if (parameter.window == 9) return gradients_of_window<T, 9>(parameter, index);
    if (parameter.window == 1) return gradients_of_window<T, 1>(parameter, index);
    int vectors = parameter.pitch / 8, window = parameter.window;
    int output = (int)(index / vectors), vector = (int)(index % vectors);
    if (output >= parameter.outputs) return;
    for (int w = 0; w < window; ++w) {
        Eight x = load((const T *)parameter.from, ((long long)output * window + w) * vectors + vector);
        for (int j = 0; j < 8; ++j) {
            int input = vector * 8 + j;
            if (input < parameter.inputs)
                ((float *)parameter.to)[((long long)output * parameter.inputs + input) * window + w] = x.v[j];
        }
    }
}

FOR_EACH_TYPE_OF(layout_gradients, gradients, layout_parameters_arguments)
