/* gdn bench: times forward and backward of the operator, and checks what it timed. */
#include "cli.h"
#include "gdn_check.h"
#include "table.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int cli_bench(int argc, char **argv);
int cli_bench_rows(int argc, char **argv); /* bench/rows.c */

static const char help[] =
    "usage: gdn bench [--backend cpu|reference] [--dtype fp32|bf16|fp16|fp64] [--tokens T]\n"
    "                 [--heads Hk/Hv] [--dims K/V] [--threads N] [--repeat R] [--save]\n"
    "\n"
    "Times forward and backward of the operator on random inputs (one sequence, q and k of length\n"
    "1), and checks the timed result against the float64 recurrence on the first and the last\n"
    "k-head with their v-heads.\n"
    "\n"
    "  --backend NAME  default cpu\n"
    "  --dtype NAME    default fp32 on cpu, fp64 on reference, which takes no other\n"
    "  --tokens T      default 4096\n"
    "  --heads Hk/Hv   heads of q, k and of v; default 4/4\n"
    "  --dims K/V      head dims of q, k and of v; default 128/128\n"
    "  --threads N     default: what OpenMP would use\n"
    "  --repeat R      timed rounds, after one that is not; default 5\n"
    "  --save          forward keeps states and inverses for backward\n"
    "\n"
    "       gdn bench --rows TABLE.csv [--backend cuda] [--filter PASS/HK/HV/LENGTHS]...\n"
    "                 [-o FOLDER] [--label NAME] [--commit HASH] [--device N] [--threads N]\n"
    "                 [--repeat R] [--seed S] [--save] [--exact] [--verbose]\n"
    "                 [--undecayed PERCENT]\n"
    "\n"
    "Times forward or backward for every row of a table with the columns pass, model, h_k, h_v,\n"
    "lengths, such as tests/bench/published_h200.csv, whose header says which inputs: bf16, K = V "
    "=\n"
    "128, drawn on the device. A column saved says what forward keeps for backward: nothing, "
    "inverse\n"
    "or states (and the inverse); without it backward gets the inverse. Each call is one CUDA "
    "graph.\n"
    "Every row is checked: all heads against an exact call, a head that decays and one that does\n"
    "not against float64 on the host (long rows: against fp32 on the device). Writes\n"
    "FOLDER/GPU-DATE-COMMIT.csv as rows come, FOLDER/other/GPU-DATE-COMMIT-LABEL.csv where rows "
    "are\n"
    "left out or an option changes what is timed, and prints how it compares with the table's "
    "times.\n"
    "\n"
    "  --filter ...    only rows that match; parts may be left out at the end, * is any; "
    "repeatable\n"
    "  -o FOLDER       default tests/bench/results\n"
    "  --label NAME    makes the run one of FOLDER/other, under that name\n"
    "  --commit HASH   default: what git says here\n"
    "  --device N      default 0\n"
    "  --threads N     for the checks; default: all but one\n"
    "  --repeat R      timed replays; default 20 to 100, by the time of one\n"
    "  --seed S        of the inputs; default 1\n"
    "  --save          forward keeps states for backward, where no column says\n"
    "  --exact         no state is dropped\n"
    "  --undecayed P   percent of the v-heads that never decay; default 25\n"
    "  --verbose       every head's error\n"
    "\n"
    "       gdn bench --summary RESULT.csv\n"
    "       gdn bench --memory [--backend cuda|cpu] [--heads Hk/Hv]\n"
    "\n"
    "Prints the comparison for an older result; workspace and saved bytes against tokens.\n"
    "\n"
    "Exit: 0 fast or slow but right, 1 wrong, 2 bad usage, table or problem, 3 no such backend\n"
    "here, 4 other failure.\n"
    "\n"
    "example: gdn bench --tokens 8192 --heads 2/4 --dims 128/128 --threads 2\n"
    "         gdn bench --rows tests/bench/published_h200.csv --filter fwd/16/32\n";

typedef struct bench_options {
    gdn_backend backend;
    gdn_dtype dtype;
    int dtype_given, save;
    int64_t tokens, heads[2], dims[2], threads, repeat;
} bench_options;

/* ---- Options ---- */

enum {
    GO_ON = -1
};

static int parse_number(const char *option, const char *text, int64_t most, int64_t *out) {
    char *end;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < 1 || value > most)
        return cli_usage("bench", "%s: expected an integer from 1 to %lld, found '%s'", option,
                         (long long)most, text);
    *out = value;
    return GO_ON;
}

/* "a/b", or "a" for both. */
static int parse_pair(const char *option, const char *text, int64_t most, int64_t out[2]) {
    char first[32];
    const char *slash = strchr(text, '/');
    const size_t length = slash ? (size_t)(slash - text) : strlen(text);
    if (length >= sizeof(first))
        return cli_usage("bench", "%s: expected two integers such as 4/8, found '%s'", option,
                         text);
    memcpy(first, text, length);
    first[length] = 0;
    int code = parse_number(option, first, most, &out[0]);
    if (code == GO_ON)
        code = parse_number(option, slash ? slash + 1 : first, most, &out[1]);
    return code;
}

static int parse_names(bench_options *o, int option, const char *text) {
    if (option == 'b') {
        for (int b = GDN_BACKEND_REFERENCE; b <= GDN_BACKEND_CPU; ++b)
            if (!strcmp(text, gdn_backend_name((gdn_backend)b))) {
                o->backend = (gdn_backend)b;
                return GO_ON;
            }
        return cli_usage("bench", "--backend: expected cpu or reference, found '%s'", text);
    }
    for (int d = GDN_DTYPE_FP32; d <= GDN_DTYPE_FP64; ++d)
        if (!strcmp(text, gdn_dtype_name((gdn_dtype)d))) {
            o->dtype = (gdn_dtype)d;
            o->dtype_given = 1;
            return GO_ON;
        }
    return cli_usage("bench", "--dtype: expected fp32, bf16, fp16 or fp64, found '%s'", text);
}

static int parse(int argc, char **argv, bench_options *o) {
    static const struct option known[] = {
        {"help", no_argument, NULL, 'h'},          {"backend", required_argument, NULL, 'b'},
        {"dtype", required_argument, NULL, 'd'},   {"tokens", required_argument, NULL, 't'},
        {"heads", required_argument, NULL, 'H'},   {"dims", required_argument, NULL, 'D'},
        {"threads", required_argument, NULL, 'j'}, {"repeat", required_argument, NULL, 'r'},
        {"save", no_argument, NULL, 's'},          {NULL, 0, NULL, 0}};
    const bench_options defaults = {GDN_BACKEND_CPU, GDN_DTYPE_FP32, 0, 0, 4096,
                                    {4, 4},          {128, 128},     0, 5};
    int option, code = GO_ON;
    *o = defaults;
    opterr = 0;
    while (code == GO_ON && (option = getopt_long(argc, argv, ":h", known, NULL)) != -1) {
        switch (option) {
        case 'h':
            fputs(help, stdout);
            return CLI_OK;
        case 'b':
        case 'd':
            code = parse_names(o, option, optarg);
            break;
        case 't':
            code = parse_number("--tokens", optarg, INT64_C(1) << 32, &o->tokens);
            break;
        case 'H':
            code = parse_pair("--heads", optarg, 65536, o->heads);
            break;
        case 'D':
            code = parse_pair("--dims", optarg, 256, o->dims);
            break;
        case 'j':
            code = parse_number("--threads", optarg, 4096, &o->threads);
            break;
        case 'r':
            code = parse_number("--repeat", optarg, 1000000, &o->repeat);
            break;
        case 's':
            o->save = 1;
            break;
        case ':':
            return cli_usage("bench", "%s: expected a value, found nothing", argv[optind - 1]);
        default:
            return cli_usage("bench", "unknown option '%s'", argv[optind - 1]);
        }
    }
    if (code == GO_ON && optind < argc)
        return cli_usage("bench", "expected options alone, found '%s'", argv[optind]);
    if (!o->dtype_given && o->backend == GDN_BACKEND_REFERENCE)
        o->dtype = GDN_DTYPE_FP64;
    return code;
}

/* ---- Tensors ---- */

enum {
    Q,
    K,
    V,
    G,
    BETA,
    DO,
    O,
    DQ,
    DK,
    DV,
    DG,
    DBETA,
    TENSORS
};
static const char *const names[TENSORS] = {"q", "k",  "v",  "g",  "beta", "do",
                                           "o", "dq", "dk", "dv", "dg",   "dbeta"};

/* One call: dense tensors, [T, heads, dim]. */
typedef struct bench_call {
    gdn_problem p;
    gdn_tensors x;
    void *memory[TENSORS];
    void *saved, *workspace;
} bench_call;

static int64_t heads_of(const gdn_problem *p, int i) {
    return i == Q || i == K || i == DQ || i == DK ? p->Hk : p->Hv;
}

static int64_t dim_of(const gdn_problem *p, int i) {
    return i == Q || i == K || i == DQ || i == DK         ? p->K
           : i == G || i == BETA || i == DG || i == DBETA ? 1
                                                          : p->V;
}

static gdn_dtype dtype_of(const gdn_problem *p, int i) {
    const int gate = i == G || i == BETA || i == DG || i == DBETA;
    return gate && p->dtype != GDN_DTYPE_FP64 ? GDN_DTYPE_FP32 : p->dtype;
}

static void call_free(bench_call *c) {
    for (int i = 0; i < TENSORS; ++i)
        free(c->memory[i]);
    free(c->saved);
    free(c->workspace);
}

static void *allocate(size_t bytes) {
    return aligned_alloc(256, (bytes / 256 + 1) * 256);
}

/* All memory of the problem in c->p, and the pointers to it. */
static int call_allocate(bench_call *c, const gdn_context *context) {
    const gdn_tensors init = GDN_TENSORS_INIT;
    const gdn_problem *p = &c->p;
    gdn_sizes sizes = GDN_SIZES_INIT;
    CLI_TRY(gdn_problem_sizes(context, p, &sizes));
    const size_t workspace = sizes.forward_workspace > sizes.backward_workspace
                                 ? sizes.forward_workspace
                                 : sizes.backward_workspace;
    c->saved = allocate(sizes.saved);
    c->workspace = allocate(workspace);
    int got_all = c->saved && c->workspace;
    for (int i = 0; i < TENSORS; ++i) {
        const size_t count = (size_t)(p->T * heads_of(p, i) * dim_of(p, i));
        c->memory[i] = allocate(count * gdn_dtype_size(dtype_of(p, i)));
        got_all = got_all && c->memory[i];
    }
    if (!got_all) {
        fprintf(cli_messages(), "gdn bench: out of memory\n");
        return CLI_FAILED;
    }
    c->x = init;
    c->x.q = c->memory[Q], c->x.k = c->memory[K], c->x.v = c->memory[V];
    c->x.g = c->memory[G], c->x.beta = c->memory[BETA], c->x.do_ = c->memory[DO];
    c->x.o = c->memory[O], c->x.dq = c->memory[DQ], c->x.dk = c->memory[DK];
    c->x.dv = c->memory[DV], c->x.dg = c->memory[DG], c->x.dbeta = c->memory[DBETA];
    c->x.saved = c->saved, c->x.workspace = c->workspace, c->x.workspace_size = workspace;
    return GO_ON;
}

/* splitmix64, Box and Muller */
static double draw_normal(uint64_t *state) {
    double u[2];
    for (int i = 0; i < 2; ++i) {
        uint64_t z = (*state += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        u[i] = (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
    }
    return sqrt(-2 * log(1 - u[0])) * cos(6.283185307179586 * u[1]);
}

static int draw_inputs(bench_call *c) {
    const gdn_problem *p = &c->p;
    uint64_t state = 1;
    double row[256];
    for (int i = Q; i <= DO; ++i) {
        const int64_t dim = dim_of(p, i);
        char *memory = c->memory[i];
        for (int64_t r = 0; r < p->T * heads_of(p, i); ++r) {
            double square = 0;
            for (int64_t j = 0; j < dim; ++j) {
                row[j] = draw_normal(&state);
                square += row[j] * row[j];
            }
            for (int64_t j = 0; j < dim; ++j)
                row[j] = i == Q || i == K ? row[j] / sqrt(square)
                         : i == G         ? -log1p(exp(row[j]))
                         : i == BETA      ? 1 / (1 + exp(-row[j]))
                                          : row[j];
            CLI_TRY(gdn_convert(dtype_of(p, i), memory, GDN_DTYPE_FP64, row, dim));
            memory += (size_t)dim * gdn_dtype_size(dtype_of(p, i));
        }
    }
    return GO_ON;
}

/* ---- The check ---- */

/* A k-head's group of heads of one tensor, as float64. */
static int take_group(const bench_call *from, int i, int64_t hk, double *to) {
    const gdn_problem *p = &from->p;
    const int64_t group = heads_of(p, i) / p->Hk, dim = dim_of(p, i);
    const size_t size = gdn_dtype_size(dtype_of(p, i));
    for (int64_t t = 0; t < p->T; ++t) {
        const int64_t at = (t * heads_of(p, i) + hk * group) * dim;
        CLI_TRY(gdn_convert(GDN_DTYPE_FP64, to + t * group * dim, dtype_of(p, i),
                            (const char *)from->memory[i] + (size_t)at * size, group * dim));
    }
    return GO_ON;
}

static int compare_group(const bench_call *c, int64_t hk, const bench_call *want, int i,
                         gdn_check_report *report) {
    const gdn_problem *p = &want->p;
    const int64_t group = heads_of(p, i), first = hk * group;
    const size_t rows = report->count;
    double *got = malloc(sizeof(double) * (size_t)(p->T * group * dim_of(p, i)));
    if (!got) {
        fprintf(cli_messages(), "gdn bench: out of memory\n");
        return CLI_FAILED;
    }
    int code = take_group(c, i, hk, got);
    if (code == GO_ON) {
        const gdn_check_tensor tensor = {sizeof(tensor),
                                         names[i],
                                         got,
                                         want->memory[i],
                                         3,
                                         {p->T, group, dim_of(p, i), 0},
                                         1,
                                         gdn_check_default_tolerance(names[i], c->p.dtype),
                                         0,
                                         NULL};
        const gdn_status status = gdn_check_compare(&tensor, report);
        code = status == GDN_STATUS_OK ? GO_ON : cli_report(status);
    }
    for (size_t r = rows; r < report->count; ++r) {
        report->rows[r].head += (int32_t)first;
        report->rows[r].worst[1] += first;
    }
    free(got);
    return code;
}

/* Forward and backward of one k-head and its v-heads by the float64 recurrence. */
static int check_group(const bench_call *c, const gdn_context *reference, int64_t hk,
                       gdn_check_report *report) {
    bench_call want = {.p = c->p};
    want.p.dtype = GDN_DTYPE_FP64;
    want.p.flags = 0;
    want.p.Hv /= want.p.Hk;
    want.p.Hk = 1;
    int code = call_allocate(&want, reference);
    for (int i = Q; i <= DO && code == GO_ON; ++i)
        code = take_group(c, i, hk, want.memory[i]);
    if (code == GO_ON) {
        gdn_status status = gdn_forward(reference, &want.p, &want.x, NULL);
        if (status == GDN_STATUS_OK)
            status = gdn_backward(reference, &want.p, &want.x, NULL);
        code = status == GDN_STATUS_OK ? GO_ON : cli_report(status);
    }
    for (int i = O; i < TENSORS && code == GO_ON; ++i)
        code = compare_group(c, hk, &want, i, report);
    call_free(&want);
    return code;
}

static int check(const bench_call *c, gdn_check_report *report) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *reference;
    config.backend = GDN_BACKEND_REFERENCE;
    CLI_TRY(gdn_context_create(&reference, &config));
    int code = check_group(c, reference, 0, report);
    if (code == GO_ON && c->p.Hk > 1)
        code = check_group(c, reference, c->p.Hk - 1, report);
    gdn_context_destroy(reference);
    return code;
}

/* ---- The timing ---- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *what, double *seconds, int64_t count, int64_t tokens) {
    qsort(seconds, (size_t)count, sizeof(*seconds), ascending);
    const double median = 0.5 * (seconds[(count - 1) / 2] + seconds[count / 2]);
    printf("%-18s %10.2f %10.2f %10.2f %14.0f\n", what, 1e3 * median, 1e3 * seconds[0],
           1e3 * seconds[count - 1], (double)tokens / median);
}

static int time_call(const bench_options *o, const gdn_context *context, const bench_call *c) {
    double *seconds = malloc(sizeof(double) * 3 * (size_t)o->repeat);
    double *forward = seconds, *backward = seconds + o->repeat, *both = seconds + 2 * o->repeat;
    if (!seconds) {
        fprintf(cli_messages(), "gdn bench: out of memory\n");
        return CLI_FAILED;
    }
    for (int64_t r = -1; r < o->repeat; ++r) {
        const double start = now();
        gdn_status status = gdn_forward(context, &c->p, &c->x, NULL);
        const double middle = now();
        if (status == GDN_STATUS_OK)
            status = gdn_backward(context, &c->p, &c->x, NULL);
        const double end = now();
        if (status != GDN_STATUS_OK) {
            free(seconds);
            return cli_report(status);
        }
        if (r >= 0)
            forward[r] = middle - start, backward[r] = end - middle, both[r] = end - start;
    }
    printf("backend %s, %s, %d threads, T = %lld, Hk/Hv = %d/%d, K/V = %d/%d%s, %lld rounds\n\n",
           gdn_backend_name(gdn_context_backend(context)), gdn_dtype_name(c->p.dtype),
           gdn_context_threads(context), (long long)c->p.T, c->p.Hk, c->p.Hv, c->p.K, c->p.V,
           o->save ? ", saved" : "", (long long)o->repeat);
    printf("%-18s %10s %10s %10s %14s\n", "", "median ms", "fastest", "slowest", "tokens/s");
    print_times("forward", forward, o->repeat, c->p.T);
    print_times("backward", backward, o->repeat, c->p.T);
    print_times("both", both, o->repeat, c->p.T);
    printf("\n");
    free(seconds);
    return GO_ON;
}

int cli_bench(int argc, char **argv) {
    bench_options o;
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *context = NULL;
    for (int i = 1; i < argc; ++i)
        if (!strncmp(argv[i], "--rows", 6) || !strncmp(argv[i], "--summary", 9) ||
            !strcmp(argv[i], "--memory"))
            return cli_bench_rows(argc, argv);
    gdn_check_report report = GDN_CHECK_REPORT_INIT;
    const gdn_problem init = GDN_PROBLEM_INIT;
    bench_call c = {.p = init};
    int code = parse(argc, argv, &o);
    if (code != GO_ON)
        return code;
    config.backend = o.backend;
    config.threads = (int32_t)o.threads;
    CLI_TRY(gdn_context_create(&context, &config));
    c.p.dtype = o.dtype;
    c.p.flags = o.save ? GDN_FLAG_SAVE_STATES | GDN_FLAG_SAVE_INVERSE : 0;
    c.p.T = o.tokens;
    c.p.Hk = (int32_t)o.heads[0], c.p.Hv = (int32_t)o.heads[1];
    c.p.K = (int32_t)o.dims[0], c.p.V = (int32_t)o.dims[1];
    code = call_allocate(&c, context);
    if (code == GO_ON)
        code = draw_inputs(&c);
    if (code == GO_ON)
        code = time_call(&o, context, &c);
    if (code == GO_ON)
        code = check(&c, &report);
    if (code == GO_ON) {
        cli_print_report(&report, 0);
        cli_print_verdict("bench", &report);
        code = report.pass ? CLI_OK : CLI_CHECK_FAILED;
    }
    gdn_check_report_free(&report);
    call_free(&c);
    gdn_context_destroy(context);
    return code;
}
