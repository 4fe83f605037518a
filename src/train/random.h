/* Counter-based random numbers: a value is a pure function of its seed and indices, so that no
 * generator has to be saved or replayed. */
#ifndef GDNI_TRAIN_RANDOM_H
#define GDNI_TRAIN_RANDOM_H

#include <math.h>
#include <stdint.h>

/* The finaliser of splitmix64. */
static inline uint64_t gdni_mix(uint64_t z) {
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t gdni_random_bits(uint64_t seed, uint64_t stream, uint64_t index) {
    return gdni_mix(gdni_mix(gdni_mix(seed) ^ stream) ^ index);
}

/* Uniform in [0, 1). */
static inline double gdni_random_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    return (double)(gdni_random_bits(seed, stream, index) >> 11) * 0x1p-53;
}

/* Normal, mean 0 and variance 1, by Box and Muller. */
static inline double gdni_random_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    const double u = 1.0 - gdni_random_uniform(seed, stream, 2 * index);
    const double v = gdni_random_uniform(seed, stream, 2 * index + 1);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

#endif /* GDNI_TRAIN_RANDOM_H */
