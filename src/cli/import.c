/* gdn import: GDN layers of a Hugging Face model become a checkpoint. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "weights.h"

int cli_import(int argc, char **argv);

enum {
    MAX_LAYERS = 1024
};

static void print_help(void) {
    printf(
        "usage: gdn import MODEL -o OUT.h5 --layer N [--layer N ...] [--key-heads H]\n\n"
        "Reads the weights of GDN layers of a Hugging Face model, Qwen3-Next or Qwen3.5, from\n"
        "safetensors (F32, BF16 or F16), and writes them as a checkpoint, in fp32: layer N of the\n"
        "model becomes block 0, the next one given block 1, and so on. gdn train --init-from\n"
        "starts a run with them; gdn export writes them back, bitwise the same.\n\n"
        "  MODEL            a .safetensors file, the .index.json of several, or their folder\n"
        "  -o OUT.h5        the checkpoint to write\n"
        "  --layer N        a layer, as in its tensors' names: layers.N.linear_attn\n"
        "  --key-heads H    heads of q and k; default: linear_num_key_heads of the config.json\n"
        "                   beside the model\n\n"
        "example:\n"
        "  gdn import Qwen3.5-0.8B -o layers.h5 --layer 0 --layer 1\n");
}

typedef struct arguments {
    const char *model, *out;
    int32_t layers[MAX_LAYERS];
    int32_t count, key_heads;
} arguments;

static int parse_number(const char *flag, const char *text, long least, long most,
                        int32_t *number) {
    char *end;
    const long value = strtol(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value < least || value > most)
        return cli_usage("import", "%s: expected an integer from %ld to %ld, found '%s'", flag,
                         least, most, text);
    *number = (int32_t)value;
    return CLI_OK;
}

static int parse_option(const char *flag, const char *value, arguments *a) {
    if (!strcmp(flag, "-o")) {
        a->out = value;
        return CLI_OK;
    }
    if (!strcmp(flag, "--key-heads"))
        return parse_number(flag, value, 1, 65536, &a->key_heads);
    if (a->count == MAX_LAYERS)
        return cli_usage("import", "--layer: expected at most %d of them, found more", MAX_LAYERS);
    return parse_number(flag, value, 0, 65535, &a->layers[a->count++]);
}

static int parse(int argc, char **argv, arguments *a) {
    static const char *const flags[] = {"-o", "--layer", "--key-heads"};
    for (int i = 1; i < argc; ++i) {
        int known = 0;
        for (int f = 0; f < 3; ++f)
            known |= !strcmp(argv[i], flags[f]);
        if (known) {
            if (i + 1 == argc)
                return cli_usage("import", "%s: expected a value, found nothing", argv[i]);
            const int bad = parse_option(argv[i], argv[i + 1], a);
            if (bad)
                return bad;
            ++i;
        } else if (argv[i][0] == '-') {
            return cli_usage("import", "unknown option '%s'", argv[i]);
        } else if (a->model) {
            return cli_usage("import", "expected one model, found '%s' and '%s'", a->model,
                             argv[i]);
        } else {
            a->model = argv[i];
        }
    }
    if (!a->model)
        return cli_usage("import", "expected a model, found nothing");
    if (!a->out)
        return cli_usage("import", "-o: expected a checkpoint to write, found nothing");
    if (!a->count)
        return cli_usage("import", "--layer: expected the number of a layer, found nothing");
    return CLI_OK;
}

int cli_import(int argc, char **argv) {
    arguments a = {0};
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        print_help();
        return CLI_OK;
    }
    const int bad = parse(argc, argv, &a);
    if (bad)
        return bad;
    gdni_weights_import import = {.model = a.model,
                                  .out = a.out,
                                  .layers = a.layers,
                                  .count = a.count,
                                  .key_heads = a.key_heads};
    CLI_TRY(gdni_weights_read(&import));
    const gdn_layer *l = &import.layer;
    printf("%s: layers=%d naming=%s width=%d key_heads=%d value_heads=%d key_dim=%d value_dim=%d "
           "conv_width=%d\n",
           a.out, a.count, gdni_weights_namings[import.naming], l->D, l->Hk, l->Hv, l->K, l->V,
           l->conv_width);
    return CLI_OK;
}
