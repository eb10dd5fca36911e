// Eight neighboring channels of one pixel, as the kernels take them: one 16-byte access of bfloat16, two of float. Images
// are channels last, with the number of channels padded to a multiple of eight (the pitch) by channels of zeros, so that
// no access is ever partial or misaligned.
//
// The code compiles as C++ too, under the shim of the tests.
#pragma once

typedef unsigned short bf16; // its bits

struct Eight {
    float v[8];
};

static __device__ __forceinline__ float from_bits(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// Two floats to two bfloat16, rounded to nearest even; the first in the low half.
static __device__ __forceinline__ unsigned narrow(float low, float high) {
#ifdef __CUDA_ARCH__
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    unsigned halves[2];
    float values[2] = {low, high};
    for (int i = 0; i < 2; ++i) {
        unsigned bits;
        memcpy(&bits, &values[i], sizeof bits);
        bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
        halves[i] = nan ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    }
    return halves[0] | (halves[1] << 16);
#endif
}

// Vector number `index` of `from`, which is aligned to 16 bytes.
static __device__ __forceinline__ Eight load(const float *from, long long index) {
    const float4 *at = reinterpret_cast<const float4 *>(from) + 2 * index;
    float4 a = at[0], b = at[1];
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

static __device__ __forceinline__ Eight load(const bf16 *from, long long index) {
    uint4 raw = reinterpret_cast<const uint4 *>(from)[index];
    unsigned pairs[4] = {raw.x, raw.y, raw.z, raw.w};
    Eight x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        x.v[2 * i] = from_bits(pairs[i] << 16);
        x.v[2 * i + 1] = from_bits(pairs[i] & 0xffff0000u);
    }
    return x;
}

// Stores, and gives back what a later load will find: the values as the type holds them.
static __device__ __forceinline__ Eight store(float *to, long long index, Eight x) {
    float4 *at = reinterpret_cast<float4 *>(to) + 2 * index;
    at[0] = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
    at[1] = make_float4(x.v[4], x.v[5], x.v[6], x.v[7]);
    return x;
}

static __device__ __forceinline__ Eight store(bf16 *to, long long index, Eight x) {
    unsigned pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        pairs[i] = narrow(x.v[2 * i], x.v[2 * i + 1]);
        x.v[2 * i] = from_bits(pairs[i] << 16);
        x.v[2 * i + 1] = from_bits(pairs[i] & 0xffff0000u);
    }
    reinterpret_cast<uint4 *>(to)[index] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    return x;
}

// A kernel for each type of activations.
#define FOR_EACH_TYPE(name, body) FOR_EACH_TYPE_OF(name, body, name##_arguments)
#define FOR_EACH_TYPE_OF(name, body, arguments)                                                                        \
    extern "C" __global__ void name##_f32(arguments p) { body<float>(p); }                                      \
    extern "C" __global__ void name##_bf16(arguments p) { body<bf16>(p); }
