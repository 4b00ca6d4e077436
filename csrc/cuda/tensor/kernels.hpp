// The launches that update.cu chooses from; each is compiled in a file of its own.
#pragma once

#include "../status.hpp"
#include "../stream.hpp"
#include "work.hpp"

namespace gradhess::cuda::tensor {

Status launch_mma(Scheme scheme, const UpdateJob& job, Index grid, Stream stream);
bool has_mma();    // of the current device: enough shared memory for the stages
bool has_wgmma();  // of the current device, and of what was compiled
Status launch_wgmma(Scheme scheme, const UpdateJob& job, Index grid, Stream stream);
Status launch_add_partial_sums(const UpdateJob& job, Stream stream);
Status launch_mirror(void* gram, bool gram_is_float, Index gram_pitch, Index columns, Index blocks, Index grid,
                     Stream stream);

}  // namespace gradhess::cuda::tensor
