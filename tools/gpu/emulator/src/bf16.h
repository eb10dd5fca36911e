// bfloat16 by its bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulator {

struct bf16 {
    std::uint16_t bits;
};

inline float widen(bf16 x) {
    std::uint32_t bits = std::uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

/// To nearest, ties to even.
inline bf16 narrow(float x) {
    if (std::isnan(x)) return {0x7fff};
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return {std::uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

}  // namespace emulator
