#include "roster.hpp"

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "tuning.hpp"

namespace gradhess::cpu {

Roster& Roster::of_this_thread() {
    thread_local const std::shared_ptr<Roster> roster = std::make_shared<Roster>();
    return *roster;
}

void Roster::dismiss() {
    if (--calls_ == 0) dismissed_ = std::chrono::steady_clock::now();
}

#ifdef __linux__

Roster::Entry& Roster::entry_of_this_thread() {
    thread_local Entry entry;
    return entry;
}

void Roster::Entry::strike() {
    if (!roster) return;
    {
        const std::lock_guard lock(roster->mutex_);
        Worker& worker = roster->workers_[static_cast<std::size_t>(rank)];
        if (worker.thread == static_cast<pid_t>(syscall(SYS_gettid))) worker.thread = 0;
    }
    roster.reset();
}

void Roster::call(int n_threads) {
    if (++calls_ > 1) return;
    const auto size = static_cast<std::size_t>(n_threads);
    const std::lock_guard lock(mutex_);
    if (workers_.size() < size) workers_.resize(size);
    if (std::chrono::steady_clock::now() - dismissed_ < tuning::kAwake) return;
    if (process_ != getpid()) {  // a child of fork has none of its parent's threads
        process_ = getpid();
        for (Worker& worker : workers_) worker = Worker{};
    }
    const int here = sched_getcpu();
    if (here < 0 || here >= CPU_SETSIZE) return;
    for (std::size_t rank = 1; rank < size; ++rank) {
        Worker& worker = workers_[rank];
        if (worker.thread == 0) continue;
        if (!worker.kept_off && sched_getaffinity(worker.thread, sizeof worker.allowed, &worker.allowed) != 0) continue;
        cpu_set_t elsewhere = worker.allowed;
        CPU_CLR(static_cast<unsigned>(here), &elsewhere);
        if (CPU_COUNT(&elsewhere) == 0) continue;
        if (sched_setaffinity(worker.thread, sizeof elsewhere, &elsewhere) == 0) worker.kept_off = true;
    }
}

void Roster::arrive(int rank) {
    if (rank == 0 || calls_ > 1) return;
    Worker& worker = workers_[static_cast<std::size_t>(rank)];
    Entry& entry = entry_of_this_thread();
    if (entry.roster.get() != this || entry.rank != rank || worker.thread == 0) {
        entry.strike();
        const std::lock_guard lock(mutex_);
        worker.thread = static_cast<pid_t>(syscall(SYS_gettid));
        entry.roster = shared_from_this();
        entry.rank = rank;
    }
    if (worker.kept_off) {
        sched_setaffinity(worker.thread, sizeof worker.allowed, &worker.allowed);
        worker.kept_off = false;
    }
}

#else

void Roster::call(int) { ++calls_; }
void Roster::arrive(int) {}

#endif

}  // namespace gradhess::cpu
