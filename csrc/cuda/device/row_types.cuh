// The types of a row pass, by the dtype of X: that of its entries, and that in which rows are computed.
#pragma once

#include "../block.hpp"
#include "../status.hpp"
#include "number_types.cuh"

namespace gradhess::cuda::device {

template <class SOURCE, class NUMBER>
struct RowTypes {
    using Source = SOURCE;
    using Number = NUMBER;
};

// call(RowTypes<...>{}), and what it returns.
template <class Call>
Status with_row_types(DType dtype, Call call) {
    switch (dtype) {
        case DType::f64: return call(RowTypes<double, double>{});
        case DType::f32: return call(RowTypes<float, float>{});
        case DType::f16: return call(RowTypes<Half, float>{});
        case DType::bf16: return call(RowTypes<BFloat16, float>{});
    }
    return {};
}

}  // namespace gradhess::cuda::device
