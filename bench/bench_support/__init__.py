"""What the benchmarks share: problems with known answers, the competitors, memory, and the facts of the machine."""
