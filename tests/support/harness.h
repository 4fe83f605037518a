/* A small test harness: CHECK counts, harness_finish() prints the totals and gives the exit code.
 */
#ifndef GDN_TEST_HARNESS_H
#define GDN_TEST_HARNESS_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Weak: all files of a test program share one pair of counters. */
__attribute__((weak)) int harness_passed, harness_failed;

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (condition) {                                                                           \
            ++harness_passed;                                                                      \
        } else {                                                                                   \
            ++harness_failed;                                                                      \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
        }                                                                                          \
    } while (0)

/* A run that checked nothing has failed. */
static inline int harness_finish(void) {
    printf("%d passed, %d failed\n", harness_passed, harness_failed);
    return harness_failed || !harness_passed;
}

/* Deterministic random numbers: splitmix64, uniform in [0, 1), normal by Box and Muller. */
typedef struct harness_random {
    uint64_t state;
} harness_random;

static inline uint64_t harness_next(harness_random *r) {
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline double harness_uniform(harness_random *r) {
    return (double)(harness_next(r) >> 11) * 0x1p-53;
}

static inline double harness_normal(harness_random *r) {
    const double u = 1.0 - harness_uniform(r), v = harness_uniform(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

#endif /* GDN_TEST_HARNESS_H */
