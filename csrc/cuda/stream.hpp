// Where launches go.
#pragma once

namespace gradhess::cuda {

struct Stream {
    void* handle = nullptr;  // a cudaStream_t
    // Nothing is queued: launches are checked for all that a device refuses one for (device/launch.cuh), and tensor
    // maps are encoded. What then fails would have failed in earnest, with the same status.
    bool validate_only = false;

    Stream() = default;
    Stream(void* to, bool only_validated = false) : handle(to), validate_only(only_validated) {}
};

}  // namespace gradhess::cuda
