"""The GPU backend from CuPy and cuBLAS."""
