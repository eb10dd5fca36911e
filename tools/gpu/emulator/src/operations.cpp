// What each instruction does to the lanes of a warp.
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <limits>
#include <type_traits>

#include "bf16.h"
#include "warp.h"

namespace emulator {

namespace {

using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

template <class T>
struct Tag {
    using type = T;
};

/// Calls `f` with the tag of an integer type, or of none (false).
template <class F>
bool integer(const std::string& type, F f) {
    if (type == "u8" || type == "b8") return f(Tag<u8>()), true;
    if (type == "u16" || type == "b16") return f(Tag<u16>()), true;
    if (type == "u32" || type == "b32") return f(Tag<u32>()), true;
    if (type == "u64" || type == "b64") return f(Tag<u64>()), true;
    if (type == "s8") return f(Tag<s8>()), true;
    if (type == "s16") return f(Tag<s16>()), true;
    if (type == "s32") return f(Tag<s32>()), true;
    if (type == "s64") return f(Tag<s64>()), true;
    return false;
}

template <class F>
bool floating(const std::string& type, F f) {
    if (type == "f32") return f(Tag<float>()), true;
    if (type == "f64") return f(Tag<double>()), true;
    return false;
}

template <class F>
bool any(const std::string& type, F f) {
    return integer(type, f) || floating(type, f);
}

// ---- Instructions of one, two and three values of a type. `F` has a static `of`.

template <class T, class F>
void unary(Warp& w, const Instruction& i, Lanes lanes) {
    const u64* a = w.slot(i.operand[1]);
    each(w, i.operand[0], lanes, [&](unsigned l) { return put(F::of(get<T>(a[l]))); });
}

template <class T, class F>
void binary(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *a = w.slot(i.operand[1]), *b = w.slot(i.operand[2]);
    each(w, i.operand[0], lanes, [&](unsigned l) { return put(F::of(get<T>(a[l]), get<T>(b[l]))); });
}

template <class T, class F>
void ternary(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *a = w.slot(i.operand[1]), *b = w.slot(i.operand[2]), *c = w.slot(i.operand[3]);
    each(w, i.operand[0], lanes, [&](unsigned l) { return put(F::of(get<T>(a[l]), get<T>(b[l]), get<T>(c[l]))); });
}

/// An operation by name: `T of(values…)`, for arithmetic in an unsigned type where overflow wraps.
#define OPERATION(name, arguments, ...) \
    struct name {                       \
        template <class T>              \
        static auto of arguments {      \
            __VA_ARGS__;                \
        }                               \
    };

template <class T>
auto wide(T x) {
    if constexpr (std::is_integral_v<T>)
        return std::make_unsigned_t<T>(x);
    else
        return x;
}

OPERATION(Add, (T a, T b), return T(wide(a) + wide(b)))
OPERATION(Sub, (T a, T b), return T(wide(a) - wide(b)))
OPERATION(Min, (T a, T b), if constexpr (std::is_integral_v<T>) return std::min(a, b); else return T(std::fmin(a, b)))
OPERATION(Max, (T a, T b), if constexpr (std::is_integral_v<T>) return std::max(a, b); else return T(std::fmax(a, b)))
OPERATION(And, (T a, T b), return T(a & b))
OPERATION(Or, (T a, T b), return T(a | b))
OPERATION(Xor, (T a, T b), return T(a ^ b))
OPERATION(Not, (T a), return T(~a))
OPERATION(Move, (T a), return a)
OPERATION(Neg, (T a), if constexpr (std::is_integral_v<T>) return T(0 - wide(a)); else return -a)
OPERATION(Abs, (T a), if constexpr (std::is_integral_v<T>) return a < 0 ? T(0 - wide(a)) : a;
          else return T(std::fabs(a)))
OPERATION(Sqrt, (T a), return T(std::sqrt(a)))
OPERATION(Rsqrt, (T a), return T(1 / std::sqrt(double(a))))
OPERATION(Rcp, (T a), return T(1 / a))
OPERATION(Ex2, (T a), return T(std::exp2(double(a))))
OPERATION(Lg2, (T a), return T(std::log2(double(a))))
OPERATION(Sin, (T a), return T(std::sin(double(a))))
OPERATION(Cos, (T a), return T(std::cos(double(a))))
OPERATION(Tanh, (T a), return T(std::tanh(double(a))))
OPERATION(Copysign, (T a, T b), return T(std::copysign(b, a)))
OPERATION(Fma, (T a, T b, T c), return T(std::fma(a, b, c)))
OPERATION(Popc, (T a), return u32(__builtin_popcountll(u64(std::make_unsigned_t<T>(a)))))
OPERATION(Clz, (T a),
          return u32(a == 0 ? 8 * sizeof(T) : __builtin_clzll(u64(std::make_unsigned_t<T>(a))) - (64 - 8 * sizeof(T))))

struct Mul {
    template <class T>
    static T of(T a, T b) {
        if constexpr (std::is_integral_v<T>)
            return T(u64(a) * u64(b));
        else
            return a * b;
    }
};

struct MulHigh {
    template <class T>
    static T of(T a, T b) {
        using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
        return T((Wide(a) * Wide(b)) >> (8 * sizeof(T)));
    }
};

struct Mad {
    template <class T>
    static T of(T a, T b, T c) {
        return T(u64(a) * u64(b) + u64(c));
    }
};

/// Of a division by zero the hardware gives all bits.
struct Div {
    template <class T>
    static T of(T a, T b) {
        if constexpr (!std::is_integral_v<T>)
            return a / b;
        else if (b == 0)
            return T(~T(0));
        else if (std::is_signed_v<T> && b == T(-1))
            return T(0 - wide(a));
        else
            return T(a / b);
    }
};

struct Rem {
    template <class T>
    static T of(T a, T b) {
        if (b == 0) return a;
        if (std::is_signed_v<T> && b == T(-1)) return 0;
        return T(a % b);
    }
};

/// Shifts by more than there is give what a shift by one after the other would.
template <class T>
void shift_left(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *a = w.slot(i.operand[1]), *b = w.slot(i.operand[2]);
    each(w, i.operand[0], lanes, [&](unsigned l) {
        u32 by = get<u32>(b[l]);
        return put(by >= 8 * sizeof(T) ? T(0) : T(wide(get<T>(a[l])) << by));
    });
}

template <class T>
void shift_right(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *a = w.slot(i.operand[1]), *b = w.slot(i.operand[2]);
    each(w, i.operand[0], lanes, [&](unsigned l) {
        u32 by = get<u32>(b[l]), most = 8 * sizeof(T) - 1;
        return put(by > most ? T(get<T>(a[l]) >> most >> 1) : T(get<T>(a[l]) >> by));
    });
}

/// `mul.wide` and `mad.wide`: the product in twice the bits.
template <class T, class Wide>
void multiply_wide(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *a = w.slot(i.operand[1]), *b = w.slot(i.operand[2]),
              *c = i.operand[3] < 0 ? nullptr : w.slot(i.operand[3]);
    each(w, i.operand[0], lanes, [&](unsigned l) {
        Wide product = Wide(u64(Wide(get<T>(a[l]))) * u64(Wide(get<T>(b[l]))));
        return put(Wide(u64(product) + (c == nullptr ? 0 : u64(get<Wide>(c[l])))));
    });
}

/// `fma` rounded downwards or upwards.
template <int MODE>
void fma_directed(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *a = w.slot(i.operand[1]), *b = w.slot(i.operand[2]), *c = w.slot(i.operand[3]);
    int before = std::fegetround();
    std::fesetround(MODE);
    each(w, i.operand[0], lanes, [&](unsigned l) {
        volatile float x = get<float>(a[l]), y = get<float>(b[l]), z = get<float>(c[l]);
        volatile float sum = std::fma(x, y, z);
        return put(float(sum));
    });
    std::fesetround(before);
}

// ---- Comparisons and choices.

template <class T, bool ORDERED, class F>
void compare(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *a = w.slot(i.operand[1]), *b = w.slot(i.operand[2]);
    each(w, i.operand[0], lanes, [&](unsigned l) -> u64 {
        T x = get<T>(a[l]), y = get<T>(b[l]);
        if constexpr (!std::is_integral_v<T>) {
            if (std::isnan(x) || std::isnan(y)) return !ORDERED;
        }
        return F::of(x, y);
    });
}

OPERATION(Eq, (T a, T b), return a == b)
OPERATION(Ne, (T a, T b), return a != b)
OPERATION(Lt, (T a, T b), return a < b)
OPERATION(Le, (T a, T b), return a <= b)
OPERATION(Gt, (T a, T b), return a > b)
OPERATION(Ge, (T a, T b), return a >= b)
OPERATION(Never, (T, T), return false)
OPERATION(Always, (T, T), return true)

template <class T>
Operation comparison(const std::string& how) {
    if (how == "eq") return compare<T, true, Eq>;
    if (how == "ne") return compare<T, true, Ne>;
    if (how == "lt" || how == "lo") return compare<T, true, Lt>;
    if (how == "le" || how == "ls") return compare<T, true, Le>;
    if (how == "gt" || how == "hi") return compare<T, true, Gt>;
    if (how == "ge" || how == "hs") return compare<T, true, Ge>;
    if (how == "equ") return compare<T, false, Eq>;
    if (how == "neu") return compare<T, false, Ne>;
    if (how == "ltu") return compare<T, false, Lt>;
    if (how == "leu") return compare<T, false, Le>;
    if (how == "gtu") return compare<T, false, Gt>;
    if (how == "geu") return compare<T, false, Ge>;
    if (how == "num") return compare<T, true, Always>;
    if (how == "nan") return compare<T, false, Never>;
    return nullptr;
}

template <class T>
void select(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *a = w.slot(i.operand[1]), *b = w.slot(i.operand[2]), *which = w.slot(i.operand[3]);
    each(w, i.operand[0], lanes, [&](unsigned l) { return put(get<T>(which[l] & 1 ? a[l] : b[l])); });
}

void not_predicate(Warp& w, const Instruction& i, Lanes lanes) {
    const u64* a = w.slot(i.operand[1]);
    each(w, i.operand[0], lanes, [&](unsigned l) { return ~a[l] & 1; });
}

// ---- Bits.

template <class T>
void extract_bits(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *a = w.slot(i.operand[1]), *at = w.slot(i.operand[2]), *count = w.slot(i.operand[3]);
    each(w, i.operand[0], lanes, [&](unsigned l) {
        constexpr u32 BITS = 8 * sizeof(T);
        u32 from = at[l] & 0xff, len = count[l] & 0xff;
        auto x = get<std::make_unsigned_t<T>>(a[l]);
        if (len == 0) return put(T(0));
        bool sign = std::is_signed_v<T> && (x >> std::min(from + len - 1, BITS - 1) & 1);
        x = from >= BITS ? 0 : x >> from;
        if (len < BITS) {
            x &= (decltype(x)(1) << len) - 1;
            if (sign) x |= ~((decltype(x)(1) << len) - 1);
        }
        return put(T(x));
    });
}

template <class T>
void insert_bits(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *a = w.slot(i.operand[1]), *b = w.slot(i.operand[2]), *at = w.slot(i.operand[3]),
              *count = w.slot(i.operand[4]);
    each(w, i.operand[0], lanes, [&](unsigned l) {
        constexpr u32 BITS = 8 * sizeof(T);
        u32 from = at[l] & 0xff, len = count[l] & 0xff;
        T x = get<T>(b[l]);
        if (len == 0 || from >= BITS) return put(x);
        T mask = T((len >= BITS ? T(~T(0)) : T((T(1) << len) - 1)) << from);
        return put(T((x & ~mask) | (T(get<T>(a[l]) << from) & mask)));
    });
}

void permute_bytes(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *a = w.slot(i.operand[1]), *b = w.slot(i.operand[2]), *c = w.slot(i.operand[3]);
    each(w, i.operand[0], lanes, [&](unsigned l) {
        u64 bytes = u64(get<u32>(b[l])) << 32 | get<u32>(a[l]);
        u32 out = 0;
        for (unsigned n = 0; n < 4; ++n) {
            u32 choice = u32(c[l]) >> (4 * n) & 15, byte = u32(bytes >> (8 * (choice & 7))) & 0xff;
            out |= (choice & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << (8 * n);
        }
        return put(out);
    });
}

template <bool LEFT, bool WRAP>
void funnel_shift(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *a = w.slot(i.operand[1]), *b = w.slot(i.operand[2]), *c = w.slot(i.operand[3]);
    each(w, i.operand[0], lanes, [&](unsigned l) {
        u32 by = WRAP ? u32(c[l]) & 31 : std::min<u32>(u32(c[l]), 32);
        u64 both = u64(get<u32>(b[l])) << 32 | get<u32>(a[l]);
        return put(LEFT ? u32((by == 0 ? both : both << by) >> 32) : u32(both >> by));
    });
}

/// `mov {a, b}, c` and `mov c, {a, b}`: values of `bytes` each side by side.
void unpack(Warp& w, const Instruction& i, Lanes lanes) {
    unsigned bits = 8 * i.bytes / i.vector;
    const u64* from = w.slot(i.operand[i.vector]);
    u64 whole[LANES];
    std::copy_n(from, LANES, whole);
    for (unsigned n = 0; n < i.vector; ++n) {
        each(w, i.operand[n], lanes, [&](unsigned l) { return whole[l] >> (bits * n) & ((u64(1) << bits) - 1); });
    }
}

void pack(Warp& w, const Instruction& i, Lanes lanes) {
    unsigned bits = 8 * i.bytes / i.vector;
    each(w, i.operand[0], lanes, [&](unsigned l) {
        u64 whole = 0;
        for (unsigned n = 0; n < i.vector; ++n)
            whole |= (w.slot(i.operand[1 + n])[l] & ((u64(1) << bits) - 1)) << (bits * n);
        return whole;
    });
}

// ---- Conversions.

enum class Round { Nearest, Zero, Down, Up };

template <Round ROUND, class T>
T to_integer(T x) {
    switch (ROUND) {
        case Round::Zero: return std::trunc(x);
        case Round::Down: return std::floor(x);
        case Round::Up: return std::ceil(x);
        default: return std::nearbyint(x);
    }
}

template <class To, class From, Round ROUND, bool INTEGRAL, bool SATURATE>
void convert(Warp& w, const Instruction& i, Lanes lanes) {
    const u64* a = w.slot(i.operand[1]);
    each(w, i.operand[0], lanes, [&](unsigned l) {
        From x = get<From>(a[l]);
        if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
            if (std::isnan(x)) return put(To(0));
            From y = to_integer<ROUND>(x);
            if (y < From(std::numeric_limits<To>::min())) return put(std::numeric_limits<To>::min());
            if (y >= From(std::numeric_limits<To>::max())) return put(std::numeric_limits<To>::max());
            return put(To(y));
        } else if constexpr (std::is_integral_v<To> && std::is_integral_v<From>) {
            // Registers may be wider than the type: signs are extended.
            if constexpr (std::is_signed_v<To>)
                return u64(s64(To(x)));
            else
                return put(To(x));
        } else {
            To y = INTEGRAL && std::is_floating_point_v<From> ? To(to_integer<ROUND>(double(x))) : To(x);
            if (SATURATE) y = std::isnan(y) ? To(0) : std::min(std::max(y, To(0)), To(1));
            return put(y);
        }
    });
}

template <class To, class From>
Operation conversion(const std::vector<std::string>& m) {
    bool integral = false, saturate = false;
    auto round = Round::Nearest;
    for (const std::string& part : m) {
        if (part == "rzi" || part == "rz") round = Round::Zero;
        if (part == "rmi" || part == "rm") round = Round::Down;
        if (part == "rpi" || part == "rp") round = Round::Up;
        if (part.size() == 3 && part[0] == 'r' && part[2] == 'i') integral = true;
        if (part == "sat") saturate = true;
    }
    // Rounding between floating-point types that is not to nearest is not there.
    if (!integral && round != Round::Nearest) return nullptr;
    if (saturate)
        return integral || std::is_integral_v<To> ? nullptr : Operation(convert<To, From, Round::Nearest, false, true>);
    if (!integral) return convert<To, From, Round::Nearest, false, false>;
    switch (round) {
        case Round::Zero: return convert<To, From, Round::Zero, true, false>;
        case Round::Down: return convert<To, From, Round::Down, true, false>;
        case Round::Up: return convert<To, From, Round::Up, true, false>;
        default: return convert<To, From, Round::Nearest, true, false>;
    }
}

void to_bf16(Warp& w, const Instruction& i, Lanes lanes) {
    const u64* a = w.slot(i.operand[1]);
    each(w, i.operand[0], lanes, [&](unsigned l) { return u64(narrow(get<float>(a[l])).bits); });
}

void to_bf16x2(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *high = w.slot(i.operand[1]), *low = w.slot(i.operand[2]);
    each(w, i.operand[0], lanes,
         [&](unsigned l) { return u64(narrow(get<float>(high[l])).bits) << 16 | narrow(get<float>(low[l])).bits; });
}

void from_bf16(Warp& w, const Instruction& i, Lanes lanes) {
    const u64* a = w.slot(i.operand[1]);
    each(w, i.operand[0], lanes, [&](unsigned l) { return put(widen({u16(a[l])})); });
}

// ---- Memory.

/// Loads sign-extend, as registers may be wider than what is read.
template <class T>
void load(Warp& w, const Instruction& i, Lanes lanes) {
    u64 addresses[LANES];
    std::copy_n(w.slot(i.operand[i.vector]), LANES, addresses);
    for (Lanes rest = lanes; rest != 0; rest &= rest - 1) {
        unsigned l = unsigned(__builtin_ctz(rest));
        const char* from = w.at(i.space, addresses[l] + u64(i.offset), sizeof(T) * i.vector, l, "reads");
        for (unsigned n = 0; n < i.vector; ++n) {
            T value;
            std::memcpy(&value, from + n * sizeof(T), sizeof(T));
            if constexpr (std::is_integral_v<T> && std::is_signed_v<T>)
                w.slot(i.operand[n])[l] = u64(s64(value));
            else
                w.slot(i.operand[n])[l] = put(value);
        }
    }
}

template <class T>
void store(Warp& w, const Instruction& i, Lanes lanes) {
    const u64* addresses = w.slot(i.operand[0]);
    for (Lanes rest = lanes; rest != 0; rest &= rest - 1) {
        unsigned l = unsigned(__builtin_ctz(rest));
        char* to = w.at(i.space, addresses[l] + u64(i.offset), sizeof(T) * i.vector, l, "writes");
        for (unsigned n = 0; n < i.vector; ++n)
            std::memcpy(to + n * sizeof(T), &w.slot(i.operand[1 + n])[l], sizeof(T));
    }
}

OPERATION(Exchange, (T, T b), return b)

template <class T, class F, bool RESULT>
void atomic(Warp& w, const Instruction& i, Lanes lanes) {
    int first = RESULT ? 1 : 0;
    const u64 *addresses = w.slot(i.operand[first]), *values = w.slot(i.operand[first + 1]);
    for (Lanes rest = lanes; rest != 0; rest &= rest - 1) {
        unsigned l = unsigned(__builtin_ctz(rest));
        char* at = w.at(i.space, addresses[l] + u64(i.offset), sizeof(T), l, "changes");
        T old;
        std::memcpy(&old, at, sizeof(T));
        T fresh = F::of(old, get<T>(values[l]));
        std::memcpy(at, &fresh, sizeof(T));
        if (RESULT) w.slot(i.operand[0])[l] = put(old);
    }
}

template <class T>
void compare_and_swap(Warp& w, const Instruction& i, Lanes lanes) {
    const u64 *addresses = w.slot(i.operand[1]), *expected = w.slot(i.operand[2]), *values = w.slot(i.operand[3]);
    for (Lanes rest = lanes; rest != 0; rest &= rest - 1) {
        unsigned l = unsigned(__builtin_ctz(rest));
        char* at = w.at(i.space, addresses[l] + u64(i.offset), sizeof(T), l, "changes");
        T old;
        std::memcpy(&old, at, sizeof(T));
        if (old == get<T>(expected[l])) std::memcpy(at, &values[l], sizeof(T));
        w.slot(i.operand[0])[l] = put(old);
    }
}

template <class T, bool RESULT>
Operation atomic_operation(const std::string& how) {
    if (how == "add") return atomic<T, Add, RESULT>;
    if (how == "min") return atomic<T, Min, RESULT>;
    if (how == "max") return atomic<T, Max, RESULT>;
    if (how == "exch") return atomic<T, Exchange, RESULT>;
    if constexpr (std::is_integral_v<T>) {
        if (how == "and") return atomic<T, And, RESULT>;
        if (how == "or") return atomic<T, Or, RESULT>;
        if (how == "xor") return atomic<T, Xor, RESULT>;
        if (RESULT && how == "cas") return compare_and_swap<T>;
    }
    return nullptr;
}

/// To and from the addresses that a window's are among all.
template <Space SPACE, bool TO>
void convert_address(Warp& w, const Instruction& i, Lanes lanes) {
    const u64* a = w.slot(i.operand[1]);
    each(w, i.operand[0], lanes, [&](unsigned l) -> u64 {
        u64 start = 0;
        if (SPACE == Space::Shared) start = Warp::base(w.block.shared);
        if (SPACE == Space::Parameter) start = Warp::base(w.block.parameters);
        if (SPACE == Space::Local) start = Warp::base(w.local) + u64(l) * w.block.kernel.local_bytes;
        return TO ? a[l] - start : a[l] + start;
    });
}

// ---- Between lanes. Their last operand, the lanes that take part, is in place 7.

enum class Shuffle { Butterfly, Down, Up, Index };

template <Shuffle HOW>
void shuffle(Warp& w, const Instruction& i, Lanes lanes) {
    u64 values[LANES];
    std::copy_n(w.slot(i.operand[2]), LANES, values);
    const u64 *b = w.slot(i.operand[3]), *c = w.slot(i.operand[4]);
    for (Lanes rest = lanes; rest != 0; rest &= rest - 1) {
        unsigned l = unsigned(__builtin_ctz(rest));
        unsigned by = unsigned(b[l]) & 31, clamp = unsigned(c[l]) & 31, segment = unsigned(c[l]) >> 8 & 31;
        unsigned most = (l & segment) | (clamp & ~segment), least = l & segment;
        int from = 0;
        bool inside = false;
        switch (HOW) {
            case Shuffle::Butterfly: from = int(l ^ by), inside = from <= int(most); break;
            case Shuffle::Down: from = int(l + by), inside = from <= int(most); break;
            case Shuffle::Up: from = int(l) - int(by), inside = from >= int(most); break;
            case Shuffle::Index: from = int(least | (by & ~segment)), inside = from <= int(most); break;
        }
        // From a lane that has ended or is not there comes anything: here what no sum survives.
        bool there = inside && (lanes >> from & 1);
        w.slot(i.operand[0])[l] = !inside ? values[l] & 0xffffffff : there ? values[from] & 0xffffffff : 0xffffffff;
        w.slot(i.operand[1])[l] = inside;
    }
}

enum class Vote { All, Any, Ballot };

template <Vote HOW>
void vote(Warp& w, const Instruction& i, Lanes lanes) {
    Lanes yes = 0;
    for (Lanes rest = lanes; rest != 0; rest &= rest - 1) {
        unsigned l = unsigned(__builtin_ctz(rest));
        if (w.slot(i.operand[1])[l] & 1) yes |= Lanes(1) << l;
    }
    each(w, i.operand[0], lanes, [&](unsigned) -> u64 {
        return HOW == Vote::All ? yes == lanes : HOW == Vote::Any ? yes != 0 : yes;
    });
}

bool has(const std::vector<std::string>& parts, const char* what) {
    return std::find(parts.begin(), parts.end(), what) != parts.end();
}

Space space_of(const std::vector<std::string>& m) {
    if (has(m, "global") || has(m, "const")) return Space::Global;
    if (has(m, "shared")) return Space::Shared;
    if (has(m, "local")) return Space::Local;
    if (has(m, "param")) return Space::Parameter;
    return Space::Generic;
}

}  // namespace

Operation find_operation(const std::vector<std::string>& m, Instruction& instruction) {
    const std::string &name = m[0], &type = m.back();
    Operation found = nullptr;
    auto integers = [&](auto make) { integer(type, [&](auto tag) { found = make(tag); }); };
    auto floats = [&](auto make) { floating(type, [&](auto tag) { found = make(tag); }); };
    auto all = [&](auto make) { any(type, [&](auto tag) { found = make(tag); }); };
#define T typename decltype(tag)::type
#define UNARY(F) [](auto tag) -> Operation { return unary<T, F>; }
#define BINARY(F) [](auto tag) -> Operation { return binary<T, F>; }
    // What a GPU rounds upwards or to zero, or flushes, is not looked at but where it is asked for below.
    if (name == "add")
        all(BINARY(Add));
    else if (name == "sub")
        all(BINARY(Sub));
    else if (name == "min")
        all(BINARY(Min));
    else if (name == "max")
        all(BINARY(Max));
    else if (name == "div")
        all(BINARY(Div));
    else if (name == "rem")
        integers(BINARY(Rem));
    else if (name == "mul" || name == "mad") {
        bool mad = name == "mad";
        if (has(m, "wide")) {
            if (type == "u32") found = multiply_wide<u32, u64>;
            if (type == "s32") found = multiply_wide<s32, s64>;
            if (type == "u16") found = multiply_wide<u16, u32>;
            if (type == "s16") found = multiply_wide<s16, s32>;
        } else if (has(m, "hi") && !mad) {
            integers(BINARY(MulHigh));
        } else if (mad) {
            if (has(m, "lo"))
                integers([](auto tag) -> Operation { return ternary<T, Mad>; });
            else
                floats([](auto tag) -> Operation { return ternary<T, Fma>; });
        } else {
            all(BINARY(Mul));
        }
    } else if (name == "fma") {
        if (has(m, "rm") && type == "f32")
            found = fma_directed<FE_DOWNWARD>;
        else if (has(m, "rp") && type == "f32")
            found = fma_directed<FE_UPWARD>;
        else if (has(m, "rn"))
            floats([](auto tag) -> Operation { return ternary<T, Fma>; });
    } else if (name == "and" || name == "or" || name == "xor") {
        if (type == "pred")
            found = name == "and" ? binary<u8, And> : name == "or" ? binary<u8, Or> : binary<u8, Xor>;
        else if (name == "and")
            integers(BINARY(And));
        else if (name == "or")
            integers(BINARY(Or));
        else
            integers(BINARY(Xor));
    } else if (name == "not") {
        if (type == "pred")
            found = not_predicate;
        else
            integers(UNARY(Not));
    } else if (name == "mov") {
        if (has(m, "unpack") || has(m, "pack")) {
            integers([&](auto tag) -> Operation {
                instruction.bytes = sizeof(T);
                return has(m, "pack") ? pack : unpack;
            });
        } else if (type == "pred") {
            found = unary<u8, Move>;
        } else {
            all(UNARY(Move));
        }
    } else if (name == "neg")
        all(UNARY(Neg));
    else if (name == "abs")
        all(UNARY(Abs));
    else if (name == "sqrt")
        floats(UNARY(Sqrt));
    else if (name == "rsqrt")
        floats(UNARY(Rsqrt));
    else if (name == "rcp")
        floats(UNARY(Rcp));
    else if (name == "ex2")
        floats(UNARY(Ex2));
    else if (name == "lg2")
        floats(UNARY(Lg2));
    else if (name == "sin")
        floats(UNARY(Sin));
    else if (name == "cos")
        floats(UNARY(Cos));
    else if (name == "tanh")
        floats(UNARY(Tanh));
    else if (name == "copysign")
        floats(BINARY(Copysign));
    else if (name == "popc")
        integers(UNARY(Popc));
    else if (name == "clz")
        integers(UNARY(Clz));
    else if (name == "shl")
        integers([](auto tag) -> Operation { return shift_left<T>; });
    else if (name == "shr")
        integers([](auto tag) -> Operation { return shift_right<T>; });
    else if (name == "bfe")
        integers([](auto tag) -> Operation { return extract_bits<T>; });
    else if (name == "bfi") {
        if (type == "b32") found = insert_bits<u32>;
        if (type == "b64") found = insert_bits<u64>;
    } else if (name == "prmt") {
        if (type == "b32" && m.size() == 2) found = permute_bytes;
    } else if (name == "shf") {
        if (has(m, "l")) found = has(m, "wrap") ? funnel_shift<true, true> : funnel_shift<true, false>;
        if (has(m, "r")) found = has(m, "wrap") ? funnel_shift<false, true> : funnel_shift<false, false>;
    } else if (name == "setp") {
        if (m.size() == 3 || (m.size() == 4 && m[2] == "ftz"))
            all([&](auto tag) -> Operation { return comparison<T>(m[1]); });
    } else if (name == "selp") {
        all([](auto tag) -> Operation { return select<T>; });
    } else if (name == "cvt") {
        const std::string& to = m[m.size() - 2];
        if (to == "bf16x2" && type == "f32")
            found = to_bf16x2;
        else if (to == "bf16" && type == "f32")
            found = to_bf16;
        else if (to == "f32" && type == "bf16")
            found = from_bf16;
        else
            any(to, [&](auto target) {
                any(type, [&](auto tag) { found = conversion<typename decltype(target)::type, T>(m); });
            });
    } else if (name == "cvta") {
        bool to = has(m, "to");
        switch (space_of(m)) {
            case Space::Global: found = unary<u64, Move>; break;
            case Space::Shared:
                found = to ? convert_address<Space::Shared, true> : convert_address<Space::Shared, false>;
                break;
            case Space::Local:
                found = to ? convert_address<Space::Local, true> : convert_address<Space::Local, false>;
                break;
            case Space::Parameter:
                found = to ? convert_address<Space::Parameter, true> : convert_address<Space::Parameter, false>;
                break;
            case Space::Generic: break;
        }
    } else if (name == "ld" || name == "st" || name == "ldu") {
        instruction.space = space_of(m);
        instruction.vector = has(m, "v4") ? 4 : has(m, "v2") ? 2 : 1;
        bool is_load = name != "st";
        all([&](auto tag) -> Operation { return is_load ? load<T> : store<T>; });
    } else if (name == "atom" || name == "red") {
        instruction.space = space_of(m);
        bool result = name == "atom";
        all([&](auto tag) -> Operation {
            for (const char* how : {"add", "min", "max", "exch", "and", "or", "xor", "cas"}) {
                if (has(m, how)) return result ? atomic_operation<T, true>(how) : atomic_operation<T, false>(how);
            }
            return nullptr;
        });
    } else if (name == "shfl" && has(m, "sync") && type == "b32") {
        if (has(m, "bfly")) found = shuffle<Shuffle::Butterfly>;
        if (has(m, "down")) found = shuffle<Shuffle::Down>;
        if (has(m, "up")) found = shuffle<Shuffle::Up>;
        if (has(m, "idx")) found = shuffle<Shuffle::Index>;
    } else if (name == "vote" && has(m, "sync")) {
        if (has(m, "all")) found = vote<Vote::All>;
        if (has(m, "any")) found = vote<Vote::Any>;
        if (has(m, "ballot")) found = vote<Vote::Ballot>;
    }
#undef T
#undef UNARY
#undef BINARY
    return found;
}

}  // namespace emulator
