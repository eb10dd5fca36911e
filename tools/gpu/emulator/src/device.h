// The one device: memory, and the work that waits in order to be done.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "memory.h"

namespace emulator {

/// Work is done when the host waits for it, not before, as on a GPU that is busy; all streams are one.
class Device {
 public:
    static Device& instance();

    /// Held by whoever asks something of the device: threads take turns.
    std::recursive_mutex lock;

    /// Appends work.
    void enqueue(std::function<void()> work);
    /// Does all that waits. False after a fault, from which on everything fails.
    bool finish();
    /// The first fault's words.
    const std::string& fault() const { return fault_; }

    /// With EMULATED_GPU_WORK=none nothing is computed: what is left is the host's time.
    const bool idle;
    Memory memory;

    /// Counts a call for the report.
    void count(const std::string& what, std::uint64_t by = 1) { counts_[what] += by; }
    void allocated(std::uint64_t address, std::size_t bytes);
    void freed(std::uint64_t address);
    std::uint64_t peak_bytes() const { return peak_; }

 private:
    Device();
    ~Device();

    std::vector<std::function<void()>> waiting_;
    std::string fault_;
    std::map<std::string, std::uint64_t> counts_;
    std::map<std::uint64_t, std::size_t> sizes_;
    std::uint64_t in_use_ = 0, peak_ = 0;
};

}  // namespace emulator
