/*
 * gdn bench --rows: the operator over the rows of a table, on a device.
 *
 *   options.c    what the command line says
 *   rows.c       the command: the loop over rows, progress
 *   table.c      reading a table of rows or results
 *   result.c     writing results: where, under which name, one line a row
 *   work.c       least work, least bytes, the floor
 *   summary.c    speed against the table's other columns
 *   call.c       a row's memory and inputs on the device
 *   measure.c    its times (absent.c: a build without CUDA)
 *   sample.c     its results to the checks, or checked on the device
 *   tensors.c    shapes and dtypes of the operator's tensors
 *   check.c      the timed results against float64, on threads of their own
 *   clock.c      the device's clock and driver through NVML
 *   memory.c     gdn bench --memory: workspace against tokens
 *   plot.c       gdn plot of a table of results
 */
#ifndef GDN_CLI_BENCH_H
#define GDN_CLI_BENCH_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "gdn.h"

enum {
    BENCH_DIM = 128, /* K = V in every row */
    BENCH_MOST_FILTERS = 32
};

/* ---- Tables ---- */

/* What forward keeps for backward. */
typedef enum bench_saved {
    BENCH_NOTHING,
    BENCH_INVERSE, /* and the gate's sums */
    BENCH_STATES   /* and the inverse */
} bench_saved;

typedef struct bench_row {
    char *text;   /* the line; cells point into it */
    char **cells; /* one a column */
    int backward;
    int saved; /* bench_saved; -1: the table does not say */
    int32_t Hk, Hv;
    int64_t N, *cu; /* [N + 1]; cu[N] tokens */
} bench_row;

typedef struct bench_table {
    char *comments; /* above the header, whole lines; NULL: none */
    char *header;
    char **columns;
    int column_count;
    bench_row *rows;
    int64_t count;
} bench_table;

/* BAD_FILE: file, line, what was expected and found. Lines that start with # are comments. */
gdn_status bench_table_read(bench_table *table, const char *path);
void bench_table_free(bench_table *table);
/* -1: no such column. */
int bench_table_column(const bench_table *table, const char *name);
/* A number, or NaN where the cell is empty; the reader has checked every column *_ms. */
double bench_table_number(const bench_row *row, int column);
/* Somebody else's time: *_ms and none of bench_own_columns. */
int bench_is_rival(const char *column);
/* "fwd 16/32 8x4096": lengths that repeat are counted. */
void bench_row_name(const bench_row *row, char *name, size_t size);
/* As the row says; if it does not, what `save` asks for, or the published table: the inverse in
 * backward. */
bench_saved bench_row_saved(const bench_row *row, int save);
/* Whether a row is meant by PASS/HK/HV/LENGTHS; parts may be missing at the end, * is any. */
int bench_row_matches(const bench_row *row, const bench_table *table, const char *filter);

/* Columns that results add, in order; NULL at the end. */
extern const char *const bench_own_columns[];

/* ---- Least work and bytes ---- */

typedef struct bench_work {
    double flop, bytes;
    double floor_ms; /* no kernel is faster */
} bench_work;

bench_work bench_least(int backward, int states_saved, int32_t Hk, int32_t Hv, int64_t tokens);

/* ---- Results ---- */

/* Times are NaN until measured. */
typedef struct bench_result {
    double ms, cold_ms, uncut_ms, min_ms, max_ms;
    double error;            /* the worst of any sampled head and tensor */
    char worst[96];          /* where that is */
    int failed;              /* a check; not: still under way */
    int pending;             /* checks under way */
    int32_t segments, clock; /* 0: not known; MHz */
    size_t workspace, saved; /* bytes */
    const char *backend;     /* whose kernels ran; a constant */
} bench_result;

typedef struct bench_options {
    const char *rows, *summary; /* tables; NULL: not asked for */
    int memory;
    const char *output, *label, *commit;
    const char *filters[BENCH_MOST_FILTERS];
    int filter_count;
    gdn_backend backend;
    int64_t heads[2]; /* of --memory */
    int32_t device, threads;
    int64_t repeats; /* 0: by the time that one takes */
    uint64_t seed;
    int save, exact, verbose;
    int32_t undecayed; /* percent of the v-heads whose gate is 0 */
} bench_options;

/* CLI_GO_ON, or the code to exit with. */
int bench_parse(int argc, char **argv, bench_options *options);

typedef struct bench_machine {
    char gpu[128], driver[64], bus[32];
    int multiprocessors, most_clock; /* MHz; 0: not known */
} bench_machine;

typedef struct bench_output {
    FILE *file;
    char path[4096], commit[64];
    int save; /* of states */
} bench_output;

/* FOLDER/<gpu>-<date>-<commit>.csv of a plain run over all rows, FOLDER/other/...-<label>.csv of
 * any other. IO_ERROR. */
gdn_status bench_output_open(bench_output *out, const bench_options *options,
                             const bench_machine *machine, const bench_table *table, int all_rows);
gdn_status bench_output_row(bench_output *out, const bench_table *table, const bench_row *row,
                            const bench_result *result);
gdn_status bench_output_close(bench_output *out);

/* Geomeans of rival over libgdn, all rows and those with 64 or more (sequence, v-head) pairs.
 * ms [count of rows]: NaN = not measured. */
void bench_summary(FILE *to, const bench_table *table, const double *ms);

/* ---- The device ---- */

typedef struct bench_device bench_device;
typedef struct bench_checks bench_checks;

/* NO_BACKEND, CUDA_ERROR. */
gdn_status bench_device_open(bench_device **device, const bench_options *options,
                             bench_machine *machine);
void bench_device_close(bench_device *device);
/* Times a row and hands its results to the checks. */
gdn_status bench_measure(bench_device *device, const bench_row *row, bench_result *result,
                         bench_checks *checks);

/* NVML's view of the device at that PCI address; leaves 0 and "" where it has none. */
void bench_clock_open(bench_machine *machine);
int bench_clock_now(void); /* MHz; 0: not known */
void bench_clock_close(void);

/* ---- Checks ---- */

/* Host copies for one k-head and some of its v-heads, dense [rows, heads, dim] fp32; indexed by
 * bench_tensor. What is NULL is not there. The job owns cu and x. */
typedef enum bench_tensor {
    BENCH_Q,
    BENCH_K,
    BENCH_V,
    BENCH_G,
    BENCH_BETA,
    BENCH_H0,
    BENCH_DO,
    BENCH_DHT,
    BENCH_O,
    BENCH_HT,
    BENCH_DQ,
    BENCH_DK,
    BENCH_DV,
    BENCH_DG,
    BENCH_DBETA,
    BENCH_DH0,
    BENCH_TENSORS
} bench_tensor;

extern const char *const bench_tensor_names[BENCH_TENSORS];
/* Shape [rows, heads, dim] of a tensor, and its dtype in a problem. */
int64_t bench_tensor_rows(const gdn_problem *problem, bench_tensor which);
int32_t bench_tensor_heads(const gdn_problem *problem, bench_tensor which);
int64_t bench_tensor_dim(const gdn_problem *problem, bench_tensor which);
gdn_dtype bench_tensor_dtype(const gdn_problem *problem, bench_tensor which);
int bench_tensor_is_key(bench_tensor which); /* has k-heads */

typedef struct bench_job {
    gdn_problem problem; /* of these heads alone, Hk = 1 */
    int64_t *cu;
    int backward;
    int32_t k_head, v_head; /* where they stand in the row */
    float *x[BENCH_TENSORS];
    bench_result *result;
    struct bench_job *next;
} bench_job;

/* threads 0: one less than the machine has. */
gdn_status bench_checks_open(bench_checks **checks, int32_t threads, int verbose);
/* Takes the job, also on failure; waits while many are queued. */
gdn_status bench_checks_add(bench_checks *checks, bench_job *job);
/* Notes an error found elsewhere; against: "exact", whose own rounding is part of it, "float64", or
 * "fp32". */
void bench_checks_note(bench_checks *checks, bench_result *result, const char *tensor, int head,
                       const char *against, double error);
/* Whether all checks of a result are done; wait: returns only then. */
int bench_checks_done(bench_checks *checks, const bench_result *result, int wait);
/* Waits for all of them; the first failure of the machinery itself. */
gdn_status bench_checks_close(bench_checks *checks);
void bench_job_free(bench_job *job);

/* ---- Other modes ---- */

/* Times in a table of results as an SVG file; filter: as above, or NULL: sequences packed alone. */
gdn_status bench_plot(const char *path, const char *filter, const char *out);
/* Prints workspace bytes against tokens. */
gdn_status bench_memory(const gdn_context *context, int32_t Hk, int32_t Hv);

#endif /* GDN_CLI_BENCH_H */
