/* gdn data: a text file becomes a dataset of tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "gdn_io.h"

int cli_data(int argc, char **argv);

static void print_help(void) {
    printf(
        "usage: gdn data TEXT -o DATA.h5 [--tokenizer byte|bpe] [--vocab N] [--heldout F]\n\n"
        "Turns a text file into a dataset of tokens for gdn train. Its last part is held out.\n\n"
        "  -o DATA.h5             the dataset to write\n"
        "  --tokenizer byte|bpe   bytes (default), or byte-pair encoding learnt from the text\n"
        "  --vocab N              size of the BPE vocabulary (default 1024)\n"
        "  --heldout F            fraction of the text to hold out, 0 < F < 1 (default 0.05)\n\n"
        "example:\n"
        "  gdn data book.txt -o book.h5 --heldout 0.02\n");
}

typedef struct arguments {
    const char *text, *out;
    gdn_io_dataset_options options;
} arguments;

static int parse_tokenizer(const char *text, gdn_io_dataset_options *options) {
    if (!strcmp(text, "byte"))
        options->tokenizer = GDN_IO_TOKENIZER_BYTE;
    else if (!strcmp(text, "bpe"))
        options->tokenizer = GDN_IO_TOKENIZER_BPE;
    else
        return cli_usage("data", "--tokenizer: expected byte or bpe, found '%s'", text);
    return CLI_OK;
}

static int parse_option(const char *flag, const char *value, arguments *a) {
    char *end;
    if (!strcmp(flag, "-o")) {
        a->out = value;
    } else if (!strcmp(flag, "--tokenizer")) {
        return parse_tokenizer(value, &a->options);
    } else if (!strcmp(flag, "--vocab")) {
        const long vocab = strtol(value, &end, 10);
        if (end == value || *end || vocab < 2 || vocab > 1000000)
            return cli_usage("data", "--vocab: expected an integer from 2 to 1000000, found '%s'",
                             value);
        a->options.vocab = (int32_t)vocab;
    } else {
        a->options.heldout_fraction = strtod(value, &end);
        if (end == value || *end ||
            !(a->options.heldout_fraction > 0 && a->options.heldout_fraction < 1))
            return cli_usage("data", "--heldout: expected a number between 0 and 1, found '%s'",
                             value);
    }
    return CLI_OK;
}

static int parse(int argc, char **argv, arguments *a) {
    static const char *const flags[] = {"-o", "--tokenizer", "--vocab", "--heldout"};
    for (int i = 1; i < argc; ++i) {
        int known = 0;
        for (int f = 0; f < 4; ++f)
            known |= !strcmp(argv[i], flags[f]);
        if (known) {
            if (i + 1 == argc)
                return cli_usage("data", "%s: expected a value, found nothing", argv[i]);
            const int bad = parse_option(argv[i], argv[i + 1], a);
            if (bad)
                return bad;
            ++i;
        } else if (argv[i][0] == '-') {
            return cli_usage("data", "unknown option '%s'", argv[i]);
        } else if (a->text) {
            return cli_usage("data", "expected one text file, found '%s' and '%s'", a->text,
                             argv[i]);
        } else {
            a->text = argv[i];
        }
    }
    if (!a->text)
        return cli_usage("data", "expected a text file, found nothing");
    if (!a->out)
        return cli_usage("data", "-o: expected a dataset to write, found nothing");
    return CLI_OK;
}

int cli_data(int argc, char **argv) {
    arguments a = {.options = GDN_IO_DATASET_OPTIONS_INIT};
    gdn_io_dataset *dataset = NULL;
    double unigram, bigram;
    if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        print_help();
        return CLI_OK;
    }
    a.options.vocab = 0;
    const int bad = parse(argc, argv, &a);
    if (bad)
        return bad;
    if (a.options.vocab && a.options.tokenizer == GDN_IO_TOKENIZER_BYTE)
        return cli_usage("data", "--vocab: expected --tokenizer bpe with it, found byte");
    if (!a.options.vocab)
        a.options.vocab = a.options.tokenizer == GDN_IO_TOKENIZER_BYTE ? 256 : 1024;
    CLI_TRY(gdn_io_dataset_create(a.out, a.text, &a.options));
    CLI_TRY(gdn_io_dataset_open(a.out, &dataset));
    const gdn_status status = gdn_io_dataset_entropy(dataset, &unigram, &bigram);
    if (status == GDN_STATUS_OK)
        printf("%s: vocab=%d train_tokens=%lld heldout_tokens=%lld unigram=%.4f bigram=%.4f "
               "(nats a token, held-out text)\n",
               a.out, gdn_io_dataset_vocab(dataset),
               (long long)gdn_io_dataset_tokens(dataset, GDN_IO_TRAIN),
               (long long)gdn_io_dataset_tokens(dataset, GDN_IO_HELDOUT), unigram, bigram);
    gdn_io_dataset_close(dataset);
    return status == GDN_STATUS_OK ? CLI_OK : cli_report(status);
}
