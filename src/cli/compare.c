/* gdn compare: a result file against another. */
#include "check/check.h"
#include "gdn_io.h"
#include "options.h"
#include "table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int cli_compare(int argc, char **argv);

static const cli_syntax syntax = {
    "compare",
    CLI_OPT_TOLERANCE | CLI_OPT_OUTPUT | CLI_OPT_ALL,
    {"RESULT.h5", "REFERENCE.h5"},
    "usage: gdn compare RESULT.h5 REFERENCE.h5 [--tol NAME=X]... [-o REPORT.csv] [--all]\n"
    "\n"
    "Compares the tensors of a result with those of a reference, by head: relative L2 error, "
    "scale\n"
    "error (a wrong factor) and the worst element. Operator and layer results.\n"
    "\n"
    "  --tol NAME=X     tolerance of a tensor instead of the standing one of RESULT's dtype; its\n"
    "                   scale tolerance moves along; may be repeated\n"
    "  -o REPORT.csv    also write the rows as tensor,against,head,error,scale_error,tolerance,"
    "pass\n"
    "  --all            print every head where a tensor has more than 16\n"
    "\n"
    "Exit: 0 within tolerance, 1 out of tolerance, 2 bad usage or file, 4 other failure.\n"
    "\n"
    "example: gdn compare mine.h5 theirs.h5 --tol dg=1e-3\n"};

static gdn_dtype dtype_named(const char *name) {
    for (int d = GDN_DTYPE_FP32; d <= GDN_DTYPE_FP64; ++d)
        if (!strcmp(name, gdn_dtype_name((gdn_dtype)d)))
            return (gdn_dtype)d;
    return GDN_DTYPE_FP32;
}

/* What a tensor's tolerances are multiplied with. */
static double factor_of(const cli_options *o, const char *name, gdn_dtype dtype) {
    double factor = 1;
    for (int i = 0; i < o->tolerances; ++i)
        if (!strcmp(o->tolerance[i].name, name))
            factor = o->tolerance[i].value / gdn_check_default_tolerance(name, dtype);
    return factor;
}

static int check_names(const cli_options *o, const char *const *names, int count) {
    for (int t = 0; t < o->tolerances; ++t) {
        int known = 0;
        for (int i = 0; i < count; ++i)
            known |= !strcmp(o->tolerance[t].name, names[i]);
        if (!known)
            return cli_usage(o->command, "--tol: expected a tensor of the result, found '%s'",
                             o->tolerance[t].name);
    }
    return CLI_GO_ON;
}

static int check_dim(const cli_options *o, const char *name, int64_t got, int64_t want) {
    if (got == want)
        return CLI_GO_ON;
    fprintf(cli_messages(),
            "gdn compare: %s: %s: expected %" PRId64 " as in %s, found %" PRId64 "\n", o->path[0],
            name, want, o->path[1], got);
    return CLI_BAD_INPUT;
}

#define SAME(field)                                                                                \
    do {                                                                                           \
        const int code_ = check_dim(o, #field, got->field, want->field);                           \
        if (code_ != CLI_GO_ON)                                                                    \
            return code_;                                                                          \
    } while (0)

/* A tensor that one side lacks: the reference decides what must be there. */
static int check_present(const cli_options *o, const char *name, const double *got,
                         const double *want) {
    if (!got && want) {
        fprintf(cli_messages(), "gdn compare: %s: dataset %s: expected one as in %s, found none\n",
                o->path[0], name, o->path[1]);
        return CLI_BAD_INPUT;
    }
    if (got && !want)
        printf("%s is not compared: %s has none\n", name, o->path[1]);
    return CLI_GO_ON;
}

static int compare_operators(const cli_options *o, const gdn_io_result *got,
                             const gdn_io_result *want, gdn_check_report *report) {
    static const char *const names[] = {"o", "final_state", "dq", "dk", "dv", "dg", "dbeta", "dh0"};
    const double *const g[] = {got->o,  got->final_state, got->dq,    got->dk,
                               got->dv, got->dg,          got->dbeta, got->dh0};
    const double *const w[] = {want->o,  want->final_state, want->dq,    want->dk,
                               want->dv, want->dg,          want->dbeta, want->dh0};
    const gdn_dtype dtype = dtype_named(got->dtype);
    gdn_problem p = GDN_PROBLEM_INIT;
    int code = check_names(o, names, 8);
    if (code != CLI_GO_ON)
        return code;
    for (int i = 0; i < 8; ++i)
        if ((code = check_present(o, names[i], g[i], w[i])) != CLI_GO_ON)
            return code;
    SAME(T);
    SAME(Hv);
    SAME(V);
    if (want->final_state || want->dq) {
        SAME(N);
        SAME(K);
    }
    if (want->dq)
        SAME(Hk);
    p.T = got->T, p.N = got->N, p.Hk = got->Hk, p.Hv = got->Hv, p.K = got->K, p.V = got->V;
    for (int i = 0; i < 8; ++i) {
        const gdni_shape s = gdni_operator_shape(&p, names[i]);
        if (g[i] && w[i])
            CLI_TRY(gdni_compare_standing(&s, g[i], w[i], dtype, factor_of(o, names[i], dtype),
                                          "result", report));
    }
    return CLI_GO_ON;
}

static int compare_operator_files(const cli_options *o, gdn_check_report *report) {
    gdn_io_result got = {.size = sizeof(got)}, want = {.size = sizeof(want)};
    int code;
    gdn_status status = gdn_io_result_read(o->path[0], &got);
    if (status != GDN_STATUS_OK)
        return cli_report_file(o->command, o->path[0], status);
    status = gdn_io_result_read(o->path[1], &want);
    code = status == GDN_STATUS_OK ? compare_operators(o, &got, &want, report)
                                   : cli_report_file(o->command, o->path[1], status);
    gdn_io_result_free(&want);
    gdn_io_result_free(&got);
    return code;
}

static int compare_layers(const cli_options *o, const gdn_io_layer_result *got,
                          const gdn_io_layer_result *want, gdn_check_report *report) {
    const char *names[GDNI_LAYER_WEIGHTS + 2] = {"out", "dx"};
    gdn_layer layer = got->layer;
    int code;
    layer.dtype = dtype_named(got->dtype);
    for (int i = 0; i < GDNI_LAYER_WEIGHTS; ++i)
        names[i + 2] = gdni_layer_weight_shape(&layer, i).name;
    if ((code = check_names(o, names, GDNI_LAYER_WEIGHTS + 2)) != CLI_GO_ON ||
        (code = check_present(o, "dx", got->dx, want->dx)) != CLI_GO_ON)
        return code;
    SAME(layer.T);
    SAME(layer.D);
    const gdni_shape out = gdni_layer_activation_shape(&layer, "out");
    CLI_TRY(gdni_compare_standing(&out, got->out, want->out, layer.dtype,
                                  factor_of(o, "out", layer.dtype), "result", report));
    if (!want->dx)
        return CLI_GO_ON;
    SAME(layer.Hk);
    SAME(layer.Hv);
    SAME(layer.K);
    SAME(layer.V);
    SAME(layer.conv_width);
    const gdni_shape dx = gdni_layer_activation_shape(&layer, "dx");
    CLI_TRY(gdni_compare_standing(&dx, got->dx, want->dx, layer.dtype,
                                  factor_of(o, "dx", layer.dtype), "result", report));
    for (int i = 0; i < GDNI_LAYER_WEIGHTS; ++i)
        CLI_TRY(gdni_compare_layer_weight(&layer, i, *gdni_layer_weight(&got->dweights, i),
                                          *gdni_layer_weight(&want->dweights, i),
                                          factor_of(o, names[i + 2], layer.dtype), "result",
                                          report));
    return CLI_GO_ON;
}

static int compare_layer_files(const cli_options *o, gdn_check_report *report) {
    gdn_io_layer_result got = {.size = sizeof(got)}, want = {.size = sizeof(want)};
    int code;
    gdn_status status = gdn_io_layer_result_read(o->path[0], &got);
    if (status != GDN_STATUS_OK)
        return cli_report_file(o->command, o->path[0], status);
    status = gdn_io_layer_result_read(o->path[1], &want);
    code = status == GDN_STATUS_OK ? compare_layers(o, &got, &want, report)
                                   : cli_report_file(o->command, o->path[1], status);
    gdn_io_layer_result_free(&want);
    gdn_io_layer_result_free(&got);
    return code;
}

/* Both are results of the same kind. */
static int find_kind(const cli_options *o, gdn_io_kind *kind) {
    gdn_io_kind kinds[2];
    for (int i = 0; i < 2; ++i) {
        const gdn_status status = gdn_io_file_kind(o->path[i], &kinds[i]);
        if (status != GDN_STATUS_OK)
            return cli_report_file(o->command, o->path[i], status);
        if (kinds[i] != GDN_IO_RESULT && kinds[i] != GDN_IO_LAYER_RESULT) {
            fprintf(cli_messages(),
                    "gdn compare: %s: expected an operator or layer result, found another kind of "
                    "file\n",
                    o->path[i]);
            return CLI_BAD_INPUT;
        }
    }
    if (kinds[0] != kinds[1]) {
        fprintf(cli_messages(), "gdn compare: %s: expected %s result as in %s\n", o->path[0],
                kinds[1] == GDN_IO_RESULT ? "an operator" : "a layer", o->path[1]);
        return CLI_BAD_INPUT;
    }
    *kind = kinds[0];
    return CLI_GO_ON;
}

int cli_compare(int argc, char **argv) {
    cli_options options;
    gdn_io_kind kind = GDN_IO_RESULT;
    gdn_check_report report = GDN_CHECK_REPORT_INIT;
    int code = cli_parse(&syntax, argc, argv, &options);
    if (code == CLI_GO_ON)
        code = find_kind(&options, &kind);
    if (code == CLI_GO_ON)
        code = kind == GDN_IO_RESULT ? compare_operator_files(&options, &report)
                                     : compare_layer_files(&options, &report);
    if (code == CLI_GO_ON) {
        cli_print_report(&report, options.all);
        cli_print_verdict(options.command, &report);
        code = options.output ? cli_write_csv(options.command, options.output, &report) : CLI_OK;
        if (code == CLI_OK && !report.pass)
            code = CLI_CHECK_FAILED;
    }
    gdn_check_report_free(&report);
    return code;
}
