// A block and its warps while they run.
#pragma once

#include <cstring>

#include "kernel.h"

namespace emulator {

struct Block {
    const Kernel& kernel;
    Memory& memory;
    std::vector<char>& parameters;
    std::vector<char> shared;
};

struct Warp {
    Block& block;
    unsigned first_thread;
    std::vector<std::uint64_t> slots;
    std::vector<char> local;
    unsigned pc[LANES] = {};
    /// The lane that met memory last.
    unsigned lane = 0;
    /// Lanes that have not ended, and those of them that wait at a barrier or an exchange.
    Lanes live = 0, waiting = 0;

    std::uint64_t* slot(int number) { return slots.data() + std::size_t(number) * LANES; }

    /// The bytes that a lane's address means.
    char* at(Space space, std::uint64_t address, std::size_t bytes, unsigned of_lane, const char* what) {
        lane = of_lane;
        if (address % bytes != 0)
            throw Fault(std::string(what) + " " + std::to_string(bytes) +
                        " bytes at an address that is no multiple of them");
        switch (space) {
            case Space::Shared: return within(block.shared, address, bytes, what, "shared memory");
            case Space::Parameter: return within(block.parameters, address, bytes, what, "the parameters");
            case Space::Local:
                return within(local, address + std::size_t(lane) * block.kernel.local_bytes, bytes, what,
                              "local memory");
            case Space::Global: return block.memory.at(address, bytes, what);
            case Space::Generic: break;
        }
        for (std::vector<char>* window : {&block.shared, &block.parameters, &local}) {
            std::uint64_t start = base(*window);
            if (address - start < window->size()) return within(*window, address - start, bytes, what, "a window");
        }
        return block.memory.at(address, bytes, what);
    }

    static std::uint64_t base(const std::vector<char>& window) {
        return reinterpret_cast<std::uint64_t>(window.data());
    }

 private:
    static char* within(std::vector<char>& window, std::uint64_t offset, std::size_t bytes, const char* what,
                        const char* which) {
        if (offset > window.size() || offset + bytes > window.size()) {
            throw Fault(std::string(what) + " " + std::to_string(bytes) + " bytes at byte " + std::to_string(offset) +
                        " of " + which + ", which has " + std::to_string(window.size()));
        }
        return window.data() + offset;
    }
};

template <class T>
T get(std::uint64_t slot) {
    T value;
    std::memcpy(&value, &slot, sizeof(T));
    return value;
}

template <class T>
std::uint64_t put(T value) {
    std::uint64_t slot = 0;
    std::memcpy(&slot, &value, sizeof(T));
    return slot;
}

/// Writes the result of a lane's function to the lanes that run.
template <class F>
void each(Warp& warp, int to, Lanes lanes, F f) {
    std::uint64_t* out = warp.slot(to);
    if (lanes == ~Lanes(0)) {
        for (unsigned lane = 0; lane < LANES; ++lane) out[lane] = f(lane);
    } else {
        for (unsigned lane = 0; lane < LANES; ++lane) {
            if (lanes >> lane & 1) out[lane] = f(lane);
        }
    }
}

}  // namespace emulator
