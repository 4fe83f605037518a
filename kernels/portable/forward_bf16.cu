#include "forward.cuh"

template cudaError_t gdni::launch_forward<gdni::bf16>(const gdni::Arguments &,
                                                      const gdni_chain_shape &, cudaStream_t);
