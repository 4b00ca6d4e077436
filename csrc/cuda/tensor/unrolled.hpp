// Loops over compile-time numbers: f(std::integral_constant<int, i>) for i in [FIRST, LAST).
#pragma once

#include <type_traits>

#include "../planes.hpp"

namespace gradhess::cuda::tensor {

template <int FIRST, int LAST, class Function>
GRADHESS_HOST_DEVICE inline void unrolled(Function&& function) {
    if constexpr (FIRST < LAST) {
        function(std::integral_constant<int, FIRST>{});
        unrolled<FIRST + 1, LAST>(function);
    }
}

}  // namespace gradhess::cuda::tensor
