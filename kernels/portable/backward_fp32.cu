#include "backward.cuh"

template cudaError_t gdni::launch_chains<float>(const gdni::Arguments &, const gdni_chain_shape &,
                                                bool, bool, cudaStream_t);
template cudaError_t gdni::launch_exact<float>(const gdni::Arguments &, const gdni_chain_shape &,
                                               bool, bool, cudaStream_t);
