// Average pooling over windows that tile the image; see mod.rs. A thread takes eight channels of a window or pixel.
#include "cuda/vector.cuh"

struct pool_arguments {
    void *images;    // [N, H, W, pitch]
    float *features; // [N, H / window, W / window, channels]
    int batch, height, width, window, channels, pitch;
};

template <typename T> static __device__ void forward(const pool_arguments &p) {
    int vectors = p.pitch / 8, columns = p.width / p.window;
    long long windows = (long long)p.batch * (p.height / p.window) * columns, all = windows * vectors;
    long long step = (long long)gridDim.x * blockDim.x;
    float share = 1.0f / (float)(p.window * p.window);
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += step) {
        long long at = i / vectors;
        int vector = (int)(i % vectors);
        // Lines of windows follow each other from image to image.
        long long first = at / columns * p.window * p.width + at % columns * p.window;
        Eight sum = {};
        for (int row = 0; row < p.window; ++row) {
#pragma unroll 4
            for (int column = 0; column < p.window; ++column) {
                long long pixel = first + (long long)row * p.width + column;
                Eight x = load((const T *)p.images, pixel * vectors + vector);
#pragma unroll
                for (int j = 0; j < 8; ++j) sum.v[j] += x.v[j];
            }
        }
        for (int j = 0; j < 8 && vector * 8 + j < p.channels; ++j)
            p.features[at * p.channels + vector * 8 + j] = sum.v[j] * share;
    }
}

FOR_EACH_TYPE_OF(pool_forward, forward, pool_arguments)

template <typename T> static __device__ void backward(const pool_arguments &p) {
    int vectors = p.pitch / 8, columns = p.width / p.window;
    long long all = (long long)p.batch * p.height * p.width * vectors, step = (long long)gridDim.x * blockDim.x;
    float share = 1.0f / (float)(p.window * p.window);
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += step) {
        long long pixel = i / vectors;
        int c = (int)(i % vectors) * 8;
        long long at = pixel / p.width / p.window * columns + pixel % p.width / p.window;
        Eight x;
        for (int j = 0; j < 8; ++j) x.v[j] = c + j < p.channels ? p.features[at * p.channels + c + j] * share : 0.0f;
        store((T *)p.images, i, x);
    }
}

FOR_EACH_TYPE_OF(pool_backward, backward, pool_arguments)
