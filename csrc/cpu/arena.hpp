// Workspace memory: one aligned block per calling thread, kept between calls, so that a stream of calls allocates
// nothing once it runs.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "pages.hpp"
#include "tuning.hpp"

namespace gradhess::cpu {

// Hands out aligned pieces of a block; with no block it only counts, so one plan serves measuring and placing.
class Carver {
 public:
    explicit Carver(std::byte* base) : base_(base) {}

    template <class T>
    T* take(Index count) {
        T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
        constexpr std::size_t alignment = 128;
        used_ += (static_cast<std::size_t>(count) * sizeof(T) + alignment - 1) / alignment * alignment;
        return piece;
    }

    std::size_t used() const { return used_; }

 private:
    std::byte* base_;
    std::size_t used_ = 0;
};

class Arena {
 public:
    // Runs plan(Carver&) twice: to measure, then on memory that is large enough. Throws std::bad_alloc.
    template <class Plan>
    void place(Plan plan) {
        Carver measure(nullptr);
        plan(measure);
        reserve(measure.used());
        Carver carver(memory_.get());
        plan(carver);
    }

    // Gives memory back that is more than a thread should keep.
    void trim() {
        if (capacity_ > tuning::kKeptWorkspaceBytes) {
            memory_.reset();
            capacity_ = 0;
        }
    }

    static Arena& of_this_thread() {
        thread_local Arena arena;
        return arena;
    }

 private:
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };

    void reserve(std::size_t bytes) {
        if (bytes <= capacity_) return;
        memory_.reset();
        capacity_ = 0;
        const bool large = bytes >= kLargePage;
        const std::size_t alignment = large ? kLargePage : kPage;
        const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
        memory_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)));
        if (!memory_) throw std::bad_alloc();
        capacity_ = rounded;
#ifdef __linux__
        if (large) madvise(memory_.get(), rounded, MADV_HUGEPAGE);
#endif
    }

    std::unique_ptr<std::byte, Free> memory_;
    std::size_t capacity_ = 0;
};

// While it lives, the calling thread has another arena, which is empty. For code that runs in the middle of a kernel
// and may call kernels itself, like a signal handler of Python: the workspace of the kernel stays as it is.
class ArenaAside {
 public:
    ArenaAside() { std::swap(kept_, Arena::of_this_thread()); }
    ~ArenaAside() { std::swap(kept_, Arena::of_this_thread()); }
    ArenaAside(const ArenaAside&) = delete;
    ArenaAside& operator=(const ArenaAside&) = delete;

 private:
    Arena kept_;
};

}  // namespace gradhess::cpu
