// Whether the emulator computes what PTX says, and finds what it is there to find. Built and run by `test`.
#include <cuda.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace {

int failures = 0;

void check(bool right, const char* what) {
    if (right) return;
    std::printf("selftest: not so: %s\n", what);
    ++failures;
}

const std::string HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// A kernel that takes one address and a count; %r1 is the thread's number, %rd2 the address of its float.
std::string kernel(const std::string& body) {
    return HEAD + R"(
.visible .entry k(.param .u64 k_0, .param .u32 k_1)
{
    .reg .pred %p<9>; .reg .b32 %r<32>; .reg .f32 %f<32>; .reg .b64 %rd<16>;
    .shared .align 4 .b8 s[128];
    ld.param.u64 %rd1, [k_0];
    ld.param.u32 %r9, [k_1];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd2, %rd1, %rd3;
)" + body + "\n    ret;\n}\n";
}

struct Outcome {
    CUresult status;
    std::vector<float> values;
    std::string message;
};

/// Runs a kernel of so many threads over floats that are 0, 1, 2, …
Outcome run(const std::string& ptx, unsigned threads, std::size_t floats, int argument = 0, bool fresh = false) {
    CUmodule module;
    CUfunction function;
    CUdeviceptr memory;
    Outcome outcome{cuModuleLoadData(&module, ptx.c_str()), {}, {}};
    if (outcome.status != CUDA_SUCCESS) return outcome;
    outcome.status = cuModuleGetFunction(&function, module, "k");
    if (outcome.status != CUDA_SUCCESS) return outcome;
    outcome.values.resize(floats);
    for (std::size_t i = 0; i < floats; ++i) outcome.values[i] = float(i);
    cuMemAllocAsync(&memory, 4 * floats, nullptr);
    if (!fresh) cuMemcpyHtoDAsync(memory, outcome.values.data(), 4 * floats, nullptr);
    void* parameters[] = {&memory, &argument};
    outcome.status = cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, 0, nullptr, parameters, nullptr);
    CUresult copied = cuMemcpyDtoHAsync(outcome.values.data(), memory, 4 * floats, nullptr);
    if (outcome.status == CUDA_SUCCESS) outcome.status = copied;
    const char* text;
    cuGetErrorString(outcome.status, &text);
    outcome.message = text;
    return outcome;
}

/// Divergent loops that meet again: each thread adds its number as often as it says.
void control_flow() {
    auto [status, values, message] = run(kernel(R"(
    mov.f32 %f1, 0f00000000;
    cvt.rn.f32.u32 %f2, %r1;
    mov.u32 %r2, 0;
$again:
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra $done;
    add.f32 %f1, %f1, %f2;
    add.s32 %r2, %r2, 1;
    bra.uni $again;
$done:
    st.global.f32 [%rd2], %f1;)"),
                                         50, 50);
    bool right = status == CUDA_SUCCESS;
    for (std::size_t i = 0; i < values.size(); ++i) right = right && values[i] == float(i * i);
    check(right, "a divergent loop gives squares");
}

/// Every thread of a whole warp gets the warp's sum; through shared memory and a barrier the second warp the first
/// one's.
void sums() {
    auto [status, values, message] = run(kernel(R"(
    ld.global.f32 %f1, [%rd2];
    mov.u32 %r2, 16;
$again:
    mov.b32 %r3, %f1;
    shfl.sync.bfly.b32 %r4|%p1, %r3, %r2, 31, -1;
    mov.b32 %f2, %r4;
    add.f32 %f1, %f1, %f2;
    shr.u32 %r2, %r2, 1;
    setp.ne.s32 %p2, %r2, 0;
    @%p2 bra $again;
    mov.u32 %r5, s;
    shr.u32 %r6, %r1, 5;
    shl.b32 %r7, %r6, 2;
    add.s32 %r8, %r5, %r7;
    st.shared.f32 [%r8], %f1;
    bar.sync 0;
    ld.shared.f32 %f3, [s];
    ld.shared.f32 %f4, [s+4];
    sub.f32 %f5, %f4, %f3;
    st.global.f32 [%rd2], %f5;)"),
                                         64, 64);
    bool right = status == CUDA_SUCCESS;
    for (float value : values) right = right && value == 1024;
    check(right, "sums of warps through shuffles, shared memory and a barrier");
}

/// Rounding: to nearest and even in bfloat16, downwards where asked, saturating and truncating conversions, integers'
/// edges.
void arithmetic() {
    auto [status, values, message] = run(kernel(R"(
    mov.f32 %f1, 0f3F808000;                      // 1 + 2^-8: half way, to the even 1
    cvt.rn.bf16x2.f32 %r2, %f1, %f1;
    and.b32 %r3, %r2, 65535;
    shl.b32 %r4, %r3, 16;
    mov.b32 %f2, %r4;
    st.global.f32 [%rd1], %f2;
    mov.f32 %f3, 0f33800000;                      // 2^-24
    fma.rm.f32 %f4, %f3, 0fBF800000, 0f3F800000;  // 1 - 2^-24, exact
    st.global.f32 [%rd1+4], %f4;
    mov.f32 %f5, 0f33000000;                      // 2^-25
    fma.rm.f32 %f6, %f5, 0fBF800000, 0f3F800000;  // downwards to 1 - 2^-24
    st.global.f32 [%rd1+8], %f6;
    mov.f32 %f7, 0fC0333333;                      // -2.8
    cvt.rzi.s32.f32 %r5, %f7;
    cvt.rn.f32.s32 %f8, %r5;
    st.global.f32 [%rd1+12], %f8;
    mul.hi.u32 %r6, -1, -1;
    setp.eq.s32 %p1, %r6, -2;
    selp.f32 %f9, 0f3F800000, 0f00000000, %p1;
    st.global.f32 [%rd1+16], %f9;
    shr.s32 %r7, -8, 1;
    cvt.rn.f32.s32 %f10, %r7;
    st.global.f32 [%rd1+20], %f10;
    setp.ltu.f32 %p2, 0f7FC00000, 0f00000000;     // unordered
    selp.f32 %f11, 0f3F800000, 0f00000000, %p2;
    st.global.f32 [%rd1+24], %f11;
    cvt.sat.f32.f32 %f12, 0f40000000;
    st.global.f32 [%rd1+28], %f12;)"),
                                         1, 8);
    const float expected[] = {1, 1 - 0x1p-24f, 1 - 0x1p-24f, -2, 1, -4, 1, 1};
    check(status == CUDA_SUCCESS && std::memcmp(values.data(), expected, sizeof(expected)) == 0, "arithmetic's edges");
}

void calls() {
    std::string ptx = kernel(R"(
    ld.global.f32 %f1, [%rd2];
    { .param .b32 param0; st.param.f32 [param0+0], %f1; .param .b32 retval0;
    call.uni (retval0), twice, (param0);
    ld.param.f32 %f2, [retval0+0]; }
    st.global.f32 [%rd2], %f2;)");
    std::string function =
        ".func (.param .b32 func_retval0) twice(.param .b32 twice_param_0)\n{\n.reg .f32 %f<3>;\nld.param.f32 %f1, "
        "[twice_param_0];\nadd.f32 %f2, %f1, %f1;\nst.param.f32 [func_retval0+0], %f2;\nret;\n}\n";
    ptx.insert(HEAD.size(), function);
    auto [status, values, message] = run(ptx, 8, 8);
    bool right = status == CUDA_SUCCESS;
    for (std::size_t i = 0; i < values.size(); ++i) right = right && values[i] == float(2 * i);
    check(right, "a function that is called");
}

void unwritten_memory() {
    auto [status, values, message] =
        run(kernel("    ld.global.f32 %f1, [%rd2];\n    add.f32 %f2, %f1, %f1;\n    st.global.f32 [%rd2], %f2;"), 4, 4,
            0, true);
    check(status == CUDA_SUCCESS && std::isnan(values[0]) && std::isnan(values[3]), "memory that nobody wrote is NaN");
}

/// A fault is found and told; from then on the device is of no more use, so each has a process of its own.
int fault(const std::string& which) {
    Outcome outcome{};
    const char* expected = "";
    if (which == "bounds") {
        outcome = run(kernel("    ld.global.f32 %f1, [%rd2+4];\n    st.global.f32 [%rd2], %f1;"), 5, 5);
        expected = "k, thread 4, `ld.global.f32 %f1, [%rd2+4]`: reads 4 bytes at byte 20 of an allocation of 20";
    } else if (which == "alignment") {
        outcome = run(kernel("    ld.global.f32 %f1, [%rd1+2];\n    st.global.f32 [%rd2], %f1;"), 1, 5);
        expected = "at an address that is no multiple";
    } else if (which == "shared") {
        outcome = run(kernel("    mov.u32 %r2, s;\n    st.shared.f32 [%r2+128], 0f00000000;"), 1, 1);
        expected = "writes 4 bytes at byte 128 of shared memory, which has 128";
    } else if (which == "barrier") {
        outcome = run(kernel("    setp.lt.u32 %p1, %r1, 3;\n    @%p1 bra $out;\n    bar.sync 0;\n    bra.uni "
                             "$end;\n$out:\n    bar.sync 0;\n$end:\n    st.global.f32 [%rd2], 0f00000000;"),
                      32, 32);
        expected = "lanes of a warp wait for others that wait elsewhere";
    } else if (which == "exchange") {
        outcome =
            run(kernel("    setp.lt.u32 %p1, %r1, 3;\n    @%p1 bra $out;\n    shfl.sync.bfly.b32 %r4, %r1, 1, 31, "
                       "-1;\n    bra.uni $end;\n$out:\n    bar.sync 0;\n$end:\n    st.global.f32 [%rd2], 0f00000000;"),
                32, 32);
        expected = "lanes of a warp wait for others that wait elsewhere";
    } else {
        return 2;
    }
    bool found = outcome.status == CUDA_ERROR_LAUNCH_FAILED && outcome.message.find(expected) != std::string::npos;
    if (!found)
        std::printf("selftest: %s: status %d, \"%s\"; expected \"%s\"\n", which.c_str(), int(outcome.status),
                    outcome.message.c_str(), expected);
    return found ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
    if (count == 2) return fault(arguments[1]);
    control_flow();
    sums();
    arithmetic();
    calls();
    unwritten_memory();
    check(run(kernel("    bogus.f32 %f1, %f2;"), 1, 1).status != CUDA_SUCCESS, "an unknown instruction is refused");
    check(run(kernel(""), 2048, 1).status == CUDA_ERROR_INVALID_VALUE, "a block of 2048 threads is refused");
    return failures == 0 ? 0 : 1;
}
