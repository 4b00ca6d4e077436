// The threads of a team, so that they can be woken on processors of their own.
//
// A thread that slept is often woken on the processor of the one that calls it, where it waits for its turn: under KVM
// Linux takes a virtual processor that has halted for one that the host has taken away, and does not choose it. Then a
// call of 0.2 ms takes 6 to 10 (2 processors, Linux 6.18), until the scheduler looks again. So, where the threads of a
// team may be asleep, the caller's processor is taken out of the set that they may run on; each puts it back as soon as
// it runs, on another one. Sets that the user gave are kept, and on systems other than Linux nothing is done.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#ifdef __linux__
#include <sched.h>
#include <sys/types.h>
#endif

namespace gradhess::cpu {

// The threads that work for one calling thread.
class Roster : public std::enable_shared_from_this<Roster> {
 public:
    static Roster& of_this_thread();

    // Before threads 1, ..., n_threads - 1 are called; 0 is the caller.
    void call(int n_threads);
    // By each of them, first of all.
    void arrive(int rank);
    // By the caller, when all are done.
    void dismiss();

 private:
#ifdef __linux__
    struct Worker {
        pid_t thread = 0;       // 0 where it is not known, or has ended
        bool kept_off = false;  // of the caller's processor
        cpu_set_t allowed;      // before it was
    };

    // What a worker leaves behind in its own memory, so that it is struck off when it ends: its number may then become
    // that of another thread.
    struct Entry {
        std::shared_ptr<Roster> roster;
        int rank = 0;
        void strike();
        ~Entry() { strike(); }
    };

    static Entry& entry_of_this_thread();

    std::mutex mutex_;
    std::vector<Worker> workers_;
    pid_t process_ = 0;
#endif
    int calls_ = 0;  // under way: more than one where a signal handler interrupts the caller's part of the work
    std::chrono::steady_clock::time_point dismissed_{};
};

}  // namespace gradhess::cpu
