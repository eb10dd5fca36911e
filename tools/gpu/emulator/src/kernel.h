// A kernel as the emulator runs it: PTX decoded to instructions over slots.
//
// A slot is what a register, a special register or a constant is to all 32 lanes of a warp: 64 bits for each. Narrower
// values take the low bits. Device functions are decoded into the place of each call, so a kernel is one flat list.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "memory.h"

namespace emulator {

constexpr unsigned LANES = 32;
using Lanes = std::uint32_t;

struct Warp;
struct Instruction;
using Operation = void (*)(Warp&, const Instruction&, Lanes);

enum class Space : std::uint8_t { Generic, Global, Shared, Local, Parameter };
enum class Kind : std::uint8_t { Plain, Branch, Exit, Barrier, Exchange };
enum class Special : std::uint8_t {
    TidX,
    TidY,
    TidZ,
    NtidX,
    NtidY,
    NtidZ,
    CtaidX,
    CtaidY,
    CtaidZ,
    NctaidX,
    NctaidY,
    NctaidZ,
    Lane
};

struct Instruction {
    Operation run = nullptr;
    Kind kind = Kind::Plain;
    Space space = Space::Generic;
    bool unless = false;
    /// Elements of a vector, and bytes of each.
    std::uint8_t vector = 1, bytes = 0;
    /// The slot of the predicate, or -1.
    int guard = -1;
    /// Slots: first those that are written.
    int operand[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
    /// What is added to an address, or where a branch goes.
    std::int64_t offset = 0;
    /// Where its text stands in the kernel's.
    unsigned text = 0;
};

struct Parameter {
    unsigned offset, bytes;
};

struct Kernel {
    std::string name;
    std::vector<Parameter> parameters;
    unsigned parameter_bytes = 0, shared_bytes = 0, local_bytes = 0, most_threads = 1024;
    unsigned slots = 0;
    std::vector<Instruction> code;
    /// Each instruction's text, for messages.
    std::vector<std::string> texts;
    std::vector<std::pair<int, std::uint64_t>> constants;
    std::vector<std::pair<int, Special>> specials;
};

/// A module's text, whose kernels are decoded as they are asked for.
class Module {
 public:
    /// Throws a Fault for text that is no PTX.
    Module(const char* ptx, Memory& memory);
    /// Throws a Fault for what the emulator does not know. Null where there is no such kernel.
    const Kernel* kernel(const std::string& name);

    struct Function {
        bool entry = false;
        unsigned most_threads = 1024;
        std::vector<std::string> results, arguments;
        std::vector<Parameter> parameters;
        std::string body;
    };
    std::map<std::string, Function> functions;
    /// Variables of the module in global or constant memory.
    std::map<std::string, std::uint64_t> variables;
    /// Declarations of what every kernel has in its shared memory.
    std::vector<std::string> shared;

 private:
    std::map<std::string, Kernel> kernels_;
};

/// The operation of an instruction, from its mnemonic's parts ("add", "rn", "f32"). Sets what else the instruction
/// needs.
///
/// Null for one that the emulator does not know.
Operation find_operation(const std::vector<std::string>& mnemonic, Instruction& instruction);

/// Runs a grid to its end. Throws a Fault for what a GPU would not do, or would do wrong.
struct Grid {
    unsigned blocks[3], threads[3], dynamic_shared;
};
void run(const Kernel& kernel, const Grid& grid, std::vector<char>& parameters, Memory& memory);

}  // namespace emulator
