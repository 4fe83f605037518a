#include "forward.cuh"

template cudaError_t gdni::launch_forward<gdni::fp16>(const gdni::Arguments &, cudaStream_t);
