// Loops over compile-time numbers: f(std::integral_constant<int, i>) for i in [FIRST, LAST).
#pragma once

#include <type_traits>

#include "../device/platform.cuh"

namespace gradhess::cuda::tensor {

template <int FIRST, int LAST, class Function>
GRADHESS_DEVICE void unrolled(Function&& function) {
    if constexpr (FIRST < LAST) {
        function(std::integral_constant<int, FIRST>{});
        unrolled<FIRST + 1, LAST>(function);
    }
}

// The same on the host, until a function returns true.
template <int FIRST, int LAST, class Function>
bool first_true(Function&& function) {
    if constexpr (FIRST < LAST) {
        return function(std::integral_constant<int, FIRST>{}) || first_true<FIRST + 1, LAST>(function);
    } else {
        return false;
    }
}

}  // namespace gradhess::cuda::tensor
