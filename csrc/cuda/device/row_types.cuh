// The types of a row pass, by the dtype of X: that of its entries, and that in which rows are computed.
#pragma once

#include <string>
#include <type_traits>

#include "../block.hpp"
#include "../run_time.hpp"
#include "launch.cuh"
#include "number_types.cuh"

namespace gradhess::cuda::device {

template <class SOURCE, class NUMBER>
struct RowTypes {
    using Source = SOURCE;
    using Number = NUMBER;
};

template <class Number>
std::string name_of_type() {
    if (std::is_same_v<Number, double>) return "double";
    if (std::is_same_v<Number, float>) return "float";
    return std::is_same_v<Number, Half> ? "device::Half" : "device::BFloat16";
}

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

constexpr int kInvalidValue = 1;  // cudaErrorInvalidValue

// `kernel`, or `call` in its place where the loss is not one of this module's.
template <class Job>
Status launch_rows(const LaunchShape& shape, void (*kernel)(Job), Loss loss, const RunTimeLaunch& run_time,
                   KernelCall call, const Job& job) {
    if (loss != Loss::custom) return launch(shape, kernel, job);
    if (!run_time) return {kInvalidValue, "a custom loss needs kernels compiled for it", shape.file, shape.line};
    call.grid = shape.grid.x;
    call.threads = shape.threads;
    call.shared_bytes = shape.shared_bytes;
    call.job_data = &job;
    call.job_bytes = sizeof job;
    return run_time(call);
}

}  // namespace gradhess::cuda::device
