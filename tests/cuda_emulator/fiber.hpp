// Fibers: a stack and a place to go on from, one for each thread of an emulated thread block.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_emulator {

#if defined(__x86_64__)

using StackPointer = void*;

// Saves the registers that a call preserves and the stack pointer, and goes on where `to` was left.
[[gnu::naked, gnu::noinline]] inline void switch_stack(StackPointer* /*from*/, StackPointer /*to*/) {
    __asm__(
        "pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
        "movq %rsp, (%rdi); movq %rsi, %rsp\n"
        "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}

class Context {
 public:
    void prepare(void* stack, std::size_t bytes, void (*entry)()) {
        auto top = (reinterpret_cast<std::uintptr_t>(stack) + bytes) & ~std::uintptr_t{63};
        auto** slots = reinterpret_cast<void**>(top - 64);  // a return address on a multiple of 16, as after a call
        slots[0] = reinterpret_cast<void*>(entry);
        for (int saved = 1; saved <= 6; ++saved) slots[-saved] = nullptr;
        pointer_ = slots - 6;
    }
    void switch_to(Context& other) { switch_stack(&pointer_, other.pointer_); }

 private:
    StackPointer pointer_ = nullptr;
};

#else

class Context {
 public:
    void prepare(void* stack, std::size_t bytes, void (*entry)()) {
        getcontext(&context_);
        context_.uc_stack.ss_sp = stack;
        context_.uc_stack.ss_size = bytes;
        context_.uc_link = nullptr;
        makecontext(&context_, entry, 0);
    }
    void switch_to(Context& other) { swapcontext(&context_, &other.context_); }

 private:
    ucontext_t context_;
};

#endif

// Pages for stacks, taken when they are touched, with one that may not be touched below each stack.
class Stacks {
 public:
    static constexpr std::size_t kBytes = 256 << 10;

    Stacks() = default;
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;
    ~Stacks() { release(); }

    void* stack(std::size_t number, std::size_t count) {
        if (count > count_) {
            release();
            void* pages = mmap(nullptr, count * kBytes, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (pages == MAP_FAILED) throw std::bad_alloc();
            pages_ = static_cast<char*>(pages);
            count_ = count;
            for (std::size_t i = 0; i < count; ++i) mprotect(pages_ + i * kBytes, 4096, PROT_NONE);
        }
        return pages_ + number * kBytes;
    }

 private:
    void release() {
        if (pages_) munmap(pages_, count_ * kBytes);
        pages_ = nullptr;
        count_ = 0;
    }

    char* pages_ = nullptr;
    std::size_t count_ = 0;
};

}  // namespace cuda_emulator
