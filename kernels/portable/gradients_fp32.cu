#include "gradients.cuh"

template cudaError_t gdni::launch_gradients<float>(const gdni::Arguments &, cudaStream_t);
template size_t gdni::gradients_shared_memory<float>(int);
