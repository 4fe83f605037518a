/* Options of gdn bench with --rows, --summary or --memory. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "../options.h"
#include "bench.h"

static int parse_number(const char *option, const char *text, int64_t least, int64_t most,
                        int64_t *out) {
    char *end;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < least || value > most)
        return cli_usage("bench", "%s: expected an integer from %lld to %lld, found '%s'", option,
                         (long long)least, (long long)most, text);
    *out = value;
    return CLI_GO_ON;
}

static int parse_heads(const char *text, int64_t heads[2]) {
    char *end;
    heads[0] = strtoll(text, &end, 10);
    heads[1] = *end == '/' ? strtoll(end + 1, &end, 10) : 0;
    if (*end || heads[0] < 1 || heads[1] < heads[0] || heads[1] > 65536 || heads[1] % heads[0])
        return cli_usage("bench", "--heads: expected Hk/Hv such as 16/32, found '%s'", text);
    return CLI_GO_ON;
}

static int parse_backend(const char *text, bench_options *o) {
    for (int b = GDN_BACKEND_CPU; b <= GDN_BACKEND_CUDA; ++b)
        if (!strcmp(text, gdn_backend_name((gdn_backend)b))) {
            o->backend = (gdn_backend)b;
            return CLI_GO_ON;
        }
    return cli_usage("bench", "--backend: expected cuda, with --memory also cpu, found '%s'", text);
}

/* What becomes a part of a file's name. */
static int check_word(const char *option, const char *text) {
    if (!*text || strlen(text) > 60 ||
        strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRST"
                     "UVWXYZ0123456789.-_") != strlen(text))
        return cli_usage("bench", "%s: expected letters, digits, '.', '-' and '_', found '%s'",
                         option, text);
    return CLI_GO_ON;
}

static int parse_one(bench_options *o, int option, char *text) {
    int64_t number = 0;
    int code = CLI_GO_ON;
    switch (option) {
    case 'R':
        o->rows = text;
        break;
    case 'S':
        o->summary = text;
        break;
    case 'M':
        o->memory = 1;
        break;
    case 'b':
        code = parse_backend(text, o);
        break;
    case 'H':
        code = parse_heads(text, o->heads);
        break;
    case 'f':
        if (o->filter_count == BENCH_MOST_FILTERS)
            return cli_usage("bench", "--filter: expected at most %d", (int)BENCH_MOST_FILTERS);
        o->filters[o->filter_count++] = text;
        break;
    case 'o':
        o->output = text;
        break;
    case 'l':
        o->label = text;
        code = check_word("--label", text);
        break;
    case 'c':
        o->commit = text;
        code = check_word("--commit", text);
        break;
    case 'd':
        code = parse_number("--device", text, 0, 1023, &number);
        o->device = (int32_t)number;
        break;
    case 'j':
        code = parse_number("--threads", text, 1, 64, &number);
        o->threads = (int32_t)number;
        break;
    case 'r':
        code = parse_number("--repeat", text, 1, 10000, &o->repeats);
        break;
    case 's':
        code = parse_number("--seed", text, 0, INT64_C(1) << 48, &number);
        o->seed = (uint64_t)number;
        break;
    case 'V':
        o->save = 1;
        break;
    case 'x':
        o->exact = 1;
        break;
    case 'u':
        code = parse_number("--undecayed", text, 0, 100, &number);
        o->undecayed = (int32_t)number;
        break;
    case 'v':
        o->verbose = 1;
        break;
    }
    return code;
}

int bench_parse(int argc, char **argv, bench_options *o) {
    static const struct option known[] = {{"rows", required_argument, NULL, 'R'},
                                          {"summary", required_argument, NULL, 'S'},
                                          {"memory", no_argument, NULL, 'M'},
                                          {"backend", required_argument, NULL, 'b'},
                                          {"heads", required_argument, NULL, 'H'},
                                          {"filter", required_argument, NULL, 'f'},
                                          {"label", required_argument, NULL, 'l'},
                                          {"commit", required_argument, NULL, 'c'},
                                          {"device", required_argument, NULL, 'd'},
                                          {"threads", required_argument, NULL, 'j'},
                                          {"repeat", required_argument, NULL, 'r'},
                                          {"seed", required_argument, NULL, 's'},
                                          {"save", no_argument, NULL, 'V'},
                                          {"exact", no_argument, NULL, 'x'},
                                          {"verbose", no_argument, NULL, 'v'},
                                          {"undecayed", required_argument, NULL, 'u'},
                                          {NULL, 0, NULL, 0}};
    const bench_options defaults = {.output = "tests/bench/results",
                                    .seed = 1,
                                    .backend = GDN_BACKEND_CUDA,
                                    .heads = {16, 32},
                                    .undecayed = 25};
    int option, code = CLI_GO_ON;
    *o = defaults;
    opterr = 0;
    while (code == CLI_GO_ON && (option = getopt_long(argc, argv, ":o:", known, NULL)) != -1) {
        if (option == ':')
            return cli_usage("bench", "%s: expected a value, found nothing", argv[optind - 1]);
        if (option == '?')
            return cli_usage("bench", "unknown option '%s' beside --rows, --summary or --memory",
                             argv[optind - 1]);
        code = parse_one(o, option, optarg);
    }
    if (code == CLI_GO_ON && optind < argc)
        return cli_usage("bench", "expected options alone, found '%s'", argv[optind]);
    if (code == CLI_GO_ON && !!o->rows + !!o->summary + o->memory != 1)
        return cli_usage("bench", "expected one of --rows, --summary and --memory, found several");
    if (code == CLI_GO_ON && o->rows && o->backend != GDN_BACKEND_CUDA)
        return cli_usage("bench", "--rows: expected --backend cuda, found %s",
                         gdn_backend_name(o->backend));
    return code;
}
