// Device memory: what is allocated, with its exact bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>

namespace emulator {

/// What a GPU would end a launch for, or do wrong in silence.
struct Fault : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// The allocations of the one device. Addresses are those of the host.
class Memory {
 public:
    /// Whether to fill memory as it comes and goes.
    explicit Memory(bool fill) : fill_(fill) {}
    /// What is fresh has all bits set, which is NaN in every floating-point type, so that what is read before it is
    /// written shows.
    std::uint64_t allocate(std::size_t bytes);
    /// Takes it out of what kernels may touch.
    void release(std::uint64_t address);
    /// The bytes at an address, all of one allocation.
    ///
    /// Throws a Fault where there are none such.
    char* at(std::uint64_t address, std::size_t bytes, const char* what) {
        if (address - last_ < last_bytes_ && address - last_ + bytes <= last_bytes_)
            return reinterpret_cast<char*>(address);
        return find(address, bytes, what);
    }

 private:
    char* find(std::uint64_t address, std::size_t bytes, const char* what);

    const bool fill_;
    std::map<std::uint64_t, std::size_t> live_;
    /// The allocation met last.
    std::uint64_t last_ = 0;
    std::size_t last_bytes_ = 0;
};

}  // namespace emulator
