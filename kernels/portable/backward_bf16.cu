#include "backward.cuh"

template cudaError_t gdni::launch_chains<gdni::bf16>(const gdni::Arguments &,
                                                     const gdni_chain_shape &, bool, bool,
                                                     cudaStream_t);
template cudaError_t gdni::launch_exact<gdni::bf16>(const gdni::Arguments &,
                                                    const gdni_chain_shape &, bool, bool,
                                                    cudaStream_t);
