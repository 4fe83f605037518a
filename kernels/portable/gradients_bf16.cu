#include "gradients.cuh"

template cudaError_t gdni::launch_gradients<gdni::bf16>(const gdni::Arguments &, cudaStream_t);
template size_t gdni::gradients_shared_memory<gdni::bf16>(int);
