// What a call of the CUDA module came to: the code of a cudaError_t, its text, and where it was met.
#pragma once

#include <string>

namespace gradhess::cuda {

struct Status {
    int code = 0;  // 0 is success
    std::string reason;
    const char* file = "";
    int line = 0;

    bool ok() const { return code == 0; }
};

}  // namespace gradhess::cuda
