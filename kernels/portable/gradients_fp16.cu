#include "gradients.cuh"

template cudaError_t gdni::launch_gradients<gdni::fp16>(const gdni::Arguments &, cudaStream_t);
template size_t gdni::gradients_shared_memory<gdni::fp16>(int);
