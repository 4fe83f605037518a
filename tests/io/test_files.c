/* Round trips, refused arguments, and files that appear complete or not at all. */
#include "files.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum {
    T = 6,
    N = 2,
    HK = 1,
    HV = 2,
    DK = 3,
    DV = 4
};

static double values[N * HV * DK * DV + T * HV * DV];
static double gates[T * HV];
static int64_t sequences[N + 1] = {0, 2, 5};

static gdn_io_case make_case(void) {
    harness_random r = {1};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); ++i)
        values[i] = harness_normal(&r);
    for (int i = 0; i < T * HV; ++i)
        gates[i] = -harness_uniform(&r);
    gdn_io_case c = {.size = sizeof(c), .T = T, .N = N, .Hk = HK, .Hv = HV, .K = DK, .V = DV};
    c.scale = 0.5;
    c.q = c.k = c.v = c.do_ = c.beta = c.initial_state = c.dht = values;
    c.g = gates;
    c.cu_seqlens = sequences;
    return c;
}

static gdn_io_result make_result(void) {
    gdn_io_result r = {.size = sizeof(r), .T = T, .N = N, .Hk = HK, .Hv = HV, .K = DK, .V = DV};
    make_case();
    strcpy(r.backend, "cpu");
    strcpy(r.dtype, "fp64");
    strcpy(r.library_version, "0.0.0");
    r.ranks = 3;
    r.o = r.final_state = r.dq = r.dk = r.dv = r.dg = r.dbeta = r.dh0 = values;
    return r;
}

static int same(const double *got, const double *want, int count) {
    return got && !memcmp(got, want, (size_t)count * sizeof(*got));
}

static void cases(void) {
    const char *path = file_in("case.h5");
    gdn_io_case c = make_case(), got = {.size = sizeof(got)};
    gdn_io_kind kind;
    CHECK(gdn_io_case_write(path, &c) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_io_file_kind(path, &kind) == GDN_STATUS_OK && kind == GDN_IO_CASE, "kind");
    CHECK(gdn_io_case_read(path, &got) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(got.T == T && got.N == N && got.Hk == HK && got.Hv == HV && got.K == DK && got.V == DV &&
              got.scale == 0.5,
          "dims");
    CHECK(same(got.q, values, T * HK * DK) && same(got.v, values, T * HV * DV) &&
              same(got.g, gates, T * HV) && same(got.dht, values, N * HV * DK * DV),
          "values");
    CHECK(got.cu_seqlens && got.cu_seqlens[2] == 5, "cu_seqlens");
    gdn_io_case_free(&got);
    CHECK(!got.q && !got.cu_seqlens, "free leaves pointers");

    c.do_ = c.initial_state = c.dht = NULL;
    c.cu_seqlens = NULL;
    c.N = 1;
    c.T = 0;
    c.scale = 0;
    CHECK(gdn_io_case_write(path, &c) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_io_case_read(path, &got) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(got.T == 0 && got.N == 1 && got.q && !got.do_ && !got.initial_state && !got.cu_seqlens &&
              got.scale == 0,
          "a case without tokens");
    gdn_io_case_free(&got);
}

static void refused_cases(void) {
    const char *path = file_in("refused.h5");
    gdn_io_case c = make_case();
    gates[3] = 0.25;
    check_line(gdn_io_case_write(path, &c), GDN_STATUS_INVALID_ARGUMENT,
               "dataset g: expected values <= 0, found 0.25 at [1, 1]");
    c = make_case();
    values[4] = NAN;
    check_line(gdn_io_case_write(path, &c), GDN_STATUS_INVALID_ARGUMENT,
               "dataset q: expected finite values, found");
    c = make_case();
    c.k = NULL;
    check_line(gdn_io_case_write(path, &c), GDN_STATUS_INVALID_ARGUMENT, "dataset k");
    c = make_case();
    c.Hk = 4;
    check_line(gdn_io_case_write(path, &c), GDN_STATUS_INVALID_ARGUMENT, "multiple of Hk = 4");
    c = make_case();
    sequences[1] = 6;
    check_line(gdn_io_case_write(path, &c), GDN_STATUS_INVALID_ARGUMENT, "at least 6 at [2]");
    sequences[1] = 2;
    c.size += 8;
    check_line(gdn_io_case_write(path, &c), GDN_STATUS_INVALID_ARGUMENT, "size");
    c.size = 0;
    check_line(gdn_io_case_write(path, &c), GDN_STATUS_INVALID_ARGUMENT, "size");
    CHECK(!file_exists(path), "a refused case was written");
    check_line(gdn_io_case_read(file_in("absent.h5"), &c), GDN_STATUS_BAD_FILE, "No such file");
}

static void results(void) {
    const char *path = file_in("result.h5");
    gdn_io_result r = make_result(), got = {.size = sizeof(got)};
    CHECK(gdn_io_result_write(path, &r) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_io_result_read(path, &got) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(got.T == T && got.N == N && got.Hk == HK && got.Hv == HV && got.K == DK && got.V == DV &&
              got.ranks == 3 && !strcmp(got.backend, "cpu") && !strcmp(got.dtype, "fp64"),
          "dims and attributes");
    CHECK(same(got.o, values, T * HV * DV) && same(got.dh0, values, N * HV * DK * DV), "values");
    gdn_io_result_free(&got);
    /* float32 outside fp64, and no gradients. */
    r.dq = r.dk = r.dv = r.dg = r.dbeta = r.dh0 = NULL;
    strcpy(r.dtype, "bf16");
    CHECK(gdn_io_result_write(path, &r) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_io_result_read(path, &got) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(!got.dq && got.o && got.o[1] == (float)values[1] && got.K == DK, "forward result");
    gdn_io_result_free(&got);
    r.dq = values;
    check_line(gdn_io_result_write(path, &r), GDN_STATUS_INVALID_ARGUMENT, "all gradients or none");
    r.dq = NULL;
    r.o[0] = INFINITY;
    check_line(gdn_io_result_write(path, &r), GDN_STATUS_BAD_DATA,
               "dataset o: expected finite values, found inf at [0, 0, 0]");
}

static void logs(void) {
    const char *path = file_in("log.h5");
    const char *const names[] = {"step", "loss"};
    const double table[] = {1, 5, 2, NAN};
    gdn_io_log log = {sizeof(log), 2, 2, names, table, "a = 1\n", NULL, 0}, *got = NULL;
    CHECK(gdn_io_log_write(path, &log) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_io_log_read(path, &got) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(got && got->rows == 2 && got->columns == 2 && !strcmp(got->names[1], "loss") &&
              got->values[1] == 5 && isnan(got->values[3]) && !strcmp(got->config, "a = 1\n"),
          "log");
    CHECK(got && !got->spans && got->span_count == 0, "a timeline out of nowhere");
    gdn_io_log_free(got);
    const double spans[] = {0, 0, -1, 0, 0.25, 4, 2, 1, 0.25, 0.75};
    log.spans = spans;
    log.span_count = 2;
    CHECK(gdn_io_log_write(path, &log) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_io_log_read(path, &got) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(got && got->span_count == 2 && !memcmp(got->spans, spans, sizeof(spans)),
          "the timeline is another one");
    gdn_io_log_free(got);
    log.spans = NULL;
    log.span_count = 0;
    log.rows = 0;
    log.config = NULL;
    CHECK(gdn_io_log_write(path, &log) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(gdn_io_log_read(path, &got) == GDN_STATUS_OK && got->rows == 0 && !got->config, "%s",
          gdn_last_error());
    gdn_io_log_free(got);
    log.columns = 0;
    check_line(gdn_io_log_write(path, &log), GDN_STATUS_INVALID_ARGUMENT, "columns");
}

/* Writes a result over an old file with no more than `limit` bytes of file allowed. */
static int write_limited(const char *path, rlim_t limit) {
    const pid_t child = fork();
    if (child == 0) {
        const struct rlimit size = {limit, limit};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &size);
        const gdn_io_result r = make_result();
        const gdn_status status = gdn_io_result_write(path, &r);
        _exit(status == GDN_STATUS_IO_ERROR && strstr(gdn_last_error(), "File too large") ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void full_disk(void) {
    const char *dir = file_in("full");
    mkdir(dir, 0777);
    const char *path = file_in("full/result.h5");
    for (rlim_t limit = 0; limit <= 4096; limit += 1024) {
        CHECK(write_limited(path, limit) == 0, "limit %d", (int)limit);
        CHECK(files_count(dir) == 0, "limit %d: %d files left", (int)limit, files_count(dir));
    }
    file_write(path, "old", 3);
    CHECK(write_limited(path, 1000) == 0, "over an old file");
    CHECK(files_count(dir) == 1 && file_size(path) == 3, "the old file changed");
}

static void unwritable(void) {
    gdn_io_result r = make_result();
    check_line(gdn_io_result_write(file_in("none/result.h5"), &r), GDN_STATUS_IO_ERROR,
               "No such file");
    mkdir(file_in("folder"), 0777);
    check_line(gdn_io_result_write(file_in("folder"), &r), GDN_STATUS_IO_ERROR, "a directory");
    check_line(gdn_io_result_write(file_in("folder/"), &r), GDN_STATUS_INVALID_ARGUMENT, "name");
    check_line(gdn_io_result_write("/dev/null", &r), GDN_STATUS_IO_ERROR, "no regular file");
    /* Also where the user may do anything: no file can be made below /proc. */
    check_line(gdn_io_result_write("/proc/self/result.h5", &r), GDN_STATUS_IO_ERROR,
               "cannot write");
    /* A killed writer's leftover goes with the next write of that file. */
    file_write(file_in("folder/.r.h5.tmp.2147483647"), "half", 4);
    CHECK(gdn_io_result_write(file_in("folder/r.h5"), &r) == GDN_STATUS_OK, "%s", gdn_last_error());
    CHECK(files_count(file_in("folder")) == 1, "leftover");
}

/* The caller's own error printing of HDF5 and child processes are left alone. */
static void repeated(void) {
    gdn_io_case c = {.size = sizeof(c)};
    file_write(file_in("junk.h5"), "junk", 4);
    for (int i = 0; i < 50; ++i)
        CHECK(gdn_io_case_read(file_in("junk.h5"), &c) == GDN_STATUS_BAD_FILE, "junk");
    CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "a child is left");
}

int main(void) {
    files_begin();
    cases();
    refused_cases();
    results();
    logs();
    full_disk();
    unwritable();
    repeated();
    files_end();
    return harness_finish();
}
