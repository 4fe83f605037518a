#include "prepare.cuh"

template cudaError_t gdni::launch_prepare<gdni::fp16>(const gdni::Arguments &, cudaStream_t);
