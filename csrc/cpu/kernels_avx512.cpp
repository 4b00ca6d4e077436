#define GRADHESS_ISA avx512
#define GRADHESS_ISA_NAME "avx512"
#define GRADHESS_VECTOR_BYTES 64
#include "kernels.inl"
