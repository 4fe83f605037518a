#include "prepare.cuh"

template cudaError_t gdni::launch_prepare<gdni::bf16>(const gdni::Arguments &, cudaStream_t);
