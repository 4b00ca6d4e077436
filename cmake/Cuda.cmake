# Decides whether the CUDA module is built (GRADHESS_WITH_CUDA) and defines the target `cuda_settings`.
# GRADHESS_CUDA, from the environment or as -DGRADHESS_CUDA=..., is auto (where a compiler is found), on or off.

set(GRADHESS_CUDA_default auto)
if(DEFINED ENV{GRADHESS_CUDA})
  set(GRADHESS_CUDA_default "$ENV{GRADHESS_CUDA}")
endif()
set(GRADHESS_CUDA "${GRADHESS_CUDA_default}" CACHE STRING "Compile the CUDA module: auto, on or off")
string(TOLOWER "${GRADHESS_CUDA}" cuda_wish)
if(NOT cuda_wish MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "GRADHESS_CUDA is '${GRADHESS_CUDA}'; it must be auto, on or off")
endif()

set(GRADHESS_WITH_CUDA OFF)
set(cuda_reason "switched off by GRADHESS_CUDA=off")
if(NOT cuda_wish STREQUAL "off")
  # Real code for A100 and H100/H200, and an intermediate form that drivers compile for anything newer.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual")
  endif()
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(cuda_reason "no working CUDA compiler (nvcc) was found on PATH or in CUDACXX")
  else()
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.2)
      set(cuda_reason "CUDA ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.2")
    else()
      set(GRADHESS_WITH_CUDA ON)
    endif()
  endif()
endif()

if(GRADHESS_WITH_CUDA)
  message(STATUS "gradhess: CUDA module for ${CMAKE_CUDA_ARCHITECTURES}, by CUDA ${CMAKE_CUDA_COMPILER_VERSION}")
elseif(cuda_wish STREQUAL "on")
  message(FATAL_ERROR "GRADHESS_CUDA=on, but ${cuda_reason}")
else()
  message(STATUS "gradhess: no CUDA module: ${cuda_reason}")
endif()

set(CMAKE_CUDA_STANDARD 17)  # CMake 3.25 does not know how to ask nvcc for C++20
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
add_library(cuda_settings INTERFACE)
string(REPLACE ";" "," cuda_architectures "${CMAKE_CUDA_ARCHITECTURES}")
target_compile_definitions(cuda_settings INTERFACE "GRADHESS_CUDA_ARCHITECTURES=\"${cuda_architectures}\"")
# -Xptxas -v prints registers and spills of every kernel; .ci/run reads them. Never --use_fast_math.
target_compile_options(cuda_settings INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-v;-Xcompiler=-Wall>")
if(GRADHESS_WERROR)
  target_compile_options(cuda_settings INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>")
endif()
