#include "memory.h"

#include <cstdlib>
#include <cstring>

namespace emulator {

constexpr std::size_t ALIGNMENT = 512;

std::uint64_t Memory::allocate(std::size_t bytes) {
    std::size_t size = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void* memory = std::aligned_alloc(ALIGNMENT, size == 0 ? ALIGNMENT : size);
    if (memory == nullptr) return 0;
    if (fill_) std::memset(memory, 0xff, size);
    auto address = reinterpret_cast<std::uint64_t>(memory);
    live_[address] = bytes;
    return address;
}

void Memory::release(std::uint64_t address) {
    auto found = live_.find(address);
    if (found == live_.end()) throw Fault("memory is freed that is not allocated");
    if (fill_) std::memset(reinterpret_cast<void*>(address), 0xff, found->second);
    std::free(reinterpret_cast<void*>(address));
    live_.erase(found);
    last_bytes_ = 0;
}

char* Memory::find(std::uint64_t address, std::size_t bytes, const char* what) {
    auto next = live_.upper_bound(address);
    if (next != live_.begin()) {
        auto [start, size] = *std::prev(next);
        if (address - start < size && address - start + bytes <= size) {
            last_ = start;
            last_bytes_ = size;
            return reinterpret_cast<char*>(address);
        }
        if (address - start < size + (std::size_t(1) << 20)) {
            throw Fault(std::string(what) + " " + std::to_string(bytes) + " bytes at byte " +
                        std::to_string(address - start) + " of an allocation of " + std::to_string(size));
        }
    }
    throw Fault(std::string(what) + " " + std::to_string(bytes) + " bytes where nothing is allocated");
}

}  // namespace emulator
