/* gdn info: what this build contains, what this machine has, what the backends take. */
#include "options.h"
#include "ranks.h"

#include <stdio.h>
#include <string.h>

int cli_info(int argc, char **argv);

static const cli_syntax syntax = {
    "info",
    0,
    {NULL, NULL},
    "usage: gdn info\n"
    "\n"
    "Prints the version, the parts of this build, the CUDA devices of this machine, and for each\n"
    "backend its dtypes and largest head dims.\n"
    "\n"
    "example: gdn info\n"};

/* The largest head dim that a backend takes, found by asking it; 0: not this dtype. */
static int32_t largest_dim(const gdn_context *context, gdn_dtype dtype, int keys) {
    int32_t largest = 0;
    for (int32_t dim = 1; dim <= 4096; ++dim) {
        gdn_problem p = GDN_PROBLEM_INIT;
        p.dtype = dtype;
        *(keys ? &p.K : &p.V) = dim;
        if (gdn_problem_supported(context, &p) == GDN_STATUS_OK)
            largest = dim;
    }
    return largest;
}

static void print_backend(gdn_backend backend) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context;
    config.backend = backend;
    printf("%-10s ", gdn_backend_name(backend));
    if (gdn_context_create(&context, &config) != GDN_STATUS_OK) {
        printf("not usable: %s\n", gdn_last_error());
        return;
    }
    for (int d = GDN_DTYPE_FP32; d <= GDN_DTYPE_FP64; ++d) {
        const int32_t K = largest_dim(context, (gdn_dtype)d, 1);
        if (K)
            printf(" %s (K <= %d, V <= %d)", gdn_dtype_name((gdn_dtype)d), K,
                   largest_dim(context, (gdn_dtype)d, 0));
    }
    gdn_problem p = GDN_PROBLEM_INIT;
    p.dtype = GDN_DTYPE_BF16;
    if (backend == GDN_BACKEND_CUDA)
        printf("; bf16 with K = V = 128: %s", gdn_problem_kernels(context, &p));
    if (backend == GDN_BACKEND_CPU)
        printf("; %d threads", gdn_context_threads(context));
    printf("\n");
    gdn_context_destroy(context);
}

int cli_info(int argc, char **argv) {
    cli_options options;
    const int code = cli_parse(&syntax, argc, argv, &options);
    if (code != CLI_GO_ON)
        return code;
    const char *features = gdn_build_features();
    printf("libgdn     %s (library %u.%u.%u)\n", GDN_VERSION_STRING, gdn_version() / 10000,
           gdn_version() / 100 % 100, gdn_version() % 100);
    printf("build      %s\n", features);
    printf("BLAS       %s\n", strstr(features, "blas") ? "yes" : "no: a plain matrix product");
    const int32_t nccl = cli_nccl_version(), devices = gdn_device_count();
    if (nccl)
        printf("NCCL       %d.%d.%d\n", nccl / 10000, nccl / 100 % 100, nccl % 100);
    else
        printf("NCCL       no: states of GPUs pass through the host on their way between ranks\n");
    printf("devices    %d\n", devices);
    for (int32_t i = 0; i < devices; ++i) {
        char text[256];
        CLI_TRY(gdn_device_describe(i, text, sizeof(text)));
        printf("  cuda:%d   %s\n", i, text);
    }
    for (int b = GDN_BACKEND_REFERENCE; b <= GDN_BACKEND_CUDA; ++b)
        print_backend((gdn_backend)b);
    return CLI_OK;
}
