/* gdn run: a case file forward and, where it holds the output's gradient, backward. */
#include "check/check.h"
#include "gdn_io.h"
#include "options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cli_run(int argc, char **argv);

static const cli_syntax syntax = {
    "run",
    CLI_OPT_OUTPUT | CLI_OPT_BACKEND | CLI_OPT_DTYPE,
    {"CASE.h5", NULL},
    "usage: gdn run CASE.h5 -o RESULT.h5 [--backend reference|cpu|cuda]\n"
    "               [--dtype fp64|fp32|bf16|fp16] [--exact]\n"
    "\n"
    "Runs an operator or layer case forward and, if it holds the output's gradient, backward.\n"
    "Under mpirun -n P the sequence is cut into P shards; rank 0 writes the result.\n"
    "\n"
    "  -o RESULT.h5     where the result goes; it appears complete or not at all\n"
    "  --backend NAME   default: for operators cuda if it is usable here, else cpu\n"
    "  --dtype NAME     default: bf16 on cuda, fp32 on cpu, fp64 on reference, which takes no "
    "other;\n"
    "                   q, k, v, do are rounded to it, gates and states to fp32\n"
    "  --exact          never drop a state that the gate has decayed\n"
    "\n"
    "Exit: 0 written, 2 bad usage, file or problem, 3 no such backend here, 4 other failure, such\n"
    "as an output that is not finite.\n"
    "\n"
    "example: gdn run step.case.h5 -o step.result.h5 --backend reference\n"};

/* Memory for a tensor of the result. */
static double *room(int64_t count, int *missing) {
    double *data = calloc((size_t)count + 1, sizeof(double));
    if (!data)
        *missing = 1;
    return data;
}

/* A result that is not finite is a failure of the run, and nothing is written. */
static int check_finite(const cli_options *o, const gdni_shape *s, const double *data) {
    for (int64_t i = 0; data && i < s->count; ++i)
        if (!isfinite(data[i])) {
            char place[96];
            gdni_format_place(s, i, place);
            fprintf(cli_messages(),
                    "gdn run: %s: %s at %s is %g, expected a finite number; nothing "
                    "written\n",
                    o->path[0], s->name, place, data[i]);
            return CLI_FAILED;
        }
    return CLI_GO_ON;
}

static int out_of_memory(const cli_options *o) {
    fprintf(cli_messages(), "gdn run: %s: no memory for the result\n", o->path[0]);
    return CLI_FAILED;
}

/* Copies what describes a run into a result's attributes. */
static void describe(const cli_options *o, const gdn_context *context, char backend[32],
                     char dtype[8], char version[32]) {
    snprintf(backend, 32, "%s", gdn_backend_name(gdn_context_backend(context)));
    snprintf(dtype, 8, "%s", gdn_dtype_name(o->dtype));
    snprintf(version, 32, "%s", GDN_VERSION_STRING);
}

static int run_operator(const cli_options *o, const gdn_context *context, const gdn_io_case *c,
                        gdn_io_result *r) {
    gdn_problem p = GDN_PROBLEM_INIT;
    int missing = 0, code;
    p.dtype = o->dtype;
    p.flags = o->exact ? GDN_FLAG_EXACT : 0;
    /* Reading the file has looked at its values; this looks at what they became in the dtype. */
    if (!o->dist)
        p.flags |= GDN_FLAG_CHECKED;
    p.T = c->T, p.N = c->N, p.Hk = c->Hk, p.Hv = c->Hv, p.K = c->K, p.V = c->V;
    p.scale = c->scale;
    gdn_status status = gdn_problem_supported(context, &p);
    if (status != GDN_STATUS_OK)
        return cli_report_file(o->command, o->path[0], status);

    static const char *const names[] = {"o", "final_state", "dq", "dk", "dv", "dg", "dbeta", "dh0"};
    double **const outputs[] = {&r->o,  &r->final_state, &r->dq,    &r->dk,
                                &r->dv, &r->dg,          &r->dbeta, &r->dh0};
    const int wanted = c->do_ ? 8 : 2;
    for (int i = 0; i < wanted; ++i)
        *outputs[i] = room(gdni_operator_shape(&p, names[i]).count, &missing);
    if (missing)
        return out_of_memory(o);
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
                                         .final_state = r->final_state,
                                         .dq = r->dq,
                                         .dk = r->dk,
                                         .dv = r->dv,
                                         .dg = r->dg,
                                         .dbeta = r->dbeta,
                                         .dh0 = r->dh0};
    status = cli_evaluate_operator(o->dist, context, &p, &values);
    if (status != GDN_STATUS_OK)
        return cli_report_file(o->command, o->path[0], status);
    if (cli_rank(o->dist) > 0)
        return CLI_OK;
    for (int i = 0; i < wanted; ++i) {
        const gdni_shape s = gdni_operator_shape(&p, names[i]);
        if ((code = check_finite(o, &s, *outputs[i])) != CLI_GO_ON)
            return code;
    }
    r->T = c->T, r->N = c->N, r->Hk = c->Hk, r->Hv = c->Hv, r->K = c->K, r->V = c->V;
    r->ranks = cli_ranks(o->dist);
    describe(o, context, r->backend, r->dtype, r->library_version);
    status = gdn_io_result_write(o->output, r);
    return status == GDN_STATUS_OK ? CLI_OK : cli_report_file(o->command, o->output, status);
}

static int run_operator_file(const cli_options *o, const gdn_context *context) {
    gdn_io_case c = {.size = sizeof(c)};
    gdn_io_result r = {.size = sizeof(r)};
    const gdn_status status = gdn_io_case_read(o->path[0], &c);
    const int code = status == GDN_STATUS_OK ? run_operator(o, context, &c, &r)
                                             : cli_report_file(o->command, o->path[0], status);
    gdn_io_result_free(&r);
    gdn_io_case_free(&c);
    return code;
}

static int run_layer(const cli_options *o, const gdn_context *context, const gdn_io_layer_case *c,
                     gdn_io_layer_result *r) {
    gdn_layer layer = c->layer;
    int missing = 0, code;
    layer.dtype = o->dtype;
    layer.flags = o->exact ? GDN_LAYER_EXACT : 0;
    gdn_status status = gdn_layer_supported(context, &layer);
    if (status != GDN_STATUS_OK)
        return cli_report_file(o->command, o->path[0], status);

    const gdn_layer_weights none = GDN_LAYER_WEIGHTS_INIT;
    const gdni_shape out = gdni_layer_activation_shape(&layer, "out");
    const gdni_shape dx = gdni_layer_activation_shape(&layer, "dx");
    r->dweights = none;
    r->out = room(out.count, &missing);
    if (c->dout) {
        r->dx = room(dx.count, &missing);
        for (int i = 0; i < GDNI_LAYER_WEIGHTS; ++i)
            *gdni_layer_weight(&r->dweights, i) =
                room(gdni_layer_weight_shape(&layer, i).count, &missing);
    }
    if (missing)
        return out_of_memory(o);
    const gdni_layer_values values = {.x = c->x,
                                      .dout = c->dout,
                                      .cu_seqlens = c->cu_seqlens,
                                      .weights = &c->weights,
                                      .out = r->out,
                                      .dx = r->dx,
                                      .dweights = c->dout ? &r->dweights : NULL};
    status = cli_evaluate_layer(o->dist, context, &layer, &values);
    if (status != GDN_STATUS_OK)
        return cli_report_file(o->command, o->path[0], status);
    if (cli_rank(o->dist) > 0)
        return CLI_OK;
    if ((code = check_finite(o, &out, r->out)) != CLI_GO_ON ||
        (code = check_finite(o, &dx, r->dx)) != CLI_GO_ON)
        return code;
    for (int i = 0; i < GDNI_LAYER_WEIGHTS; ++i) {
        const gdni_shape s = gdni_layer_weight_shape(&layer, i);
        if ((code = check_finite(o, &s, *gdni_layer_weight(&r->dweights, i))) != CLI_GO_ON)
            return code;
    }
    r->layer = layer;
    r->naming = c->naming;
    r->ranks = cli_ranks(o->dist);
    describe(o, context, r->backend, r->dtype, r->library_version);
    status = gdn_io_layer_result_write(o->output, r);
    return status == GDN_STATUS_OK ? CLI_OK : cli_report_file(o->command, o->output, status);
}

static int run_layer_file(const cli_options *o, const gdn_context *context) {
    gdn_io_layer_case c = {.size = sizeof(c)};
    gdn_io_layer_result r = {.size = sizeof(r)};
    const gdn_status status = gdn_io_layer_case_read(o->path[0], &c);
    const int code = status == GDN_STATUS_OK ? run_layer(o, context, &c, &r)
                                             : cli_report_file(o->command, o->path[0], status);
    gdn_io_layer_result_free(&r);
    gdn_io_layer_case_free(&c);
    return code;
}

static int run(int argc, char **argv, gdn_dist *dist) {
    cli_options options;
    gdn_context *context = NULL;
    gdn_io_kind kind;
    int code = cli_parse(&syntax, argc, argv, &options);
    if (code != CLI_GO_ON)
        return code;
    options.dist = dist;
    if (!options.output)
        return cli_usage("run", "expected -o RESULT.h5, found nothing");
    code = cli_case_kind(&options, &kind);
    if (code == CLI_GO_ON)
        code = cli_open_context(&options, kind, &context);
    if (code == CLI_GO_ON)
        code = kind == GDN_IO_CASE ? run_operator_file(&options, context)
                                   : run_layer_file(&options, context);
    gdn_context_destroy(context);
    return code;
}

int cli_run(int argc, char **argv) {
    return cli_over_ranks("run", NULL, run, argc, argv);
}
