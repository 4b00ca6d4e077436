#define GRADHESS_ISA baseline
#define GRADHESS_ISA_NAME "baseline"
#define GRADHESS_VECTOR_BYTES 16
#include "kernels.inl"
