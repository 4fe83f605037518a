#include "backward.cuh"

template cudaError_t gdni::launch_chains<gdni::bf16>(const gdni::Arguments &, bool, bool,
                                                     cudaStream_t);
