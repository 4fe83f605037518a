/*
 * The least that a pass must compute and move: what "roofline share" is a share of.
 *
 * Work. A chunk has C = 64 tokens, K = V = 128; one 64 x 64 x 128 product is u = 2^20 FLOP. Per
 * chunk and v-head, with r = Hv / Hk v-heads sharing K K^T and Q K^T (the 2 / r):
 *
 *     forward     8 + 2/r u     S^T K, S^T Q, the state's update (2 u each, K or V is twice 64),
 *                               the inverse and P applied to 128 columns (1 u each)
 *     backward   22 + 2/r u     with the states kept from forward
 *                27 + 2/r u     without: they are computed again
 *
 * Bytes per token and v-head, in bf16, with g, beta and their gradients in fp32; every tensor once:
 *
 *     forward     648 + 512/r    v, o 512; g, beta 8; a row of the inverse 128; q, k 512/r
 *     backward   1936 + 1024/r   v, do, dv 768; gates and their gradients 16; the inverse 128; the
 *                                states of forward through memory, out and in, 1024; q, k, dq, dk
 *
 * The two ceilings are what an H200 sustains: 790 TFLOP/s in bf16 and 4.3 TB/s in a copy. They
 * stand for it on other cards too, so that a share means the same everywhere.
 */
#include "bench.h"

static const double PRODUCT = 1048576.0; /* FLOP: 2 * 64 * 64 * 128 */
static const double CHUNK = 64.0;
static const double FLOP_PER_S = 790e12, BYTES_PER_S = 4.3e12;

bench_work bench_least(int backward, int states_saved, int32_t Hk, int32_t Hv, int64_t tokens) {
    const double r = (double)Hv / Hk, heads = (double)tokens * Hv;
    const double products = backward ? (states_saved ? 22 : 27) + 2 / r : 8 + 2 / r;
    bench_work w;
    w.flop = heads / CHUNK * products * PRODUCT;
    w.bytes = heads * (backward ? 1936 + 1024 / r : 648 + 512 / r);
    const double compute = w.flop / FLOP_PER_S, copy = w.bytes / BYTES_PER_S;
    w.floor_ms = 1e3 * (compute > copy ? compute : copy);
    return w;
}
