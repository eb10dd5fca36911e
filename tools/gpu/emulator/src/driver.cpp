// The CUDA driver's functions that candle and this project call.
#include <cuda.h>

#include <chrono>
#include <cstring>
#include <mutex>
#include <string>

#include "device.h"
#include "kernel.h"

using emulator::Device;
using emulator::Fault;
using emulator::Kernel;
using emulator::Module;

namespace {

/// A driver's function: one at a time, and any exception as a status.
template <class F>
CUresult guarded(const char* name, F f) {
    Device& device = Device::instance();
    std::lock_guard<std::recursive_mutex> guard(device.lock);
    device.count(name);
    if (!device.fault().empty()) return CUDA_ERROR_LAUNCH_FAILED;
    try {
        return f(device);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "emulated GPU: %s: %s\n", name, error.what());
        return CUDA_ERROR_INVALID_VALUE;
    }
}

CUresult wait(Device& device) {
    device.count("waits");
    return device.finish() ? CUDA_SUCCESS : CUDA_ERROR_LAUNCH_FAILED;
}

struct Event {
    bool done = true;
    std::chrono::steady_clock::time_point time;
};

thread_local CUcontext current = nullptr;
int context, stream_memory, pool;
thread_local std::string message;

}  // namespace

extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* version) {
    *version = 13000;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int* count) {
    *count = 1;
    return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    *device = 0;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceGetName(char* name, int len, CUdevice) {
    std::snprintf(name, std::size_t(len), "emulated GPU");
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
        case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *value = 1; break;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 4; break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* to, CUdevice) {
    *to = reinterpret_cast<CUcontext>(&context);
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext to) {
    current = to;
    return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* to) {
    *to = current;
    return CUDA_SUCCESS;
}
CUresult cuCtxDestroy_v2(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxSynchronize(void) { return guarded("cuCtxSynchronize", wait); }

CUresult cuGetErrorName(CUresult error, const char** name) { return cuGetErrorString(error, name); }
CUresult cuGetErrorString(CUresult error, const char** text) {
    const std::string& fault = Device::instance().fault();
    message = error == CUDA_ERROR_LAUNCH_FAILED && !fault.empty() ? fault : "CUDA error " + std::to_string(int(error));
    *text = message.c_str();
    return CUDA_SUCCESS;
}

// ---- Memory.

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* to, CUdevice) {
    *to = reinterpret_cast<CUmemoryPool>(&pool);
    return CUDA_SUCCESS;
}
CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, void*) { return CUDA_SUCCESS; }
CUresult cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void* value) {
    if (attribute != CU_MEMPOOL_ATTR_USED_MEM_HIGH) return CUDA_ERROR_INVALID_VALUE;
    std::uint64_t peak = Device::instance().peak_bytes();
    std::memcpy(value, &peak, sizeof(peak));
    return CUDA_SUCCESS;
}

CUresult cuMemAllocAsync(CUdeviceptr* to, std::size_t bytes, CUstream) {
    return guarded("cuMemAllocAsync", [&](Device& device) {
        *to = device.memory.allocate(bytes);
        if (*to == 0) return CUDA_ERROR_OUT_OF_MEMORY;
        device.allocated(*to, bytes);
        return CUDA_SUCCESS;
    });
}

/// What has been asked for may still use it, and is done before; later work may not.
CUresult cuMemFreeAsync(CUdeviceptr address, CUstream) {
    return guarded("cuMemFreeAsync", [&](Device& device) {
        device.freed(address);
        device.enqueue([&device, address] { device.memory.release(address); });
        return CUDA_SUCCESS;
    });
}

CUresult cuMemAlloc_v2(CUdeviceptr* to, std::size_t bytes) { return cuMemAllocAsync(to, bytes, nullptr); }

CUresult cuMemFree_v2(CUdeviceptr address) {
    return guarded("cuMemFree", [&](Device& device) {
        CUresult waited = wait(device);
        if (waited != CUDA_SUCCESS) return waited;
        device.freed(address);
        device.memory.release(address);
        return CUDA_SUCCESS;
    });
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t bytes, CUstream) {
    return guarded("cuMemsetD8Async", [&](Device& device) {
        device.enqueue([=, &device] {
            if (bytes != 0) std::memset(device.memory.at(to, bytes, "a memset writes"), value, bytes);
        });
        return CUDA_SUCCESS;
    });
}

/// From pageable memory, whose bytes the driver takes before it returns.
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes, CUstream) {
    return guarded("cuMemcpyHtoDAsync", [&](Device& device) {
        device.count("bytes to the device", bytes);
        std::string taken(static_cast<const char*>(from), bytes);
        device.enqueue([=, &device] {
            if (bytes != 0)
                std::memcpy(device.memory.at(to, bytes, "a copy from the host writes"), taken.data(), bytes);
        });
        return CUDA_SUCCESS;
    });
}

/// Into pageable memory, for which the driver waits.
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, CUstream) {
    return guarded("cuMemcpyDtoHAsync", [&](Device& device) {
        device.count("bytes to the host", bytes);
        CUresult waited = wait(device);
        if (waited != CUDA_SUCCESS) return waited;
        if (bytes != 0) std::memcpy(to, device.memory.at(from, bytes, "a copy to the host reads"), bytes);
        return CUDA_SUCCESS;
    });
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream) {
    return guarded("cuMemcpyDtoDAsync", [&](Device& device) {
        device.enqueue([=, &device] {
            if (bytes == 0) return;
            const char* source = device.memory.at(from, bytes, "a copy reads");
            std::memmove(device.memory.at(to, bytes, "a copy writes"), source, bytes);
        });
        return CUDA_SUCCESS;
    });
}

// ---- Streams and events: all streams are in one order, and an event is a place in it.

CUresult cuStreamCreate(CUstream* to, unsigned) {
    *to = reinterpret_cast<CUstream>(&stream_memory);
    return CUDA_SUCCESS;
}
CUresult cuStreamDestroy_v2(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream) { return guarded("cuStreamSynchronize", wait); }
CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned) { return CUDA_SUCCESS; }

CUresult cuEventCreate(CUevent* to, unsigned) {
    *to = reinterpret_cast<CUevent>(new Event);
    return CUDA_SUCCESS;
}
CUresult cuEventDestroy_v2(CUevent event) {
    return guarded("cuEventDestroy", [&](Device& device) {
        device.enqueue([=] { delete reinterpret_cast<Event*>(event); });
        return CUDA_SUCCESS;
    });
}
CUresult cuEventRecord(CUevent event, CUstream) {
    return guarded("cuEventRecord", [&](Device& device) {
        auto* at = reinterpret_cast<Event*>(event);
        at->done = false;
        device.enqueue([=] { at->time = std::chrono::steady_clock::now(), at->done = true; });
        return CUDA_SUCCESS;
    });
}
CUresult cuEventSynchronize(CUevent event) {
    return guarded("cuEventSynchronize",
                   [&](Device& device) { return reinterpret_cast<Event*>(event)->done ? CUDA_SUCCESS : wait(device); });
}
CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent begin, CUevent end) {
    auto *first = reinterpret_cast<Event*>(begin), *last = reinterpret_cast<Event*>(end);
    if (!first->done || !last->done) return CUDA_ERROR_NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(last->time - first->time).count();
    return CUDA_SUCCESS;
}

// ---- Modules and launches.

CUresult cuModuleLoadData(CUmodule* to, const void* image) {
    return guarded("cuModuleLoadData", [&](Device& device) {
        try {
            *to = reinterpret_cast<CUmodule>(new Module(static_cast<const char*>(image), device.memory));
            return CUDA_SUCCESS;
        } catch (const Fault&) {
            return CUDA_ERROR_INVALID_PTX;
        }
    });
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* to, CUmodule module, const char* name) {
    return guarded("cuModuleGetFunction", [&](Device&) {
        const Kernel* kernel = reinterpret_cast<Module*>(module)->kernel(name);
        if (kernel == nullptr) return CUDA_ERROR_NOT_FOUND;
        *to = reinterpret_cast<CUfunction>(const_cast<Kernel*>(kernel));
        return CUDA_SUCCESS;
    });
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, CUstream, void** parameters, void**) {
    return guarded("cuLaunchKernel", [&](Device& device) {
        const Kernel& kernel = *reinterpret_cast<const Kernel*>(function);
        device.count("launches");
        device.count("kernel " + kernel.name);
        emulator::Grid grid{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared};
        std::uint64_t threads = std::uint64_t(block_x) * block_y * block_z;
        bool empty = threads == 0 || grid_x == 0 || grid_y == 0 || grid_z == 0;
        bool large =
            threads > kernel.most_threads || threads > 1024 || grid_x > 0x7fffffffu || grid_y > 65535 || grid_z > 65535;
        if (device.idle) return CUDA_SUCCESS;
        if (empty || large || kernel.shared_bytes + shared > 48 << 10) return CUDA_ERROR_INVALID_VALUE;
        std::vector<char> arguments(kernel.parameter_bytes);
        for (std::size_t i = 0; i < kernel.parameters.size(); ++i) {
            std::memcpy(arguments.data() + kernel.parameters[i].offset, parameters[i], kernel.parameters[i].bytes);
        }
        device.enqueue([=, &device, &kernel]() mutable { emulator::run(kernel, grid, arguments, device.memory); });
        return CUDA_SUCCESS;
    });
}

}  // extern "C"
