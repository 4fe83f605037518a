/* gdn export: the GDN layers of a checkpoint become tensors of a Hugging Face model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "weights.h"

int cli_export(int argc, char **argv);

enum {
    MAX_LAYERS = 1024
};

static void print_help(void) {
    printf(
        "usage: gdn export CHECKPOINT.h5 -o OUT.safetensors [OPTIONS]\n\n"
        "Writes the GDN layers of a checkpoint, of gdn import or of a run, as the tensors that\n"
        "they are in a Hugging Face model. Names and dtypes are those that were imported; of a\n"
        "run, those of Qwen3.5 in fp32, with block 0 as model.layers.0.\n\n"
        "  CHECKPOINT.h5                 a checkpoint, or a run's folder for its newest\n"
        "  -o OUT.safetensors            the file to write\n"
        "  --layer N                     number of block 0 in the model; again for block 1, ...\n"
        "  --prefix P                    what stands before it, model.layers by default\n"
        "  --naming qwen3.5|qwen3-next   projections apart, or in two and interleaved\n"
        "  --dtype fp32|bf16|fp16        of the matrices, rounded to nearest even; A_log, dt_bias\n"
        "                                and norm are fp32 then\n\n"
        "example:\n"
        "  gdn export run/ -o layers.safetensors --naming qwen3-next --layer 4 --layer 5\n");
}

typedef struct arguments {
    gdni_weights_export export;
    int32_t layers[MAX_LAYERS];
} arguments;

static int parse_word(const char *flag, const char *const *words, const char *expected,
                      const char *text, int *place) {
    for (int i = 0; words[i]; ++i)
        if (!strcmp(words[i], text)) {
            *place = i;
            return CLI_OK;
        }
    return cli_usage("export", "%s: expected %s, found '%s'", flag, expected, text);
}

static int parse_layer(const char *text, arguments *a) {
    char *end;
    const long value = strtol(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value > 65535)
        return cli_usage("export", "--layer: expected an integer from 0 to 65535, found '%s'",
                         text);
    if (a->export.count == MAX_LAYERS)
        return cli_usage("export", "--layer: expected at most %d of them, found more", MAX_LAYERS);
    a->layers[a->export.count++] = (int32_t)value;
    a->export.layers = a->layers;
    return CLI_OK;
}

static int parse_option(const char *flag, const char *value, arguments *a) {
    static const char *const namings[] = {
        [GDN_IO_QWEN3_5] = "qwen3.5", [GDN_IO_QWEN3_NEXT] = "qwen3-next", NULL};
    static const char *const dtypes[] = {
        [GDN_DTYPE_FP32] = "fp32", [GDN_DTYPE_BF16] = "bf16", [GDN_DTYPE_FP16] = "fp16", NULL};
    if (!strcmp(flag, "-o"))
        a->export.out = value;
    else if (!strcmp(flag, "--prefix"))
        a->export.prefix = value;
    else if (!strcmp(flag, "--naming"))
        return parse_word(flag, namings, "qwen3.5 or qwen3-next", value, &a->export.naming);
    else if (!strcmp(flag, "--dtype"))
        return parse_word(flag, dtypes, "fp32, bf16 or fp16", value, &a->export.dtype);
    else
        return parse_layer(value, a);
    return *value ? CLI_OK : cli_usage("export", "%s: expected a value, found ''", flag);
}

static int parse(int argc, char **argv, arguments *a) {
    static const char *const flags[] = {"-o", "--layer", "--prefix", "--naming", "--dtype"};
    for (int i = 1; i < argc; ++i) {
        int known = 0;
        for (int f = 0; f < 5; ++f)
            known |= !strcmp(argv[i], flags[f]);
        if (known) {
            if (i + 1 == argc)
                return cli_usage("export", "%s: expected a value, found nothing", argv[i]);
            const int bad = parse_option(argv[i], argv[i + 1], a);
            if (bad)
                return bad;
            ++i;
        } else if (argv[i][0] == '-') {
            return cli_usage("export", "unknown option '%s'", argv[i]);
        } else if (a->export.checkpoint) {
            return cli_usage("export", "expected one checkpoint, found '%s' and '%s'",
                             a->export.checkpoint, argv[i]);
        } else {
            a->export.checkpoint = argv[i];
        }
    }
    if (!a->export.checkpoint)
        return cli_usage("export", "expected a checkpoint, found nothing");
    if (!a->export.out)
        return cli_usage("export", "-o: expected a file to write, found nothing");
    return CLI_OK;
}

int cli_export(int argc, char **argv) {
    arguments a = {.export = {.naming = -1, .dtype = -1}};
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        print_help();
        return CLI_OK;
    }
    const int bad = parse(argc, argv, &a);
    if (bad)
        return bad;
    CLI_TRY(gdni_weights_write(&a.export));
    printf("%s: layers=%d\n", a.export.out, a.export.blocks);
    return CLI_OK;
}
