/* A row's call on the device: call.c makes it, measure.c times it, sample.c checks it. */
#ifndef GDN_CLI_BENCH_CALL_H
#define GDN_CLI_BENCH_CALL_H

#include "bench.h"
#include "device.h"
#include "error.h"

struct bench_device {
    const bench_options *options;
    gdn_context *context, *portable; /* portable: to check the other's kernels with */
    gdni_bench_timer *timer;
    int64_t most_repeats;
};

/* A row's problem and device memory. */
typedef struct bench_call {
    gdn_problem p;
    gdn_tensors t;
    void *x[BENCH_TENSORS];
    size_t workspace, saved;      /* bytes that the row's pass asks for, and that forward keeps */
    unsigned char undecayed[256]; /* by v-head */
} bench_call;

#define DEVICE_TRY(call)                                                                           \
    do {                                                                                           \
        const int device_error_ = (call);                                                          \
        if (device_error_)                                                                         \
            return gdni_fail(GDN_STATUS_CUDA_ERROR, "bench: %s: %s", #call,                        \
                             gdni_bench_error_text(device_error_));                                \
    } while (0)

/* Allocates and draws everything that the row needs; release it also on failure. */
gdn_status bench_call_make(const bench_device *device, const bench_row *row, bench_call *call);
void bench_call_release(bench_call *call);
size_t bench_call_bytes(const bench_call *call, bench_tensor which);
/* Points the call's gdn_tensors to call->x. */
void bench_call_point(bench_call *call);

/* Enqueues the pass; of the context's kernels. */
gdn_status bench_call_enqueue(const bench_device *device, const gdn_context *context,
                              const bench_call *call, const gdn_problem *problem, int backward);
/* The problem with sequences that are never cut. */
gdn_problem bench_never_cut(gdn_problem problem);
/* Checks what the call has left, or hands it to the checks. */
gdn_status bench_call_check(const bench_device *device, const bench_call *call,
                            const bench_row *row, bench_result *result, bench_checks *checks);

#endif /* GDN_CLI_BENCH_CALL_H */
