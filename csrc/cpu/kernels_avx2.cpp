#define GRADHESS_ISA avx2
#define GRADHESS_ISA_NAME "avx2"
#define GRADHESS_VECTOR_BYTES 32
#include "kernels.inl"
