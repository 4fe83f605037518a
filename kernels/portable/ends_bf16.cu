#include "ends.cuh"

template cudaError_t gdni::launch_ends<gdni::bf16>(const gdni::Arguments &, cudaStream_t);
