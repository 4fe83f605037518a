#include "forward.cuh"

template cudaError_t gdni::launch_forward<float>(const gdni::Arguments &, cudaStream_t);
