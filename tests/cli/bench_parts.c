/* Parts of gdn bench --rows that need no device: floors, tables, results, and the check itself. */
#include "bench.h"
#include "harness.h"

#include <unistd.h>

static int close_to(double got, double want, double part) {
    return fabs(got - want) <= part * want;
}

/* Floors of known shapes on an H200, and one of them worked out by hand. */
static void test_floors(void) {
    static const struct {
        int backward, Hk, Hv;
        int64_t tokens;
        double ms, within;
    } known[] = {{0, 16, 64, 32768, 0.38, 0.02}, {0, 16, 32, 32768, 0.22, 0.02},
                 {0, 16, 32, 8192, 0.055, 0.02}, {0, 2, 8, 32768, 0.047, 0.02},
                 {1, 16, 64, 32768, 1.2, 0.02},  {1, 16, 32, 32768, 0.61, 0.02},
                 {1, 16, 32, 8192, 0.15, 0.03},  {1, 4, 8, 32768, 0.15, 0.03}};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); ++i) {
        const bench_work w =
            bench_least(known[i].backward, 0, known[i].Hk, known[i].Hv, known[i].tokens);
        CHECK(close_to(w.floor_ms, known[i].ms, known[i].within), "row %zu: %g", i, w.floor_ms);
    }
    /* One chunk, one head: 8 + 2 products of 2^20; 64 (648 + 512) bytes. */
    const bench_work one = bench_least(0, 0, 1, 1, 64);
    CHECK(one.flop == 10 * 1048576.0 && one.bytes == 64 * 1160.0, "%g, %g", one.flop, one.bytes);
    const bench_work saved = bench_least(1, 1, 1, 2, 64), again = bench_least(1, 0, 1, 2, 64);
    CHECK(saved.flop == 2 * 23 * 1048576.0 && again.flop == 2 * 28 * 1048576.0, "%g, %g",
          saved.flop, again.flop);
}

static void write_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0 && !fclose(file), "%s", path);
}

static void test_table(void) {
    bench_table t;
    char name[64];
    write_text("rows.csv", "# said first\nh_v,pass,model,lengths,h_k,their_ms\n"
                           "8,fwd,a model,64+64+64+10,2,0.5\n\n8,bwd,,100,8,\n");
    CHECK(bench_table_read(&t, "rows.csv") == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(t.count == 2 && t.column_count == 6, "%lld rows", (long long)t.count);
    const bench_row *r = t.rows;
    CHECK(!r->backward && r->Hk == 2 && r->Hv == 8 && r->N == 4, "first row");
    CHECK(r->cu[0] == 0 && r->cu[1] == 64 && r->cu[3] == 192 && r->cu[4] == 202, "its lengths");
    CHECK(bench_table_number(r, 5) == 0.5 && isnan(bench_table_number(r + 1, 5)), "times");
    CHECK(r[1].backward && r[1].N == 1 && r[1].cu[1] == 100, "second row");
    bench_row_name(r, name, sizeof(name));
    CHECK(!strcmp(name, "fwd 2/8 3x64+10"), "%s", name);
    static const struct {
        const char *filter;
        int first, second;
    } filters[] = {
        {"fwd", 1, 0},        {"*/8", 0, 1},   {"//8", 1, 1},         {"fwd/2/8/64+64+64+10", 1, 0},
        {"fwd/2/8/64", 0, 0}, {"bwd/2", 0, 0}, {"fwd/2/8/*/5", 0, 0}, {"fw", 0, 0}};
    for (size_t i = 0; i < sizeof(filters) / sizeof(filters[0]); ++i)
        CHECK(bench_row_matches(r, &t, filters[i].filter) == filters[i].first &&
                  bench_row_matches(r + 1, &t, filters[i].filter) == filters[i].second,
              "%s", filters[i].filter);
    CHECK(r->saved == -1 && bench_row_saved(r, 0) == BENCH_NOTHING &&
              bench_row_saved(r + 1, 0) == BENCH_INVERSE && bench_row_saved(r, 1) == BENCH_STATES,
          "what is saved");
    bench_table_free(&t);
    write_text("saved.csv", "saved,pass,model,h_k,h_v,lengths\nstates,fwd,m,2,8,64\n"
                            "nothing,bwd,m,2,8,64+64\n");
    CHECK(bench_table_read(&t, "saved.csv") == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(bench_row_saved(t.rows, 0) == BENCH_STATES &&
              bench_row_saved(t.rows + 1, 1) == BENCH_NOTHING,
          "a row says itself what is saved");
    bench_row_name(t.rows + 1, name, sizeof(name));
    CHECK(!strcmp(name, "bwd 2/8 2x64, nothing saved"), "%s", name);
    bench_table_free(&t);
}

/* A result as it is written, read again; a failed one has no times. */
static void test_result(void) {
    const bench_machine machine = {"NVIDIA H100 80GB HBM3", "1.2.3", "", 132, 1980};
    bench_options o = {
        .rows = "rows.csv", .output = "results", .commit = "abc", .seed = 7, .undecayed = 25};
    bench_result result = {.ms = 2,
                           .cold_ms = 3,
                           .uncut_ms = NAN,
                           .min_ms = 1.5,
                           .max_ms = 2.5,
                           .error = 0.001,
                           .segments = 4,
                           .clock = 1900,
                           .workspace = 4096,
                           .saved = 512,
                           .backend = "cuda"};
    bench_output out;
    bench_table rows, t;
    CHECK(bench_table_read(&rows, "rows.csv") == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(bench_output_open(&out, &o, &machine, &rows, 1) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(!strncmp(out.path, "results/h100-80gb-hbm3-20", 25) &&
              !strcmp(out.path + strlen(out.path) - 8, "-abc.csv"),
          "%s", out.path);
    CHECK(bench_output_row(&out, &rows, &rows.rows[0], &result) == GDN_STATUS_OK, "written");
    result.failed = 1;
    CHECK(bench_output_row(&out, &rows, &rows.rows[1], &result) == GDN_STATUS_OK, "written");
    CHECK(bench_output_close(&out) == GDN_STATUS_OK, "closed");
    CHECK(bench_table_read(&t, out.path) == GDN_STATUS_OK, "%s", gdn_last_error());
    static const struct {
        const char *column, *first, *second;
    } cells[] = {{"their_ms", "0.5", ""},
                 {"libgdn_ms", "2.0000", ""},
                 {"libgdn_cold_ms", "3.0000", ""},
                 {"uncut_ms", "", ""},
                 {"max_rel_err", "1.00e-03", "1.00e-03"},
                 {"backend", "cuda", "cuda"},
                 {"commit", "abc", "abc"},
                 {"libgdn_gbps", "1", ""},
                 {"segments", "4", ""},
                 {"workspace_bytes", "4096", "4096"},
                 {"saved_bytes", "512", "512"},
                 {"min_ms", "1.5000", ""},
                 {"sm_mhz", "1900", "1900"}};
    for (size_t i = 0; i < sizeof(cells) / sizeof(cells[0]); ++i) {
        const int c = bench_table_column(&t, cells[i].column);
        CHECK(c >= 0 && !strcmp(t.rows[0].cells[c], cells[i].first) &&
                  (!strcmp(t.rows[1].cells[c], cells[i].second) ||
                   !strcmp(cells[i].column, "segments")),
              "%s: %s, %s", cells[i].column, c < 0 ? "?" : t.rows[0].cells[c],
              c < 0 ? "?" : t.rows[1].cells[c]);
    }
    bench_table_free(&t);
    /* Any other run than a plain one over all rows goes elsewhere. */
    o.save = 1;
    o.label = "trial";
    CHECK(bench_output_open(&out, &o, &machine, &rows, 0) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(!strncmp(out.path, "results/other/h100-80gb-hbm3-", 29) &&
              strstr(out.path, "-abc-part-saved-trial.csv"),
          "%s", out.path);
    CHECK(bench_output_close(&out) == GDN_STATUS_OK, "closed");
    bench_table_free(&rows);
}

/* ---- The check: it passes what is right, and finds and names what is not ---- */

enum {
    TOKENS = 70
};

static bench_job *make_job(const gdn_context *reference, int backward, bench_result *result) {
    const gdn_problem init = GDN_PROBLEM_INIT;
    harness_random random = {5};
    bench_job *job = calloc(1, sizeof(*job));
    double *x[BENCH_TENSORS];
    gdn_sizes sizes = GDN_SIZES_INIT;
    gdn_tensors t = GDN_TENSORS_INIT;
    gdn_problem p = init;
    p.dtype = GDN_DTYPE_FP64;
    p.T = TOKENS;
    p.N = 2;
    p.Hv = 2;
    p.K = p.V = 16;
    job->problem = p;
    job->problem.dtype = GDN_DTYPE_BF16;
    job->backward = backward;
    job->k_head = 3;
    job->v_head = 6;
    job->result = result;
    job->cu = calloc(3, sizeof(*job->cu));
    job->cu[1] = 20;
    job->cu[2] = TOKENS;
    for (bench_tensor i = 0; i < BENCH_TENSORS; ++i) {
        const int64_t count =
            bench_tensor_rows(&p, i) * bench_tensor_heads(&p, i) * bench_tensor_dim(&p, i);
        x[i] = calloc((size_t)count, sizeof(double));
        job->x[i] = malloc((size_t)count * sizeof(float));
        for (int64_t j = 0; i < BENCH_O && j < count; ++j) {
            const double z = harness_normal(&random);
            x[i][j] = (float)(i == BENCH_G      ? -0.1 * fabs(z)
                              : i == BENCH_BETA ? 1 / (1 + exp(-z))
                                                : 0.25 * z);
        }
    }
    t.q = x[BENCH_Q], t.k = x[BENCH_K], t.v = x[BENCH_V], t.g = x[BENCH_G];
    t.beta = x[BENCH_BETA], t.initial_state = x[BENCH_H0], t.do_ = x[BENCH_DO];
    t.dht = x[BENCH_DHT], t.cu_seqlens = job->cu, t.o = x[BENCH_O], t.final_state = x[BENCH_HT];
    t.dq = x[BENCH_DQ], t.dk = x[BENCH_DK], t.dv = x[BENCH_DV], t.dg = x[BENCH_DG];
    t.dbeta = x[BENCH_DBETA], t.dh0 = x[BENCH_DH0];
    CHECK(gdn_problem_sizes(reference, &p, &sizes) == GDN_STATUS_OK, "%s", gdn_last_error());
    t.workspace_size = sizes.backward_workspace;
    t.workspace = aligned_alloc(256, (t.workspace_size + 255) / 256 * 256);
    CHECK(gdn_forward(reference, &p, &t, NULL) == GDN_STATUS_OK &&
              gdn_backward(reference, &p, &t, NULL) == GDN_STATUS_OK,
          "%s", gdn_last_error());
    for (bench_tensor i = 0; i < BENCH_TENSORS; ++i) {
        const int64_t count =
            bench_tensor_rows(&p, i) * bench_tensor_heads(&p, i) * bench_tensor_dim(&p, i);
        for (int64_t j = 0; j < count; ++j)
            job->x[i][j] = (float)x[i][j];
        free(x[i]);
        if (i >= BENCH_O && (i >= BENCH_DQ) != backward) {
            free(job->x[i]);
            job->x[i] = NULL;
        }
    }
    free(t.workspace);
    return job;
}

static void test_checks(void) {
    gdn_context_config config = GDN_CONTEXT_CONFIG_INIT;
    gdn_context *reference;
    bench_checks *checks;
    bench_result results[6];
    memset(results, 0, sizeof(results));
    config.backend = GDN_BACKEND_REFERENCE;
    CHECK(gdn_context_create(&reference, &config) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(bench_checks_open(&checks, 2, 0) == GDN_STATUS_OK, "%s", gdn_last_error());
    for (int i = 0; i < 6; ++i) {
        bench_job *job = make_job(reference, i % 2, &results[i]);
        if (i == 2) /* the second head of o is 2% off */
            for (int64_t j = 0; j < 2 * TOKENS * 16; ++j)
                job->x[BENCH_O][j] *= j / 16 % 2 ? 1.02f : 1.0f;
        if (i == 3) /* one dg was never written */
            job->x[BENCH_DG][2 * 41] = NAN;
        if (i == 5) /* 1% off in dh0 is within its bound */
            for (int64_t j = 0; j < 2 * 2 * 16 * 16; ++j)
                job->x[BENCH_DH0][j] *= 1.01f;
        CHECK(bench_checks_add(checks, job) == GDN_STATUS_OK, "%s", gdn_last_error());
    }
    for (int i = 0; i < 6; ++i)
        CHECK(bench_checks_done(checks, &results[i], 1), "job %d", i);
    CHECK(bench_checks_close(checks) == GDN_STATUS_OK, "%s", gdn_last_error());
    for (int i = 0; i < 6; ++i)
        CHECK(results[i].failed == (i == 2 || i == 3), "job %d: %s", i, results[i].worst);
    CHECK(results[0].error < 1e-6 && results[1].error < 1e-6, "%g, %g", results[0].error,
          results[1].error);
    CHECK(close_to(results[2].error, 0.02, 0.01) && strstr(results[2].worst, "o head 7"), "%s",
          results[2].worst);
    CHECK(isnan(results[3].error) && strstr(results[3].worst, "dg head 6"), "%s", results[3].worst);
    CHECK(close_to(results[5].error, 0.01, 0.01) && strstr(results[5].worst, "dh0"), "%s",
          results[5].worst);
    gdn_context_destroy(reference);
}

int main(int argc, char **argv) {
    if (argc < 2 || chdir(argv[1]))
        return 2;
    test_floors();
    test_table();
    test_result();
    test_checks();
    return harness_finish();
}
