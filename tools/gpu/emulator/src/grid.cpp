// How a grid runs: block after block, a block's warps in turn from barrier to barrier, a warp's lanes together where
// they are at the same instruction. Of lanes that have parted, those furthest back go first, so that they meet again.
//
// With EMULATED_GPU_ORDER=descending, blocks and warps run in the other order: a kernel without races gives the same
// bits.
#include <algorithm>
#include <cstdlib>

#include "warp.h"

namespace emulator {

namespace {

std::string where(const Warp& warp, const Instruction& instruction, unsigned lane) {
    const Kernel& kernel = warp.block.kernel;
    return kernel.name + ", thread " + std::to_string(warp.first_thread + lane) + ", `" +
           kernel.texts[instruction.text] + "`: ";
}

unsigned lowest(Lanes lanes) { return unsigned(__builtin_ctz(lanes)); }

void execute(Warp& warp, const Instruction& instruction, Lanes lanes) {
    warp.lane = lowest(lanes);
    try {
        instruction.run(warp, instruction, lanes);
    } catch (const Fault& fault) {
        throw Fault(where(warp, instruction, warp.lane) + fault.what());
    }
}

/// Runs until every lane has ended or waits at a barrier.
void run_warp(Warp& warp) {
    const Kernel& kernel = warp.block.kernel;
    for (;;) {
        Lanes ready = warp.live & ~warp.waiting;
        if (ready == 0) return;
        unsigned pc = ~0u;
        for (Lanes rest = ready; rest != 0; rest &= rest - 1) pc = std::min(pc, warp.pc[lowest(rest)]);
        Lanes here = 0;
        for (Lanes rest = ready; rest != 0; rest &= rest - 1) {
            if (warp.pc[lowest(rest)] == pc) here |= Lanes(1) << lowest(rest);
        }
        // While these go on together and no others wait further back, there is nothing to choose.
        unsigned bound = ~0u;
        for (Lanes rest = ready & ~here; rest != 0; rest &= rest - 1) bound = std::min(bound, warp.pc[lowest(rest)]);
        bool together = true;
        while (together && pc < bound) {
            const Instruction& instruction = kernel.code[pc];
            Lanes lanes = here;
            if (instruction.guard >= 0) {
                const std::uint64_t* guard = warp.slot(instruction.guard);
                for (unsigned lane = 0; lane < LANES; ++lane) {
                    if (bool(guard[lane] & 1) == instruction.unless) lanes &= ~(Lanes(1) << lane);
                }
            }
            unsigned next = pc + 1;
            switch (instruction.kind) {
                case Kind::Plain:
                    if (lanes != 0) execute(warp, instruction, lanes);
                    break;
                case Kind::Branch:
                    if (lanes == here) {
                        next = unsigned(instruction.offset);
                    } else if (lanes != 0) {
                        for (Lanes rest = here; rest != 0; rest &= rest - 1) {
                            unsigned lane = lowest(rest);
                            warp.pc[lane] = lanes >> lane & 1 ? unsigned(instruction.offset) : next;
                        }
                        together = false;
                    }
                    break;
                case Kind::Exit:
                    warp.live &= ~lanes;
                    here &= ~lanes;
                    if (here == 0) together = false;
                    break;
                case Kind::Exchange: {
                    if (lanes == 0) break;
                    // All lanes that it names take part, or wait for those yet to come.
                    Lanes named = Lanes(warp.slot(instruction.operand[7])[lowest(lanes)]) & warp.live;
                    Lanes arrived = 0;
                    for (Lanes rest = warp.live; rest != 0; rest &= rest - 1) {
                        unsigned lane = lowest(rest);
                        if (here >> lane & 1 || (warp.waiting >> lane & 1 && warp.pc[lane] == pc))
                            arrived |= Lanes(1) << lane;
                    }
                    if ((named & ~arrived) != 0) {
                        for (Lanes rest = here; rest != 0; rest &= rest - 1) warp.pc[lowest(rest)] = pc;
                        warp.waiting |= here;
                        together = false;
                        break;
                    }
                    warp.waiting &= ~arrived;
                    here = arrived;
                    execute(warp, instruction, arrived);
                    break;
                }
                case Kind::Barrier:
                    if (lanes == 0) break;
                    for (Lanes rest = here; rest != 0; rest &= rest - 1) warp.pc[lowest(rest)] = pc;
                    warp.waiting |= here;
                    together = false;
                    break;
            }
            if (together) {
                pc = next;
                if (pc >= kernel.code.size()) {
                    warp.live &= ~here;
                    together = false;
                }
                if (pc >= bound || !together) {
                    for (Lanes rest = here; rest != 0; rest &= rest - 1) warp.pc[lowest(rest)] = pc;
                }
            }
        }
    }
}

/// What a warp waits for once none of its lanes can go on: its lanes are all at one barrier.
void check_barrier(const Warp& warp) {
    const Instruction* at = nullptr;
    for (Lanes rest = warp.live; rest != 0; rest &= rest - 1) {
        unsigned lane = lowest(rest);
        const Instruction& instruction = warp.block.kernel.code[warp.pc[lane]];
        if (instruction.kind != Kind::Barrier || (at != nullptr && at != &instruction)) {
            throw Fault(where(warp, instruction, lane) + "lanes of a warp wait for others that wait elsewhere");
        }
        at = &instruction;
    }
}

std::uint64_t special(Special which, const Grid& grid, const unsigned* block, unsigned thread) {
    const unsigned* n = grid.threads;
    switch (which) {
        case Special::TidX: return thread % n[0];
        case Special::TidY: return thread / n[0] % n[1];
        case Special::TidZ: return thread / n[0] / n[1];
        case Special::NtidX: return n[0];
        case Special::NtidY: return n[1];
        case Special::NtidZ: return n[2];
        case Special::CtaidX: return block[0];
        case Special::CtaidY: return block[1];
        case Special::CtaidZ: return block[2];
        case Special::NctaidX: return grid.blocks[0];
        case Special::NctaidY: return grid.blocks[1];
        case Special::NctaidZ: return grid.blocks[2];
        case Special::Lane: return thread % LANES;
    }
    return 0;
}

}  // namespace

void run(const Kernel& kernel, const Grid& grid, std::vector<char>& parameters, Memory& memory) {
    static const bool descending = [] {
        const char* order = std::getenv("EMULATED_GPU_ORDER");
        return order != nullptr && std::string(order) == "descending";
    }();
    unsigned threads = grid.threads[0] * grid.threads[1] * grid.threads[2];
    unsigned warp_count = (threads + LANES - 1) / LANES;
    std::uint64_t block_count = std::uint64_t(grid.blocks[0]) * grid.blocks[1] * grid.blocks[2];
    Block block{kernel, memory, parameters, std::vector<char>(kernel.shared_bytes + grid.dynamic_shared)};
    std::vector<Warp> warps;
    for (unsigned w = 0; w < warp_count; ++w) {
        Warp warp{block, w * LANES, std::vector<std::uint64_t>(std::size_t(kernel.slots) * LANES),
                  std::vector<char>(std::size_t(kernel.local_bytes) * LANES)};
        for (auto [slot, value] : kernel.constants) std::fill_n(warp.slot(slot), LANES, value);
        warps.push_back(std::move(warp));
    }
    for (std::uint64_t b = 0; b < block_count; ++b) {
        std::uint64_t number = descending ? block_count - 1 - b : b;
        unsigned index[3] = {unsigned(number % grid.blocks[0]), unsigned(number / grid.blocks[0] % grid.blocks[1]),
                             unsigned(number / grid.blocks[0] / grid.blocks[1])};
        std::fill(block.shared.begin(), block.shared.end(), char(0xff));
        for (Warp& warp : warps) {
            unsigned present = std::min(LANES, threads - warp.first_thread);
            warp.live = present == LANES ? ~Lanes(0) : (Lanes(1) << present) - 1;
            warp.waiting = 0;
            std::fill_n(warp.pc, LANES, 0u);
            for (auto [slot, which] : kernel.specials) {
                for (unsigned lane = 0; lane < LANES; ++lane)
                    warp.slot(slot)[lane] = special(which, grid, index, warp.first_thread + lane);
            }
        }
        for (bool running = true; running;) {
            running = false;
            for (unsigned w = 0; w < warp_count; ++w) run_warp(warps[descending ? warp_count - 1 - w : w]);
            // All that are left have arrived: the barrier opens.
            for (Warp& warp : warps) {
                if (warp.live == 0) continue;
                check_barrier(warp);
                for (Lanes rest = warp.live; rest != 0; rest &= rest - 1) ++warp.pc[lowest(rest)];
                warp.waiting = 0;
                running = true;
            }
        }
    }
}

}  // namespace emulator
