/* gdn gradcheck: the gradients of a case against float64 and finite differences. */
#include "check/check.h"
#include "gdn_io.h"
#include "options.h"
#include "table.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cli_gradcheck(int argc, char **argv);

static const cli_syntax syntax = {
    "gradcheck",
    CLI_OPT_OUTPUT | CLI_OPT_BACKEND | CLI_OPT_DTYPE | CLI_OPT_CHECK | CLI_OPT_ALL,
    {"CASE.h5", NULL},
    "usage: gdn gradcheck CASE.h5 [--backend reference|cpu|cuda] [--dtype fp64|fp32|bf16|fp16]\n"
    "                     [--exact] [--result RESULT.h5] [--directions N] [--seed S]\n"
    "                     [-o REPORT.csv] [--all]\n"
    "\n"
    "Checks the gradients of an operator or layer case: against the float64 backward, by head, "
    "and\n"
    "against central differences of the float64 forward, in random directions. Under mpirun -n P\n"
    "the gradients are those of the sequence cut into P shards.\n"
    "\n"
    "  --backend NAME   whose gradients; default: for operators cuda if it is usable here, else "
    "cpu\n"
    "  --dtype NAME     default: bf16 on cuda, fp32 on cpu, fp64 on reference, which takes no "
    "other\n"
    "  --exact          never drop a state that the gate has decayed\n"
    "  --result FILE    check the gradients of this result file, whoever wrote it, with the\n"
    "                   tolerances of its dtype (or --dtype)\n"
    "  --directions N   random directions a tensor; 0: no differences; default 2\n"
    "  --seed S         of the directions, and of the output's gradient where the case has none;\n"
    "                   default 1\n"
    "  -o REPORT.csv    also write the rows as tensor,against,head,error,scale_error,tolerance,"
    "pass\n"
    "  --all            print every head where a tensor has more than 16\n"
    "\n"
    "Exit: 0 passed, 1 failed, 2 bad usage, file or problem, 3 no such backend here, 4 other "
    "failure.\n"
    "\n"
    "example: gdn gradcheck step.case.h5 --result step.result.h5\n"};

static gdn_gradcheck_options check_options(const cli_options *o) {
    gdn_gradcheck_options options = GDN_GRADCHECK_OPTIONS_INIT;
    options.directions = o->directions;
    options.seed = o->seed;
    return options;
}

/* The tolerances of a result file are those of the dtype that it names, unless --dtype is given. */
static gdn_dtype result_dtype(const cli_options *o, const char *name) {
    for (int d = GDN_DTYPE_FP32; !o->dtype_given && d <= GDN_DTYPE_FP64; ++d)
        if (!strcmp(name, gdn_dtype_name((gdn_dtype)d)))
            return (gdn_dtype)d;
    return o->dtype;
}

static int no_gradients(const cli_options *o) {
    fprintf(cli_messages(), "gdn gradcheck: %s: expected gradients, found a forward result\n",
            o->result);
    return CLI_BAD_INPUT;
}

static int check_dim(const cli_options *o, const char *name, int64_t found, int64_t expected) {
    if (found == expected)
        return CLI_GO_ON;
    fprintf(cli_messages(),
            "gdn gradcheck: %s: %s: expected %" PRId64 " as in %s, found %" PRId64 "\n", o->result,
            name, expected, o->path[0], found);
    return CLI_BAD_INPUT;
}

static int check_operator_dims(const cli_options *o, const gdn_io_case *c, const gdn_io_result *r) {
    const struct {
        const char *name;
        int64_t found, expected;
    } dims[] = {{"T", r->T, c->T},    {"N", r->N, c->N}, {"Hk", r->Hk, c->Hk},
                {"Hv", r->Hv, c->Hv}, {"K", r->K, c->K}, {"V", r->V, c->V}};
    int code = CLI_GO_ON;
    for (size_t i = 0; code == CLI_GO_ON && i < sizeof(dims) / sizeof(dims[0]); ++i)
        code = check_dim(o, dims[i].name, dims[i].found, dims[i].expected);
    return code;
}

/* Over ranks the gradients come from here, and so does the output's gradient where the case has
 * none: every rank draws the same, in (-1, 1). */
static double *draw_gradient(int64_t count, uint64_t seed) {
    double *data = calloc((size_t)count + 1, sizeof(double));
    for (int64_t i = 0; data && i < count; ++i) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        data[i] = (double)(int32_t)(seed >> 32) * 0x1p-31;
    }
    return data;
}

static double *room(int64_t count, int *missing) {
    double *data = calloc((size_t)count + 1, sizeof(double));
    *missing |= !data;
    return data;
}

/* The sharded gradients into r, on rank 0. */
static gdn_status shard_operator(const cli_options *o, const gdn_context *context,
                                 const gdn_problem *p, gdn_io_case *c, gdn_io_result *r) {
    static const char *const names[] = {"dq", "dk", "dv", "dg", "dbeta", "dh0"};
    double **const outputs[] = {&r->dq, &r->dk, &r->dv, &r->dg, &r->dbeta, &r->dh0};
    int missing = 0;
    for (int i = 0; i < 6; ++i)
        *outputs[i] = room(gdni_operator_shape(p, names[i]).count, &missing);
    r->o = room(gdni_operator_shape(p, "o").count, &missing);
    if (!c->do_)
        c->do_ = draw_gradient(gdni_operator_shape(p, "do").count, o->seed);
    if (missing || !c->do_)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "no memory for the gradients");
    const gdni_operator_values values = {.q = c->q,
                                         .k = c->k,
                                         .v = c->v,
                                         .g = c->g,
                                         .beta = c->beta,
                                         .initial_state = c->initial_state,
                                         .do_ = c->do_,
                                         .dht = c->dht,
                                         .cu_seqlens = c->cu_seqlens,
                                         .o = r->o,
                                         .dq = r->dq,
                                         .dk = r->dk,
                                         .dv = r->dv,
                                         .dg = r->dg,
                                         .dbeta = r->dbeta,
                                         .dh0 = r->dh0};
    return cli_evaluate_operator(o->dist, context, p, &values);
}

static int check_operator(const cli_options *o, const gdn_context *context, gdn_io_case *c,
                          gdn_io_result *r, gdn_check_report *report) {
    gdn_problem p = GDN_PROBLEM_INIT;
    const gdn_gradcheck_options options = check_options(o);
    p.dtype = o->dtype;
    p.flags = o->exact ? GDN_FLAG_EXACT : 0;
    p.T = c->T, p.N = c->N, p.Hk = c->Hk, p.Hv = c->Hv, p.K = c->K, p.V = c->V;
    p.scale = c->scale;
    gdn_status status = GDN_STATUS_OK;
    if (o->result) {
        status = gdn_io_result_read(o->result, r);
        if (status != GDN_STATUS_OK)
            return cli_report_file(o->command, o->result, status);
        if (!r->dq)
            return no_gradients(o);
        const int code = check_operator_dims(o, c, r);
        if (code != CLI_GO_ON)
            return code;
        p.dtype = result_dtype(o, r->dtype);
    } else if (o->dist) {
        status = shard_operator(o, context, &p, c, r);
        if (status != GDN_STATUS_OK)
            return cli_report_file(o->command, o->path[0], status);
    }
    if (cli_rank(o->dist) > 0)
        return CLI_OK;
    const gdn_gradcheck_inputs inputs = {sizeof(inputs), c->q,    c->k,          c->v,
                                         c->g,           c->beta, c->cu_seqlens, c->initial_state,
                                         c->do_,         c->dht};
    const gdn_gradcheck_gradients given = {sizeof(given), r->dq,    r->dk, r->dv,
                                           r->dg,         r->dbeta, r->dh0};
    status = gdn_gradcheck_operator(context, &p, &inputs, r->dq ? &given : NULL, &options, report);
    return status == GDN_STATUS_OK ? CLI_GO_ON : cli_report_file(o->command, o->path[0], status);
}

static int check_operator_file(const cli_options *o, const gdn_context *context,
                               gdn_check_report *report) {
    gdn_io_case c = {.size = sizeof(c)};
    gdn_io_result r = {.size = sizeof(r)};
    const gdn_status status = gdn_io_case_read(o->path[0], &c);
    const int code = status == GDN_STATUS_OK ? check_operator(o, context, &c, &r, report)
                                             : cli_report_file(o->command, o->path[0], status);
    gdn_io_result_free(&r);
    gdn_io_case_free(&c);
    return code;
}

static int check_layer_dims(const cli_options *o, const gdn_layer *found,
                            const gdn_layer *expected) {
    const struct {
        const char *name;
        int64_t found, expected;
    } dims[] = {{"T", found->T, expected->T},
                {"D", found->D, expected->D},
                {"Hk", found->Hk, expected->Hk},
                {"Hv", found->Hv, expected->Hv},
                {"K", found->K, expected->K},
                {"V", found->V, expected->V},
                {"conv_width", found->conv_width, expected->conv_width}};
    int code = CLI_GO_ON;
    for (size_t i = 0; code == CLI_GO_ON && i < sizeof(dims) / sizeof(dims[0]); ++i)
        code = check_dim(o, dims[i].name, dims[i].found, dims[i].expected);
    return code;
}

static gdn_status shard_layer(const cli_options *o, const gdn_context *context,
                              const gdn_layer *layer, gdn_io_layer_case *c,
                              gdn_io_layer_result *r) {
    const gdn_layer_weights none = GDN_LAYER_WEIGHTS_INIT;
    const int64_t count = gdni_layer_activation_shape(layer, "x").count;
    int missing = 0;
    r->dweights = none;
    r->out = room(count, &missing);
    r->dx = room(count, &missing);
    for (int i = 0; i < GDNI_LAYER_WEIGHTS; ++i)
        *gdni_layer_weight(&r->dweights, i) =
            room(gdni_layer_weight_shape(layer, i).count, &missing);
    if (!c->dout)
        c->dout = draw_gradient(count, o->seed);
    if (missing || !c->dout)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "no memory for the gradients");
    const gdni_layer_values values = {.x = c->x,
                                      .dout = c->dout,
                                      .cu_seqlens = c->cu_seqlens,
                                      .weights = &c->weights,
                                      .out = r->out,
                                      .dx = r->dx,
                                      .dweights = &r->dweights};
    return cli_evaluate_layer(o->dist, context, layer, &values);
}

static int check_layer(const cli_options *o, const gdn_context *context, gdn_io_layer_case *c,
                       gdn_io_layer_result *r, gdn_check_report *report) {
    gdn_layer layer = c->layer;
    const gdn_gradcheck_options options = check_options(o);
    layer.dtype = o->dtype;
    layer.flags = o->exact ? GDN_LAYER_EXACT : 0;
    gdn_status status = GDN_STATUS_OK;
    if (o->result) {
        status = gdn_io_layer_result_read(o->result, r);
        if (status != GDN_STATUS_OK)
            return cli_report_file(o->command, o->result, status);
        if (!r->dx)
            return no_gradients(o);
        const int code = check_layer_dims(o, &r->layer, &c->layer);
        if (code != CLI_GO_ON)
            return code;
        layer.dtype = result_dtype(o, r->dtype);
    } else if (o->dist) {
        status = shard_layer(o, context, &layer, c, r);
        if (status != GDN_STATUS_OK)
            return cli_report_file(o->command, o->path[0], status);
    }
    if (cli_rank(o->dist) > 0)
        return CLI_OK;
    const gdn_gradcheck_layer_inputs inputs = {sizeof(inputs), c->x, c->dout, c->cu_seqlens,
                                               &c->weights};
    const gdn_gradcheck_layer_gradients given = {sizeof(given), r->dx, &r->dweights};
    status = gdn_gradcheck_layer(context, &layer, &inputs, r->dx ? &given : NULL, &options, report);
    return status == GDN_STATUS_OK ? CLI_GO_ON : cli_report_file(o->command, o->path[0], status);
}

static int check_layer_file(const cli_options *o, const gdn_context *context,
                            gdn_check_report *report) {
    gdn_io_layer_case c = {.size = sizeof(c)};
    gdn_io_layer_result r = {.size = sizeof(r)};
    const gdn_status status = gdn_io_layer_case_read(o->path[0], &c);
    const int code = status == GDN_STATUS_OK ? check_layer(o, context, &c, &r, report)
                                             : cli_report_file(o->command, o->path[0], status);
    gdn_io_layer_result_free(&r);
    gdn_io_layer_case_free(&c);
    return code;
}

static int run(int argc, char **argv, gdn_dist *dist) {
    cli_options options;
    gdn_context *context = NULL;
    gdn_io_kind kind;
    gdn_check_report report = GDN_CHECK_REPORT_INIT;
    int code = cli_parse(&syntax, argc, argv, &options);
    if (code != CLI_GO_ON)
        return code;
    options.dist = dist;
    if (options.result && (options.backend != GDN_BACKEND_AUTO || options.exact))
        return cli_usage("gradcheck", "--result: expected no --backend and no --exact with it");
    code = cli_case_kind(&options, &kind);
    if (code == CLI_GO_ON && !options.result)
        code = cli_open_context(&options, kind, &context);
    if (code == CLI_GO_ON)
        code = kind == GDN_IO_CASE ? check_operator_file(&options, context, &report)
                                   : check_layer_file(&options, context, &report);
    if (code == CLI_GO_ON) {
        cli_print_report(&report, options.all);
        cli_print_verdict(options.command, &report);
        code = options.output ? cli_write_csv(options.command, options.output, &report) : CLI_OK;
        if (code == CLI_OK && !report.pass)
            code = CLI_CHECK_FAILED;
    }
    gdn_check_report_free(&report);
    gdn_context_destroy(context);
    return code;
}

int cli_gradcheck(int argc, char **argv) {
    return cli_over_ranks("gradcheck", NULL, run, argc, argv);
}
