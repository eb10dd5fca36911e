#include "device.h"

#include <cstdio>
#include <cstdlib>

namespace emulator {

Device::Device()
    : idle([] {
          const char* work = std::getenv("EMULATED_GPU_WORK");
          return work != nullptr && std::string(work) == "none";
      }()),
      memory(!idle) {}

Device& Device::instance() {
    static Device device;
    return device;
}

void Device::enqueue(std::function<void()> work) {
    waiting_.push_back(std::move(work));
    // A bound to the host's memory that waits along; a GPU's queue has one too.
    if (waiting_.size() >= 1024) finish();
}

bool Device::finish() {
    std::vector<std::function<void()>> work;
    work.swap(waiting_);
    for (const auto& one : work) {
        if (!fault_.empty()) break;
        try {
            one();
        } catch (const Fault& fault) {
            fault_ = fault.what();
            std::fprintf(stderr, "emulated GPU: %s\n", fault.what());
        }
    }
    return fault_.empty();
}

void Device::allocated(std::uint64_t address, std::size_t bytes) {
    sizes_[address] = bytes;
    in_use_ += bytes;
    if (in_use_ > peak_) peak_ = in_use_;
}

void Device::freed(std::uint64_t address) {
    in_use_ -= sizes_[address];
    sizes_.erase(address);
}

/// With EMULATED_GPU_REPORT=FILE, what the program asked of the device, as one JSON object.
Device::~Device() {
    const char* path = std::getenv("EMULATED_GPU_REPORT");
    if (path == nullptr) return;
    std::FILE* file = std::fopen(path, "w");
    if (file == nullptr) return;
    std::fprintf(file, "{");
    for (const auto& [what, times] : counts_)
        std::fprintf(file, "\"%s\": %llu, ", what.c_str(), static_cast<unsigned long long>(times));
    std::fprintf(file, "\"peak_bytes\": %llu}\n", static_cast<unsigned long long>(peak_));
    std::fclose(file);
}

}  // namespace emulator
