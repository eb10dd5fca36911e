// cuDNN's graph interface for one convolution: descriptors that are as strict as the documentation, and four engines.
//
// Of the engines two must never be chosen, and write NaN; one rounds f32 to TF32 as tensor cores do, and wants a
// workspace; one is plain.
#include <cudnn.h>

#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bf16.h"
#include "device.h"

using emulator::Device;
using emulator::Fault;

namespace {

enum Engine { TENSOR_CORES, NONDETERMINISTIC, DOWN_CONVERTING, PLAIN, ENGINES };
constexpr std::int64_t WORKSPACE = 4096;

struct Attribute {
    cudnnBackendAttributeType_t type;
    std::int64_t count;
    std::string bytes;
};

struct Descriptor {
    cudnnBackendDescriptorType_t type;
    bool finalized = false;
    std::map<cudnnBackendAttributeName_t, Attribute> attributes;
    int engine = -1;
    /// Of a plan, a configuration or an engine: the operation, kept.
    std::shared_ptr<struct Convolution> convolution;
};

struct Tensor {
    cudnnDataType_t type;
    std::int64_t dims[4], strides[4], uid, alignment;
};

enum class Product { Forward, BackwardData, BackwardFilter };

struct Convolution {
    Product product;
    Tensor x, w, y;
    std::int64_t padding[2], stride[2], dilation[2];
    float alpha, beta;
};

thread_local std::string last_error;

cudnnStatus_t bad(const std::string& what) {
    last_error = what;
    return CUDNN_STATUS_BAD_PARAM;
}

/// The type that an attribute is set with.
bool expected_type(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t& type) {
    switch (name) {
        case CUDNN_ATTR_TENSOR_DATA_TYPE:
        case CUDNN_ATTR_CONVOLUTION_COMP_TYPE: type = CUDNN_TYPE_DATA_TYPE; return true;
        case CUDNN_ATTR_CONVOLUTION_CONV_MODE: type = CUDNN_TYPE_CONVOLUTION_MODE; return true;
        case CUDNN_ATTR_TENSOR_DIMENSIONS:
        case CUDNN_ATTR_TENSOR_STRIDES:
        case CUDNN_ATTR_TENSOR_UNIQUE_ID:
        case CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT:
        case CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS:
        case CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS:
        case CUDNN_ATTR_CONVOLUTION_POST_PADDINGS:
        case CUDNN_ATTR_CONVOLUTION_DILATIONS:
        case CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES:
        case CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS: type = CUDNN_TYPE_INT64; return true;
        case CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA: type = CUDNN_TYPE_FLOAT; return true;
        case CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY:
        case CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC:
        case CUDNN_ATTR_OPERATIONGRAPH_OPS:
        case CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH:
        case CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG: type = CUDNN_TYPE_BACKEND_DESCRIPTOR; return true;
        case CUDNN_ATTR_OPERATIONGRAPH_HANDLE: type = CUDNN_TYPE_HANDLE; return true;
        case CUDNN_ATTR_ENGINEHEUR_MODE: type = CUDNN_TYPE_HEUR_MODE; return true;
        case CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS:
        case CUDNN_ATTR_VARIANT_PACK_WORKSPACE: type = CUDNN_TYPE_VOID_PTR; return true;
        default: return false;
    }
}

/// The descriptor's attribute as `count` values. Throws where it is missing or has another count.
template <class T>
const T* values(const Descriptor& of, cudnnBackendAttributeName_t name, std::int64_t count) {
    auto found = of.attributes.find(name);
    if (found == of.attributes.end()) throw Fault("attribute " + std::to_string(int(name)) + " is not set");
    if (found->second.count != count || found->second.bytes.size() != sizeof(T) * std::size_t(count)) {
        throw Fault("attribute " + std::to_string(int(name)) + " has " + std::to_string(found->second.count) +
                    " values");
    }
    return reinterpret_cast<const T*>(found->second.bytes.data());
}

const Descriptor& reference(const Descriptor& of, cudnnBackendAttributeName_t name, cudnnBackendDescriptorType_t type) {
    auto* found = static_cast<Descriptor*>(*values<cudnnBackendDescriptor_t>(of, name, 1));
    if (found->type != type || !found->finalized)
        throw Fault("attribute " + std::to_string(int(name)) + " is another or no finalized descriptor");
    return *found;
}

Tensor tensor(const Descriptor& d) {
    Tensor t;
    t.type = *values<cudnnDataType_t>(d, CUDNN_ATTR_TENSOR_DATA_TYPE, 1);
    std::memcpy(t.dims, values<std::int64_t>(d, CUDNN_ATTR_TENSOR_DIMENSIONS, 4), sizeof(t.dims));
    std::memcpy(t.strides, values<std::int64_t>(d, CUDNN_ATTR_TENSOR_STRIDES, 4), sizeof(t.strides));
    t.uid = *values<std::int64_t>(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, 1);
    t.alignment = *values<std::int64_t>(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 1);
    if (t.type != CUDNN_DATA_FLOAT && t.type != CUDNN_DATA_BFLOAT16)
        throw Fault("a tensor of another type than f32 and bf16");
    for (std::int64_t dim : t.dims)
        if (dim < 1) throw Fault("a tensor without elements");
    return t;
}

Convolution convolution(const Descriptor& d) {
    Convolution c;
    std::array<cudnnBackendAttributeName_t, 6> names;
    if (d.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR) {
        c.product = Product::Forward;
        names = {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                 CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                 CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
    } else if (d.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR) {
        c.product = Product::BackwardData;
        names = {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                 CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                 CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    } else {
        c.product = Product::BackwardFilter;
        names = {
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
    }
    c.x = tensor(reference(d, names[0], CUDNN_BACKEND_TENSOR_DESCRIPTOR));
    c.w = tensor(reference(d, names[1], CUDNN_BACKEND_TENSOR_DESCRIPTOR));
    c.y = tensor(reference(d, names[2], CUDNN_BACKEND_TENSOR_DESCRIPTOR));
    const Descriptor& how = reference(d, names[3], CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    c.alpha = *values<float>(d, names[4], 1);
    c.beta = *values<float>(d, names[5], 1);
    std::memcpy(c.padding, values<std::int64_t>(how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, 2), sizeof(c.padding));
    std::memcpy(c.stride, values<std::int64_t>(how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, 2), sizeof(c.stride));
    std::memcpy(c.dilation, values<std::int64_t>(how, CUDNN_ATTR_CONVOLUTION_DILATIONS, 2), sizeof(c.dilation));
    const auto* after = values<std::int64_t>(how, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, 2);
    if (c.x.dims[0] != c.y.dims[0] || c.x.dims[1] != c.w.dims[1] || c.y.dims[1] != c.w.dims[0])
        throw Fault("a convolution's tensors do not fit");
    for (int i = 0; i < 2; ++i) {
        std::int64_t window = c.dilation[i] * (c.w.dims[2 + i] - 1) + 1;
        if ((c.x.dims[2 + i] + c.padding[i] + after[i] - window) / c.stride[i] + 1 != c.y.dims[2 + i])
            throw Fault("a convolution's output has another size");
    }
    if (c.x.type != c.w.type || c.x.type != c.y.type) throw Fault("a convolution of mixed types");
    return c;
}

/// What a descriptor needs to be finalized.
void finalize(Descriptor& d) {
    switch (d.type) {
        case CUDNN_BACKEND_TENSOR_DESCRIPTOR: tensor(d); break;
        case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR:
            if (*values<std::int64_t>(d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 1) != 2)
                throw Fault("other than two spatial dimensions");
            if (*values<cudnnConvolutionMode_t>(d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, 1) != CUDNN_CROSS_CORRELATION)
                throw Fault("no cross-correlation");
            if (*values<cudnnDataType_t>(d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, 1) != CUDNN_DATA_FLOAT)
                throw Fault("sums not in f32");
            break;
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
        case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
            d.convolution = std::make_shared<Convolution>(convolution(d));
            break;
        case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR: {
            values<cudnnHandle_t>(d, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, 1);
            auto* operation =
                static_cast<Descriptor*>(*values<cudnnBackendDescriptor_t>(d, CUDNN_ATTR_OPERATIONGRAPH_OPS, 1));
            if (!operation->finalized || operation->convolution == nullptr)
                throw Fault("a graph of no finalized operation");
            d.convolution = operation->convolution;
            break;
        }
        case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
            d.convolution = reference(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)
                                .convolution;
            if (*values<cudnnBackendHeurMode_t>(d, CUDNN_ATTR_ENGINEHEUR_MODE, 1) != CUDNN_HEUR_MODE_A)
                throw Fault("heuristics of another mode");
            break;
        case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: {
            auto* configuration = static_cast<Descriptor*>(
                *values<cudnnBackendDescriptor_t>(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, 1));
            if (configuration->type != CUDNN_BACKEND_ENGINECFG_DESCRIPTOR || configuration->engine < 0)
                throw Fault("a plan of no configuration");
            d.engine = configuration->engine;
            d.convolution = configuration->convolution;
            break;
        }
        case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
            values<void*>(d, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, 3);
            values<std::int64_t>(d, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, 3);
            values<void*>(d, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, 1);
            break;
        default: throw Fault("a descriptor that is not emulated");
    }
}

// ---- The products, in f64 over copies laid out [N, H, W, C] and [R, S, C, O] or [R, S, O, C].

float read_element(const char* at, cudnnDataType_t type) {
    if (type == CUDNN_DATA_BFLOAT16) {
        emulator::bf16 value;
        std::memcpy(&value, at, sizeof(value));
        return emulator::widen(value);
    }
    float value;
    std::memcpy(&value, at, sizeof(value));
    return value;
}

void write_element(float value, char* at, cudnnDataType_t type) {
    if (type == CUDNN_DATA_BFLOAT16) {
        emulator::bf16 narrowed = emulator::narrow(value);
        std::memcpy(at, &narrowed, sizeof(narrowed));
    } else {
        std::memcpy(at, &value, sizeof(value));
    }
}

/// To TF32's ten bits of fraction.
float tf32(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits = (bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu;
    std::memcpy(&value, &bits, 4);
    return value;
}

std::size_t element(const Tensor& t) { return t.type == CUDNN_DATA_FLOAT ? 4 : 2; }

char* bytes_of(const Tensor& t, std::uint64_t address, const char* what) {
    std::int64_t last = 0;
    for (int i = 0; i < 4; ++i) last += (t.dims[i] - 1) * t.strides[i];
    if (address % std::uint64_t(t.alignment) != 0)
        throw Fault(std::string(what) + ": not aligned as its descriptor says");
    return Device::instance().memory.at(address, std::size_t(last + 1) * element(t), what);
}

/// Calls `f` with the place of every element: in its memory, and in the order of dimensions `order`.
template <class F>
void elements(const Tensor& t, const int (&order)[4], F f) {
    std::size_t place = 0;
    std::int64_t at[4];
    for (at[0] = 0; at[0] < t.dims[order[0]]; ++at[0])
        for (at[1] = 0; at[1] < t.dims[order[1]]; ++at[1])
            for (at[2] = 0; at[2] < t.dims[order[2]]; ++at[2])
                for (at[3] = 0; at[3] < t.dims[order[3]]; ++at[3]) {
                    std::int64_t offset = 0;
                    for (int i = 0; i < 4; ++i) offset += at[i] * t.strides[order[i]];
                    f(std::size_t(offset) * element(t), place++);
                }
}

constexpr int IMAGES[4] = {0, 2, 3, 1}, BY_INPUT[4] = {2, 3, 1, 0}, BY_OUTPUT[4] = {2, 3, 0, 1};

std::vector<double> read(const Tensor& t, std::uint64_t address, const int (&order)[4], bool tensor_cores,
                         const char* what) {
    const char* from = bytes_of(t, address, what);
    std::vector<double> out(std::size_t(t.dims[0] * t.dims[1] * t.dims[2] * t.dims[3]));
    bool round = tensor_cores && t.type == CUDNN_DATA_FLOAT;
    elements(t, order, [&](std::size_t at, std::size_t place) {
        out[place] = double(round ? tf32(read_element(from + at, t.type)) : read_element(from + at, t.type));
    });
    return out;
}

void write(const Tensor& t, std::uint64_t address, const int (&order)[4], const std::vector<double>& values,
           const char* what) {
    char* to = bytes_of(t, address, what);
    elements(t, order,
             [&](std::size_t at, std::size_t place) { write_element(float(values[place]), to + at, t.type); });
}

/// `to[j] += sum of from[i] * matrix[i][j]`
void add_product(double* to, std::int64_t columns, const double* from, std::int64_t rows, const double* matrix) {
    for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < columns; ++j) to[j] += from[i] * matrix[i * columns + j];
}

/// `to[i][j] += a[i] * b[j]`
void add_outer_product(double* to, const double* a, std::int64_t rows, const double* b, std::int64_t columns) {
    for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < columns; ++j) to[i * columns + j] += a[i] * b[j];
}

void execute(const Convolution& c, int engine, std::uint64_t x_at, std::uint64_t w_at, std::uint64_t y_at) {
    std::int64_t batch = c.x.dims[0], inputs = c.x.dims[1], height = c.x.dims[2], width = c.x.dims[3];
    std::int64_t outputs = c.y.dims[1], rows = c.y.dims[2], columns = c.y.dims[3], kernel_rows = c.w.dims[2],
                 kernel_columns = c.w.dims[3];
    bool cores = engine == TENSOR_CORES;
    if (c.alpha != 1 || c.beta != 0) throw Fault("a convolution with factors other than 1 and 0");
    const double nothing = engine == TENSOR_CORES || engine == PLAIN ? 0.0 : NAN;
    std::vector<double> x, w, y;
    if (c.product == Product::BackwardData)
        x.assign(std::size_t(batch * height * width * inputs), nothing);
    else
        x = read(c.x, x_at, IMAGES, cores, "a convolution's x");
    if (c.product == Product::BackwardFilter)
        w.assign(std::size_t(kernel_rows * kernel_columns * inputs * outputs), nothing);
    else
        w = read(c.w, w_at, c.product == Product::Forward ? BY_INPUT : BY_OUTPUT, cores, "a convolution's w");
    if (c.product == Product::Forward)
        y.assign(std::size_t(batch * rows * columns * outputs), nothing);
    else
        y = read(c.y, y_at, IMAGES, cores, "a convolution's dy");
    for (std::int64_t n = 0; n < batch; ++n)
        for (std::int64_t row = 0; row < rows; ++row)
            for (std::int64_t column = 0; column < columns; ++column)
                for (std::int64_t r = 0; r < kernel_rows; ++r)
                    for (std::int64_t s = 0; s < kernel_columns; ++s) {
                        std::int64_t h = row * c.stride[0] - c.padding[0] + r * c.dilation[0],
                                     v = column * c.stride[1] - c.padding[1] + s * c.dilation[1];
                        if (h < 0 || h >= height || v < 0 || v >= width) continue;
                        double* in = x.data() + ((n * height + h) * width + v) * inputs;
                        double* out = y.data() + ((n * rows + row) * columns + column) * outputs;
                        double* tap = w.data() + (r * kernel_columns + s) * inputs * outputs;
                        switch (c.product) {
                            case Product::Forward: add_product(out, outputs, in, inputs, tap); break;
                            case Product::BackwardData: add_product(in, inputs, out, outputs, tap); break;
                            case Product::BackwardFilter: add_outer_product(tap, in, inputs, out, outputs); break;
                        }
                    }
    switch (c.product) {
        case Product::Forward: write(c.y, y_at, IMAGES, y, "a convolution's y"); break;
        case Product::BackwardData: write(c.x, x_at, IMAGES, x, "a convolution's dx"); break;
        case Product::BackwardFilter: write(c.w, w_at, BY_INPUT, w, "a convolution's dw"); break;
    }
}

template <class F>
cudnnStatus_t guarded(F f) {
    try {
        return f();
    } catch (const Fault& fault) {
        return bad(fault.what());
    }
}

Descriptor* of(cudnnBackendDescriptor_t descriptor) { return static_cast<Descriptor*>(descriptor); }

}  // namespace

extern "C" {

std::size_t cudnnGetVersion(void) { return CUDNN_VERSION; }
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
    *handle = reinterpret_cast<cudnnHandle_t>(new int);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
    delete reinterpret_cast<int*>(handle);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t, cudaStream_t) { return CUDNN_STATUS_SUCCESS; }
void cudnnGetLastErrorString(char* message, std::size_t size) {
    std::snprintf(message, size, "%s", last_error.c_str());
    last_error.clear();
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* to) {
    *to = new Descriptor{type, false, {}, -1, nullptr};
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
    delete of(descriptor);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, std::int64_t count, const void* from) {
    if (of(descriptor)->finalized) return bad("a finalized descriptor is changed");
    cudnnBackendAttributeType_t expected;
    if (!expected_type(name, expected)) return bad("attribute " + std::to_string(int(name)) + " is not emulated");
    if (type != expected) return bad("attribute " + std::to_string(int(name)) + " is set with another type");
    std::size_t bytes = type == CUDNN_TYPE_INT64 || type == CUDNN_TYPE_VOID_PTR || type == CUDNN_TYPE_HANDLE ||
                                type == CUDNN_TYPE_BACKEND_DESCRIPTOR
                            ? 8
                            : 4;
    of(descriptor)->attributes[name] = {type, count,
                                        std::string(static_cast<const char*>(from), bytes * std::size_t(count))};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
    return guarded([&] {
        finalize(*of(descriptor));
        of(descriptor)->finalized = true;
        return CUDNN_STATUS_SUCCESS;
    });
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, std::int64_t most, std::int64_t* count,
                                       void* to) {
    Descriptor& d = *of(descriptor);
    // A plan, a configuration that heuristics filled, and their engines are finalized.
    if (!d.finalized) return bad("a descriptor is read that is not finalized");
    auto fill = [&](std::int64_t n, auto set) {
        *count = n;
        for (std::int64_t i = 0; i < n && i < most; ++i) set(static_cast<cudnnBackendDescriptor_t*>(to)[i], i);
        return CUDNN_STATUS_SUCCESS;
    };
    auto become = [&](cudnnBackendDescriptor_t one, cudnnBackendDescriptorType_t kind, int engine) {
        if (of(one)->type != kind) throw Fault("a descriptor of another type is to be filled");
        of(one)->engine = engine;
        of(one)->convolution = d.convolution;
        of(one)->finalized = true;
    };
    return guarded([&] {
        if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS && type == CUDNN_TYPE_BACKEND_DESCRIPTOR &&
            d.type == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR) {
            return fill(ENGINES, [&](cudnnBackendDescriptor_t one, std::int64_t i) {
                become(one, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, int(i));
            });
        }
        if (name == CUDNN_ATTR_ENGINECFG_ENGINE && type == CUDNN_TYPE_BACKEND_DESCRIPTOR &&
            d.type == CUDNN_BACKEND_ENGINECFG_DESCRIPTOR) {
            return fill(1, [&](cudnnBackendDescriptor_t one, std::int64_t) {
                become(one, CUDNN_BACKEND_ENGINE_DESCRIPTOR, d.engine);
            });
        }
        if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE && type == CUDNN_TYPE_NUMERICAL_NOTE &&
            d.type == CUDNN_BACKEND_ENGINE_DESCRIPTOR) {
            static const cudnnBackendNumericalNote_t NOTES[ENGINES] = {
                CUDNN_NUMERICAL_NOTE_TENSOR_CORE, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
                CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS, CUDNN_NUMERICAL_NOTE_TENSOR_CORE};
            *count = d.engine == PLAIN ? 0 : 1;
            if (*count == 1 && most >= 1) std::memcpy(to, &NOTES[d.engine], sizeof(NOTES[0]));
            return CUDNN_STATUS_SUCCESS;
        }
        if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE && type == CUDNN_TYPE_INT64 &&
            d.type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) {
            *count = 1;
            std::int64_t bytes = d.engine == TENSOR_CORES ? WORKSPACE : 0;
            if (most >= 1) std::memcpy(to, &bytes, sizeof(bytes));
            return CUDNN_STATUS_SUCCESS;
        }
        return bad("attribute " + std::to_string(int(name)) + " is not to be read so");
    });
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
    return guarded([&] {
        if (!of(plan)->finalized || of(plan)->type != CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR || !of(pack)->finalized)
            return bad("no finalized plan and pack");
        Device& device = Device::instance();
        std::lock_guard<std::recursive_mutex> guard(device.lock);
        device.count("convolutions");
        const auto* pointers = values<std::uint64_t>(*of(pack), CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, 3);
        const auto* uids = values<std::int64_t>(*of(pack), CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, 3);
        std::uint64_t workspace = *values<std::uint64_t>(*of(pack), CUDNN_ATTR_VARIANT_PACK_WORKSPACE, 1);
        std::shared_ptr<Convolution> convolution = of(plan)->convolution;
        int engine = of(plan)->engine;
        auto pointer = [&](const Tensor& tensor) {
            for (int i = 0; i < 3; ++i)
                if (uids[i] == tensor.uid) return pointers[i];
            throw Fault("a pack without one of the tensors");
        };
        std::uint64_t x = pointer(convolution->x), w = pointer(convolution->w), y = pointer(convolution->y);
        if (!device.idle)
            device.enqueue([=, &device] {
                if (engine == TENSOR_CORES)
                    std::memset(device.memory.at(workspace, WORKSPACE, "a convolution's workspace"), 0x5a, WORKSPACE);
                execute(*convolution, engine, x, w, y);
            });
        return CUDNN_STATUS_SUCCESS;
    });
}

}  // extern "C"
