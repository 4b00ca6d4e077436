// Which instruction sets were compiled in, and which of them this processor has.
#pragma once

#include <span>

#include "kernel_table.hpp"

namespace gradhess::cpu {

// Best first.
std::span<const Isa* const> supported_isas();

}  // namespace gradhess::cpu
