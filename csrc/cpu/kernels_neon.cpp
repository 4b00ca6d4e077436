#define GRADHESS_ISA neon
#define GRADHESS_ISA_NAME "neon"
#define GRADHESS_VECTOR_BYTES 16
#include "kernels.inl"
