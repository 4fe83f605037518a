/*
 * Preloaded into one rank of a job, it stands in for functions of the libraries there: with
 * OTHER_VERSION the library has that version; with OTHER_NAN=n the layer's n-th call over ranks
 * meets a NaN (the layer is in fp32 and its shard not empty); with OTHER_STOP=1 the process stops
 * before it joins the others in opening a dataset; with OTHER_STDERR=1 it remembers stderr when a
 * dataset is opened, as the C++ run-time of a library loaded then does, and looks at the exit
 * whether the stream is still there to be flushed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "gdn_dist.h"
#include "gdn_io.h"

static long setting(const char *name) {
    const char *value = getenv(name);
    return value ? atol(value) : 0;
}

uint32_t gdn_version(void) {
    uint32_t (*original)(void);
    *(void **)&original = dlsym(RTLD_NEXT, "gdn_version");
    const long version = setting("OTHER_VERSION");
    return version ? (uint32_t)version : original();
}

gdn_status gdn_dist_layer_forward(gdn_dist_layer *layer, const gdn_layer_tensors *tensors,
                                  gdn_stream stream) {
    static long calls;
    gdn_status (*original)(gdn_dist_layer *, const gdn_layer_tensors *, gdn_stream);
    *(void **)&original = dlsym(RTLD_NEXT, "gdn_dist_layer_forward");
    if (++calls == setting("OTHER_NAN"))
        *(float *)tensors->x = NAN;
    return original(layer, tensors, stream);
}

gdn_status gdn_io_dataset_share(gdn_io_dataset *dataset, const void *communicator) {
    gdn_status (*original)(gdn_io_dataset *, const void *);
    *(void **)&original = dlsym(RTLD_NEXT, "gdn_io_dataset_share");
    if (setting("OTHER_STOP"))
        raise(SIGSTOP);
    return original(dataset, communicator);
}

static FILE *remembered;

static void flush_remembered(void) {
    if (remembered != stderr)
        _exit(99);
    fflush(remembered);
}

gdn_status gdn_io_dataset_open(const char *path, gdn_io_dataset **out) {
    gdn_status (*original)(const char *, gdn_io_dataset **);
    *(void **)&original = dlsym(RTLD_NEXT, "gdn_io_dataset_open");
    if (setting("OTHER_STDERR") && !remembered) {
        remembered = stderr;
        atexit(flush_remembered);
    }
    return original(path, out);
}
