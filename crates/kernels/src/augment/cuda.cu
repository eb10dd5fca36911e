// Shuffle, crop, flip, normalize and cutout of a batch, from the data set's bytes: one block an image.
#include <cuda_bf16.h>

struct Augment {
    const unsigned char* images;  // [M, channels, height, width]
    const unsigned char* labels;  // [M]
    const unsigned* order;        // positions of an epoch to images
    const float* values;          // [channels, 256]: what each byte of each channel becomes
    void* out;                    // [N, height, width, channels], float or bfloat16
    unsigned* out_labels;         // [N]
    unsigned long long first;     // the batch's first position
    unsigned long long seed;
    unsigned long long flip_below, cutout_below;  // probabilities times 2^32
    unsigned epoch;
    unsigned padding;
    unsigned cutout;  // the square's side
    unsigned bf16_out;
    unsigned channels, height, width;
};

// Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011).
static __device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        unsigned high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        unsigned high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// A number below `bound`, from 32 random bits; each is drawn with the same chance within 2^-32.
static __device__ __forceinline__ int below(unsigned random, unsigned bound) { return (int)__umulhi(random, bound); }

struct Draw {
    unsigned image;
    int down, right, top, left;
    bool flip, cutout;
};

extern "C" __global__ void __launch_bounds__(256) augment(const __grid_constant__ Augment a) {
    __shared__ Draw shared_draw;
    if (threadIdx.x == 0) {
        unsigned long long position = a.first + blockIdx.x;
        uint2 key = make_uint2((unsigned)a.seed, (unsigned)(a.seed >> 32));
        uint4 counter = make_uint4((unsigned)position, (unsigned)(position >> 32), a.epoch, 0);
        uint4 r = philox(counter, key);
        counter.w = 1;
        uint4 s = philox(counter, key);
        Draw draw;
        draw.image = a.order[position];
        draw.down = below(r.x, 2 * a.padding + 1) - (int)a.padding;
        draw.right = below(r.y, 2 * a.padding + 1) - (int)a.padding;
        draw.flip = r.z < a.flip_below;
        draw.cutout = r.w < a.cutout_below;
        draw.top = below(s.x, a.height) - (int)(a.cutout / 2);
        draw.left = below(s.y, a.width) - (int)(a.cutout / 2);
        shared_draw = draw;
        a.out_labels[blockIdx.x] = a.labels[draw.image];
    }
    __syncthreads();
    Draw draw = shared_draw;
    int channels = (int)a.channels, height = (int)a.height, width = (int)a.width, plane = height * width;
    const unsigned char* image = a.images + (unsigned long long)draw.image * channels * plane;
    for (int pixel = threadIdx.x; pixel < plane; pixel += blockDim.x) {
        int y = pixel / width, x = pixel % width;
        int row = y + draw.down, column = (draw.flip ? width - 1 - x : x) + draw.right;
        bool inside = 0 <= row && row < height && 0 <= column && column < width;
        bool blank = draw.cutout && draw.top <= y && y < draw.top + (int)a.cutout && draw.left <= x &&
                     x < draw.left + (int)a.cutout;
        unsigned long long to = ((unsigned long long)blockIdx.x * plane + pixel) * channels;
        for (int channel = 0; channel < channels; ++channel) {
            int byte = inside ? image[channel * plane + row * width + column] : 0;
            float value = blank ? 0.0f : a.values[channel * 256 + byte];
            if (a.bf16_out) static_cast<__nv_bfloat16*>(a.out)[to + channel] = __float2bfloat16_rn(value);
            else static_cast<float*>(a.out)[to + channel] = value;
        }
    }
}
