// cuRAND's generators, with numbers of another algorithm.
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "device.h"

using emulator::Device;

namespace {

using Generator = std::mt19937_64;

template <class T, class D>
int generate(Generator* generator, std::uint64_t to, std::size_t count, D distribution) {
    auto values = std::make_shared<std::vector<T>>(count);
    for (T& value : *values) value = distribution(*generator);
    Device& device = Device::instance();
    std::lock_guard<std::recursive_mutex> guard(device.lock);
    device.enqueue([=, &device] {
        std::size_t bytes = count * sizeof(T);
        if (bytes != 0) std::memcpy(device.memory.at(to, bytes, "cuRAND writes"), values->data(), bytes);
    });
    return 0;
}

}  // namespace

extern "C" {

int curandCreateGenerator(Generator** to, int) {
    *to = new Generator;
    return 0;
}
int curandDestroyGenerator(Generator* generator) {
    delete generator;
    return 0;
}
int curandSetPseudoRandomGeneratorSeed(Generator* generator, unsigned long long seed) {
    generator->seed(seed);
    return 0;
}
int curandSetStream(Generator*, void*) { return 0; }
int curandGenerateUniform(Generator* g, std::uint64_t to, std::size_t n) {
    return generate<float>(g, to, n, std::uniform_real_distribution<float>());
}
int curandGenerateUniformDouble(Generator* g, std::uint64_t to, std::size_t n) {
    return generate<double>(g, to, n, std::uniform_real_distribution<double>());
}
int curandGenerateNormal(Generator* g, std::uint64_t to, std::size_t n, float mean, float deviation) {
    return generate<float>(g, to, n, std::normal_distribution<float>(mean, deviation));
}
int curandGenerateNormalDouble(Generator* g, std::uint64_t to, std::size_t n, double mean, double deviation) {
    return generate<double>(g, to, n, std::normal_distribution<double>(mean, deviation));
}

}  // extern "C"
