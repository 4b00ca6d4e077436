# Finds the C++ compiler, OpenMP, Python and pybind11, and defines the target `cpp_settings`: C++20, warnings, and
# the flags that every C++ file shares.

set(ADVICE_WITHOUT_COMPILED_CODE
    "To install without compiled code (slower: kernels are compiled by Numba at run time), set GRADHESS_COMPILED=off, "
    "for example:  GRADHESS_COMPILED=off pip install .")

include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  message(FATAL_ERROR
    "gradhess needs a C++20 compiler and found none. Install GCC 12 or Clang 14, or newer "
    "(Debian and Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: brew install llvm libomp). "
    ${ADVICE_WITHOUT_COMPILED_CODE})
endif()
enable_language(CXX)

set(oldest_GNU 12)
set(oldest_Clang 14)
set(oldest_AppleClang 15)
set(oldest "${oldest_${CMAKE_CXX_COMPILER_ID}}")
if(NOT oldest)
  message(FATAL_ERROR "gradhess is written for GCC and Clang (vector extensions), not for "
                      "${CMAKE_CXX_COMPILER_ID}. " ${ADVICE_WITHOUT_COMPILED_CODE})
elseif(CMAKE_CXX_COMPILER_VERSION VERSION_LESS oldest)
  message(FATAL_ERROR "gradhess needs ${CMAKE_CXX_COMPILER_ID} ${oldest} or newer; this is "
                      "${CMAKE_CXX_COMPILER_VERSION}. " ${ADVICE_WITHOUT_COMPILED_CODE})
endif()

find_package(OpenMP COMPONENTS CXX)
if(NOT OpenMP_CXX_FOUND)
  message(FATAL_ERROR "gradhess needs OpenMP, which ${CMAKE_CXX_COMPILER} does not offer (Debian with clang: "
                      "apt-get install libomp-dev; macOS: brew install libomp). " ${ADVICE_WITHOUT_COMPILED_CODE})
endif()

set(PYBIND11_FINDPYTHON ON)
find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)
find_package(pybind11 3.0 CONFIG REQUIRED)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)

option(GRADHESS_WERROR "Treat compiler warnings as errors" OFF)
set(GRADHESS_WARNINGS -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion)
if(GRADHESS_WERROR)
  list(APPEND GRADHESS_WARNINGS -Werror)
endif()

add_library(cpp_settings INTERFACE)
# A multiply and an add become one instruction where the instruction set has it, in every file alike; nothing else of
# -ffast-math, because the order of summation is part of the numerical contract.
target_compile_options(cpp_settings INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=fast;${GRADHESS_WARNINGS}>")
