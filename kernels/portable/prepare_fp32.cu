#include "prepare.cuh"

template cudaError_t gdni::launch_prepare<float>(const gdni::Arguments &, cudaStream_t);
