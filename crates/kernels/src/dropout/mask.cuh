// A dropout mask from a counter, to the bit that of `dropout::Mask`.
#pragma once

struct Mask {
    unsigned long long key;
    unsigned long long threshold; // 0 where nothing is dropped
    float scale;
};

static __device__ __forceinline__ float mask_factor(const Mask &mask, unsigned long long element) {
    unsigned long long z = mask.key + (element + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) < mask.threshold ? 0.0f : mask.scale;
}
