#include "forward.cuh"

template cudaError_t gdni::launch_forward<float>(const gdni::Arguments &, const gdni_chain_shape &,
                                                 cudaStream_t);
