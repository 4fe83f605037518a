#include "backward.cuh"

template cudaError_t gdni::launch_chains<float>(const gdni::Arguments &, bool, bool, cudaStream_t);
