/* The device of a build without CUDA: there is none. */
#include "bench.h"

#include "error.h"

gdn_status bench_device_open(bench_device **device, const bench_options *options,
                             bench_machine *machine) {
    *device = NULL;
    return gdni_fail(GDN_STATUS_NO_BACKEND, "bench: backend cuda is not part of this build");
}

void bench_device_close(bench_device *device) {}

gdn_status bench_measure(bench_device *device, const bench_row *row, bench_result *result,
                         bench_checks *checks) {
    return gdni_fail(GDN_STATUS_NO_BACKEND, "bench: backend cuda is not part of this build");
}
