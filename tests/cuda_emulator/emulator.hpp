// Runs CUDA kernels on the processor, so that their code is executed and checked without a GPU.
//
// The kernel is compiled as ordinary C++; each thread of a block is a fiber, and runs until it waits for others: at
// __syncthreads, a named barrier, an mbarrier, or an operation of a whole warp (shuffle, ldmatrix, mma). Clusters of
// blocks run together, clusters one after another. Everything happens on one thread of the host.
//
// What it finds: wrong indices (dynamic shared memory lies between guard bytes and starts as NaNs), addresses that an
// instruction would refuse (alignment, not in shared memory), barriers that not all threads reach, lanes of a warp in
// different operations, and, with a random schedule (Settings::seed), data used before it was waited for: the order
// of threads and blocks is then random, and asynchronous copies land as late, or as early, as they are allowed to.
// What it does not: timing, the memory model below barriers, races inside one stretch between two barriers that no
// order of whole stretches shows.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __cluster_dims__(...)

struct uint3 {
    unsigned x = 0, y = 0, z = 0;
};

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr unsigned count() const { return x * y * z; }
};

// Of the fiber that runs.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace cuda_emulator {

constexpr unsigned kWarp = 32;
constexpr std::size_t kGuardBytes = 4096;
constexpr std::size_t kSharedAlignment = 1024;
constexpr std::size_t kSharedLimit = 227 << 10;
constexpr unsigned char kGuard = 0xa5;
constexpr int kNamedBarriers = 16;

struct Shape {
    dim3 grid;
    dim3 block;
    std::size_t shared_bytes = 0;
    unsigned cluster = 1;  // blocks along x
    const void* kernel = nullptr;
};

struct Settings {
    std::uint64_t seed = 0;  // 0: everything in order
    int architecture = 900;  // as __CUDA_ARCH__, for what is chosen at run time
    // What the device does not run, for tests of illegal launches: a kernel in such blocks, and more blocks than these.
    const void* refused_kernel = nullptr;
    unsigned refused_threads = 0;
    std::size_t refused_shared_bytes = 0;
    unsigned most_blocks = (1u << 31) - 1;
    bool tensor_maps = true;  // whether they encode
};

// An asynchronous copy of one thread (cp.async), done when the thread waits for its group, or at once.
struct PendingCopy {
    void* to;
    const void* from;
    unsigned bytes;
    unsigned filled;  // bytes of zeros after them
};

struct Warp {
    std::array<void*, kWarp> arguments{};
    unsigned arrived = 0;
    unsigned alive = 0;
    const void* operation = nullptr;
    std::uint64_t generation = 0;
};

struct Barrier {
    unsigned arrived = 0;
    unsigned expected = 0;
    std::uint64_t generation = 0;
};

struct Block {
    uint3 index;
    unsigned rank = 0;  // in its cluster
    std::vector<unsigned char> memory;
    unsigned char* shared = nullptr;
    std::size_t shared_bytes = 0;
    std::array<Barrier, kNamedBarriers> barriers;
    std::vector<Warp> warps;

    bool holds(const void* pointer, std::size_t bytes) const {
        const auto* p = static_cast<const unsigned char*>(pointer);
        return p >= shared && p + bytes <= shared + shared_bytes;
    }
};

struct Fiber {
    Context context;
    Block* block = nullptr;
    uint3 index;
    unsigned number = 0;  // in its block
    bool done = false;
    const std::uint64_t* watched = nullptr;  // asleep until this changes
    std::uint64_t seen = 0;
    std::vector<std::vector<PendingCopy>> groups;
    std::vector<PendingCopy> open_group;
};

class Emulator {
 public:
    Settings settings;
    std::vector<Shape> launches;  // so far, for tests

    static Emulator& instance() {
        static Emulator emulator;
        return emulator;
    }

    template <class Kernel>
    void launch(const Shape& shape, Kernel&& kernel) {
        require_legal(shape);
        launches.push_back(shape);
        kernel_ = std::forward<Kernel>(kernel);
        shape_ = shape;
        random_.seed(settings.seed);
        blockDim = shape.block;
        gridDim = shape.grid;
        const unsigned clusters = shape.grid.count() / shape.cluster;
        std::vector<unsigned> order(clusters);
        for (unsigned i = 0; i < clusters; ++i) order[i] = i;
        if (settings.seed) std::shuffle(order.begin(), order.end(), random_);
        for (const unsigned cluster : order) run_cluster(cluster);
    }

    // Throws what a launch would be refused for.
    void require_legal(const Shape& shape) const {
        if (shape.block.count() < 1 || shape.block.count() > 1024)
            throw std::runtime_error("a block has 1 to 1024 threads, not " + std::to_string(shape.block.count()));
        if (shape.shared_bytes > kSharedLimit)
            throw std::runtime_error(std::to_string(shape.shared_bytes) + " bytes of shared memory; a block has " +
                                     std::to_string(kSharedLimit));
        if (shape.grid.count() == 0 || shape.grid.y > 65535 || shape.grid.z > 65535)
            throw std::runtime_error("a grid has 1 to 2^31 - 1, 65535 and 65535 blocks");
        if (shape.grid.x > settings.most_blocks) throw std::runtime_error("more blocks than the device runs");
        if (shape.kernel && shape.kernel == settings.refused_kernel && shape.block.x == settings.refused_threads &&
            shape.shared_bytes == settings.refused_shared_bytes)
            throw std::runtime_error("a kernel that the device does not run");
        if (shape.cluster < 1 || shape.grid.x % shape.cluster)
            throw std::runtime_error("the grid is no whole number of clusters");
    }

    // ---- for the operations of device/*.cuh, called by a fiber ----

    Fiber& fiber() { return *current_; }
    Block& block() { return *current_->block; }
    Block& block_of_cluster(unsigned rank) { return blocks_.at(rank); }
    unsigned cluster_size() const { return shape_.cluster; }
    unsigned lane() const { return current_->number % kWarp; }
    bool random_schedule() const { return settings.seed != 0; }
    bool coin() { return settings.seed && (random_() & 1); }
    void made_progress() { ++progress_; }

    [[noreturn]] void fail(const std::string& what) {
        const uint3 b = current_->block->index;
        throw std::runtime_error("block (" + std::to_string(b.x) + ", " + std::to_string(b.y) + ", " +
                                 std::to_string(b.z) + "), thread " + std::to_string(current_->number) + ": " + what);
    }
    void require(bool condition, const char* what) {
        if (!condition) fail(what);
    }
    void require_shared(const void* pointer, std::size_t bytes, std::size_t alignment, const char* what) {
        require(block().holds(pointer, bytes), (std::string(what) + " outside of shared memory").c_str());
        require(reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0,
                (std::string(what) + ": address is not aligned").c_str());
    }

    // Lets others run; for loops that poll.
    void yield() { current_->context.switch_to(scheduler_); }

    // Sleeps until `generation` changes.
    void sleep(const std::uint64_t& generation) {
        current_->watched = &generation;
        current_->seen = generation;
        yield();
    }

    template <class Ready>
    void wait_until(Ready ready) {
        while (!ready()) yield();
        made_progress();
    }

    // Named barrier `id` of `threads` threads (0: of the whole block). Only arrives where `wait` is false.
    void barrier(int id, unsigned threads, bool wait = true) {
        require(id >= 0 && id < kNamedBarriers, "number of a named barrier is not in 0..15");
        const unsigned expected = threads ? threads : shape_.block.count();
        require(expected % kWarp == 0 || expected == shape_.block.count(),
                "threads of a named barrier must be a multiple of 32");
        Barrier& barrier = block().barriers[static_cast<std::size_t>(id)];
        if (barrier.arrived == 0) barrier.expected = expected;
        require(barrier.expected == expected, "threads disagree on the size of a named barrier");
        made_progress();
        if (++barrier.arrived == expected) {
            barrier.arrived = 0;
            ++barrier.generation;
        } else if (wait) {
            sleep(barrier.generation);
        }
    }

    void cluster_barrier() {
        made_progress();
        if (++cluster_barrier_.arrived == shape_.cluster * shape_.block.count()) {
            cluster_barrier_.arrived = 0;
            ++cluster_barrier_.generation;
        } else {
            sleep(cluster_barrier_.generation);
        }
    }

    // An operation of all lanes of the warp: the last to come runs operation(arguments of all lanes), entries of
    // lanes that the block does not have being null.
    template <class Arguments, class Operation>
    void collective(Arguments& arguments, Operation operation) {
        static const char identity = 0;  // one for each operation
        Warp& warp = block().warps[current_->number / kWarp];
        require(!warp.arrived || warp.operation == &identity, "lanes of a warp are in different operations");
        warp.operation = &identity;
        warp.arguments[lane()] = &arguments;
        warp.arrived |= 1u << lane();
        made_progress();
        if (warp.arrived == warp.alive) {
            std::array<Arguments*, kWarp> all;
            for (unsigned i = 0; i < kWarp; ++i) all[i] = static_cast<Arguments*>(warp.arguments[i]);
            operation(all);
            warp.arrived = 0;
            warp.arguments.fill(nullptr);
            ++warp.generation;
        } else {
            sleep(warp.generation);
        }
    }

 private:
    static void entry() {
        Emulator& self = instance();
        try {
            self.kernel_();
        } catch (...) {
            self.error_ = std::current_exception();
        }
        self.current_->done = true;
        self.made_progress();
        self.yield();
    }

    void start_block(unsigned number, unsigned rank) {
        Block& block = blocks_[rank];
        const dim3 grid = shape_.grid;
        block.index = {number % grid.x, number / grid.x % grid.y, number / (grid.x * grid.y)};
        block.rank = rank;
        block.shared_bytes = shape_.shared_bytes;
        block.memory.assign(shape_.shared_bytes + 2 * kGuardBytes + kSharedAlignment, kGuard);
        const auto address = reinterpret_cast<std::uintptr_t>(block.memory.data()) + kGuardBytes;
        block.shared = reinterpret_cast<unsigned char*>((address + kSharedAlignment - 1) & ~(kSharedAlignment - 1));
        std::memset(block.shared, 0xff, block.shared_bytes);  // NaN in every floating type
        block.barriers.fill({});
        const unsigned threads = shape_.block.count();
        block.warps.assign((threads + kWarp - 1) / kWarp, {});
        for (unsigned t = 0; t < threads; ++t) {
            block.warps[t / kWarp].alive |= 1u << t % kWarp;
            const std::size_t slot = std::size_t{rank} * threads + t;
            Fiber& fiber = fibers_[slot];
            fiber = Fiber{};
            fiber.block = &block;
            fiber.number = t;
            fiber.index = {t % shape_.block.x, t / shape_.block.x % shape_.block.y,
                           t / (shape_.block.x * shape_.block.y)};
            fiber.context.prepare(stacks_.stack(slot, fibers_.size()), Stacks::kBytes, &Emulator::entry);
        }
    }

    void run_cluster(unsigned cluster) {
        const unsigned threads = shape_.block.count();
        blocks_.resize(shape_.cluster);
        fibers_.resize(std::size_t{shape_.cluster} * threads);
        cluster_barrier_ = {};
        error_ = nullptr;
        for (unsigned rank = 0; rank < shape_.cluster; ++rank) start_block(cluster * shape_.cluster + rank, rank);
        std::vector<std::size_t> order(fibers_.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
        std::size_t running = fibers_.size();
        lagging_ = settings.seed ? random_() % (fibers_.size() / kWarp + 1) : 0;
        while (running > 0) {
            if (settings.seed) std::shuffle(order.begin(), order.end(), random_);
            const std::uint64_t before = progress_;
            // One warp may lag behind all others, up to the next barrier that they need it for.
            const std::size_t slow = settings.seed ? lagging_ : fibers_.size();
            for (const bool lag : {false, true}) {
                if (lag && (progress_ != before || slow == fibers_.size())) break;
                for (const std::size_t i : order) {
                    Fiber& fiber = fibers_[i];
                    if ((i / kWarp == slow) != lag) continue;
                    if (fiber.done || (fiber.watched && *fiber.watched == fiber.seen)) continue;
                    fiber.watched = nullptr;
                    current_ = &fiber;
                    threadIdx = fiber.index;
                    blockIdx = fiber.block->index;
                    scheduler_.switch_to(fiber.context);
                    if (error_) std::rethrow_exception(error_);
                    running -= fiber.done;
                }
            }
            if (running > 0 && progress_ == before) {
                throw std::runtime_error(std::to_string(running) +
                                         " threads wait for what cannot come (a barrier that not all reach?)");
            }
        }
        for (const Block& block : blocks_) check_guards(block);
    }

    static void check_guards(const Block& block) {
        const auto intact = [](const unsigned char* from, const unsigned char* to) {
            return std::all_of(from, to, [](unsigned char byte) { return byte == kGuard; });
        };
        const unsigned char* end = block.memory.data() + block.memory.size();
        if (!intact(block.memory.data(), block.shared) || !intact(block.shared + block.shared_bytes, end))
            throw std::runtime_error("a kernel wrote outside of its shared memory");
    }

    std::function<void()> kernel_;
    Shape shape_;
    std::vector<Block> blocks_;
    std::vector<Fiber> fibers_;
    Stacks stacks_;
    Context scheduler_;
    Fiber* current_ = nullptr;
    Barrier cluster_barrier_;
    std::uint64_t progress_ = 0;
    std::size_t lagging_ = 0;  // number of a warp, or one more than there are
    std::exception_ptr error_;
    std::mt19937_64 random_;
};

inline Emulator& emulator() { return Emulator::instance(); }

}  // namespace cuda_emulator

inline void __syncthreads() { cuda_emulator::emulator().barrier(0, 0); }

inline void __syncwarp(unsigned = 0xffffffffu) {
    char nothing = 0;
    cuda_emulator::emulator().collective(nothing, [](const auto&) {});
}

inline void __threadfence() {}
inline void __threadfence_block() {}
