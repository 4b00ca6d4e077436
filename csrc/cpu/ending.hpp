// What ends a job before its time: a row that is not finite, or an interruption.
#pragma once

#include <atomic>
#include <chrono>
#include <limits>

#include "job.hpp"

namespace gradhess::cpu {

class Ending {
 public:
    // Without `polls` nobody is asked: that would cost more than the job.
    Ending(const Interrupt& interrupt, bool polls) : interrupt_(interrupt), polls_(polls && interrupt.requested) {}

    // Asks on the calling thread, at most every 50 ms.
    void poll() {
        if (!polls_ || interrupted()) return;
        const auto now = std::chrono::steady_clock::now();
        if (now - polled_ < std::chrono::milliseconds(50)) return;
        polled_ = now;
        if (interrupt_.requested(interrupt_.context)) interrupted_ = true;
    }

    bool interrupted() const { return interrupted_.load(); }

    // Notes a row that is not finite, if none before it is known.
    void name_bad_row(Index row) {
        for (Index seen = bad_row_.load(); row < seen && !bad_row_.compare_exchange_weak(seen, row);) {}
    }

    // The first such row that is known; beyond all rows where there is none.
    Index bad_row() const { return bad_row_.load(); }

    bool has_come() const { return interrupted() || bad_row() != kNone; }

    Result result() const {
        if (bad_row() != kNone) return {Outcome::nonfinite, bad_row()};
        return {interrupted() ? Outcome::interrupted : Outcome::done, -1};
    }

 private:
    static constexpr Index kNone = std::numeric_limits<Index>::max();

    const Interrupt interrupt_;
    const bool polls_;
    std::atomic<bool> interrupted_{false};
    std::atomic<Index> bad_row_{kNone};
    std::chrono::steady_clock::time_point polled_ = std::chrono::steady_clock::now();
};

}  // namespace gradhess::cpu
