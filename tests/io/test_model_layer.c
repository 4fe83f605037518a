/* Layers of models in safetensors: through memory and back, bad arguments, and files that are cut
 * or damaged at every byte, which is what the sanitizers are for. */
#include "gdn_io.h"
#include "harness.h"

#include <fcntl.h>
#include <unistd.h>

enum {
    TEXT = 4096, /* more than any file here has */
    Hk = 2,
    Hv = 4,
    K = 2,
    V = 3,
    D = 5,
    W = 4,
    C = 2 * Hk * K + Hv * V,
    RANDOM_DAMAGES = 2000
};

static const char *const dtypes[] = {"F32", "BF16", "F16"};
static const int64_t counts[GDN_IO_LAYER_TENSORS] = {C * D, Hv *V *D, Hv *D, Hv *D,   C *W,
                                                     Hv,    Hv,       V,     D *Hv *V};

typedef struct file {
    unsigned char bytes[TEXT];
    size_t size;
} file;

static void **field(gdn_layer_weights *w, int i) {
    void **all[] = {&w->in_proj_qkv, &w->in_proj_z, &w->in_proj_b, &w->in_proj_a, &w->conv1d,
                    &w->A_log,       &w->dt_bias,   &w->norm,      &w->out_proj};
    return all[i];
}

static gdn_io_model_layer make_layer(uint64_t seed, gdn_io_layer_naming naming, gdn_dtype dtype) {
    const gdn_layer layer = GDN_LAYER_INIT;
    const gdn_layer_weights weights = GDN_LAYER_WEIGHTS_INIT;
    harness_random r = {seed};
    gdn_io_model_layer l = {sizeof(l), "model.layers.0.linear_attn.", naming, layer, {0}, weights};
    l.layer.D = D;
    l.layer.Hk = Hk;
    l.layer.Hv = Hv;
    l.layer.K = K;
    l.layer.V = V;
    l.layer.conv_width = W;
    for (int i = 0; i < GDN_IO_LAYER_TENSORS; ++i) {
        float *values = malloc((size_t)counts[i] * sizeof(float));
        for (int64_t j = 0; j < counts[i]; ++j) /* in all dtypes exact */
            values[j] = (float)((int)(harness_uniform(&r) * 255) - 127) / 64;
        *field(&l.weights, i) = values;
        l.dtype[i] = dtype;
    }
    return l;
}

static void write_file(const char *path, const void *bytes, size_t size) {
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(bytes, 1, size, f) == size && !fclose(f), "%s: cannot write", path);
}

static void read_file(const char *path, file *out) {
    FILE *f = fopen(path, "rb");
    out->size = f ? fread(out->bytes, 1, TEXT, f) : 0;
    CHECK(f && out->size && out->size < TEXT, "%s: %zu bytes", path, out->size);
    if (f)
        fclose(f);
}

/* Both namings, all dtypes: what is read is what was written, and the same file comes of it. */
static void test_round_trip(void) {
    file first, second;
    for (int naming = GDN_IO_QWEN3_5; naming <= GDN_IO_QWEN3_NEXT; ++naming)
        for (int dtype = GDN_DTYPE_FP32; dtype <= GDN_DTYPE_FP16; ++dtype) {
            gdn_io_model_layer l = make_layer(7, (gdn_io_layer_naming)naming, (gdn_dtype)dtype);
            gdn_io_model_layer back = {.size = sizeof(back)};
            CHECK(gdn_io_model_layers_write("a.safetensors", &l, 1) == GDN_STATUS_OK, "%s",
                  gdn_last_error());
            CHECK(gdn_io_model_layer_read("a.safetensors", 0, Hk, &back) == GDN_STATUS_OK, "%s",
                  gdn_last_error());
            CHECK(back.naming == l.naming && !strcmp(back.prefix, l.prefix), "%d, %s", back.naming,
                  back.prefix);
            CHECK(back.layer.D == D && back.layer.Hk == Hk && back.layer.Hv == Hv &&
                      back.layer.K == K && back.layer.V == V && back.layer.conv_width == W,
                  "shape");
            for (int i = 0; i < GDN_IO_LAYER_TENSORS; ++i)
                CHECK(back.dtype[i] == l.dtype[i] && *field(&back.weights, i) &&
                          !memcmp(*field(&back.weights, i), *field(&l.weights, i),
                                  (size_t)counts[i] * sizeof(float)),
                      "naming %d, %s, weight %d", naming, dtypes[dtype], i);
            CHECK(gdn_io_model_layers_write("b.safetensors", &back, 1) == GDN_STATUS_OK, "%s",
                  gdn_last_error());
            read_file("a.safetensors", &first);
            read_file("b.safetensors", &second);
            CHECK(first.size == second.size && !memcmp(first.bytes, second.bytes, first.size),
                  "another file");
            gdn_io_model_layer_free(&l);
            gdn_io_model_layer_free(&back);
        }
}

static void refuse(const gdn_io_model_layer *layers, size_t count, gdn_status status,
                   const char *word) {
    unlink("refused.safetensors");
    const gdn_status found = gdn_io_model_layers_write("refused.safetensors", layers, count);
    CHECK(found == status && strstr(gdn_last_error(), word), "%s: status %d: %s", word, found,
          gdn_last_error());
    CHECK(access("refused.safetensors", F_OK), "%s: written", word);
}

static void test_arguments(void) {
    gdn_io_model_layer good = make_layer(1, GDN_IO_QWEN3_5, GDN_DTYPE_FP32), two[2] = {good, good};
    gdn_io_model_layer bad = good, out = {.size = sizeof(out)};
    const gdn_status invalid = GDN_STATUS_INVALID_ARGUMENT;
    refuse(&good, 0, invalid, "layers");
    refuse(NULL, 1, invalid, "layers");
    refuse(two, 2, invalid, "found two");
    bad.size = 8;
    refuse(&bad, 1, invalid, "size");
    bad = good;
    memset(bad.prefix, 'p', sizeof(bad.prefix));
    refuse(&bad, 1, invalid, "prefix");
    strcpy(bad.prefix, "\xc3");
    refuse(&bad, 1, invalid, "UTF-8");
    bad = good;
    bad.layer.Hk = 3;
    refuse(&bad, 1, invalid, "layer.Hv");
    bad = good;
    bad.weights.norm = NULL;
    refuse(&bad, 1, invalid, "norm.weight");
    bad = good;
    bad.dtype[8] = GDN_DTYPE_FP64;
    refuse(&bad, 1, invalid, "fp64");
    bad = good;
    bad.dtype[1] = GDN_DTYPE_BF16; /* z alone, which Qwen3-Next has together with qkv */
    bad.naming = GDN_IO_QWEN3_NEXT;
    refuse(&bad, 1, invalid, "one dtype");
    bad.naming = (gdn_io_layer_naming)7;
    refuse(&bad, 1, invalid, "naming");
    bad = good;
    ((float *)bad.weights.dt_bias)[2] = (float)NAN;
    refuse(&bad, 1, GDN_STATUS_BAD_DATA, "dt_bias");
    ((float *)bad.weights.dt_bias)[2] = 1e5f;
    bad.dtype[6] = GDN_DTYPE_FP16;
    refuse(&bad, 1, GDN_STATUS_BAD_DATA, "[2]");
    CHECK(gdn_io_model_layer_read(NULL, 0, 0, &out) == invalid, "path NULL");
    CHECK(gdn_io_model_layer_read("a.safetensors", 0, 0, NULL) == invalid, "out NULL");
    CHECK(gdn_io_model_layer_read("a.safetensors", -1, 0, &out) == invalid, "number -1");
    CHECK(gdn_io_model_layer_read("a.safetensors", 0, -1, &out) == invalid, "key_heads -1");
    out.size = sizeof(out) + 1;
    CHECK(gdn_io_model_layer_read("a.safetensors", 0, Hk, &out) == invalid, "size");
    gdn_io_model_layer_free(NULL);
    gdn_io_model_layer_free(&good);
}

/* How reading a model ends whose file `path` may be damaged. Whatever is in there, it is well or
 * BAD_FILE with one line and nothing allocated. */
static gdn_status read_model(const char *model, const char *path) {
    gdn_io_model_layer out = {.size = sizeof(out)};
    const gdn_status status = gdn_io_model_layer_read(model, 0, 0, &out);
    if (status == GDN_STATUS_OK) {
        gdn_io_model_layer_free(&out);
        return status;
    }
    int allocated = 0;
    for (int i = 0; i < GDN_IO_LAYER_TENSORS; ++i)
        allocated |= *field(&out.weights, i) != NULL;
    CHECK(status == GDN_STATUS_BAD_FILE && !allocated && *gdn_last_error() &&
              !strchr(gdn_last_error(), '\n'),
          "%s: status %d: %s", path, status, gdn_last_error());
    return status;
}

/* The same once these bytes are in the file. */
static gdn_status read_damaged(const char *model, const char *path, const void *bytes,
                               size_t size) {
    write_file(path, bytes, size);
    return read_model(model, path);
}

/* The same with one byte changed where it is. */
static gdn_status read_changed(const char *model, const char *path, int fd, size_t at,
                               unsigned char byte) {
    CHECK(pwrite(fd, &byte, 1, (off_t)at) == 1, "%s: cannot write", path);
    return read_model(model, path);
}

/* Every byte replaced in several ways, and some bytes anywhere at once. */
static void damage(const char *model, const char *path, const file *good, size_t end) {
    static const unsigned char others[] = {0,   ' ', '"', '\\', '0',  '9', '-',
                                           ',', '{', '}', ']',  0x80, 0xff};
    harness_random r = {good->size};
    int refused = 0, all = 0;
    const int fd = open(path, O_WRONLY);
    for (size_t i = 0; i < end; ++i) {
        for (size_t o = 0; o < sizeof(others); ++o, ++all)
            refused += read_changed(model, path, fd, i, others[o]) != GDN_STATUS_OK;
        read_changed(model, path, fd, i, good->bytes[i] ^ 1);
        CHECK(pwrite(fd, &good->bytes[i], 1, (off_t)i) == 1, "%s: cannot write", path);
    }
    close(fd);
    for (int i = 0; i < RANDOM_DAMAGES; ++i) {
        file bad = *good;
        for (int n = 1 + (int)(3 * harness_uniform(&r)); n > 0; --n)
            bad.bytes[(size_t)(harness_uniform(&r) * (double)end)] =
                (unsigned char)(256 * harness_uniform(&r));
        read_damaged(model, path, bad.bytes, bad.size);
    }
    CHECK(refused > all / 2, "%s: only %d of %d damages were refused", path, refused, all);
    write_file(path, good->bytes, good->size);
}

static void cut(const char *model, const char *path, const file *good) {
    for (size_t size = 0; size < good->size; ++size)
        CHECK(read_damaged(model, path, good->bytes, size) == GDN_STATUS_BAD_FILE,
              "%s: cut to %zu of %zu bytes", path, size, good->size);
    write_file(path, good->bytes, good->size);
}

/* A header cut to any length, which the length before it tells, with all the data. */
static void cut_header(const char *path, const file *good, size_t header) {
    for (size_t size = 0; size < header; ++size) {
        file bad = {{(unsigned char)size, (unsigned char)(size >> 8)}, 8 + size};
        memcpy(bad.bytes + 8, good->bytes + 8, size);
        memcpy(bad.bytes + bad.size, good->bytes + 8 + header, good->size - 8 - header);
        bad.size += good->size - 8 - header;
        int whole = 1; /* nothing but padding is cut */
        for (size_t i = size; i < header; ++i)
            whole &= good->bytes[8 + i] == ' ';
        CHECK((read_damaged(path, path, bad.bytes, bad.size) == GDN_STATUS_OK) == whole,
              "header cut to %zu of %zu bytes", size, header);
    }
    write_file(path, good->bytes, good->size);
}

static void test_damage(void) {
    static const char config[] =
        "{\"hidden_size\": 5, \"text_config\": {\"linear_num_key_heads\": 2, \"rms_norm_eps\": "
        "1e-06, \"word\": [true, null, \"\\u00e9\\ud83d\\ude00\"]}}";
    file good, text;
    write_file("config.json", config, strlen(config));
    for (int naming = GDN_IO_QWEN3_5; naming <= GDN_IO_QWEN3_NEXT; ++naming) {
        gdn_io_model_layer l = make_layer(3, (gdn_io_layer_naming)naming, GDN_DTYPE_BF16);
        CHECK(gdn_io_model_layers_write("a.safetensors", &l, 1) == GDN_STATUS_OK, "%s",
              gdn_last_error());
        gdn_io_model_layer_free(&l);
        read_file("a.safetensors", &good);
        const size_t header = good.bytes[0] + ((size_t)good.bytes[1] << 8);
        CHECK(read_damaged("a.safetensors", "a.safetensors", good.bytes, good.size) ==
                  GDN_STATUS_OK,
              "the good file: %s", gdn_last_error());
        cut("a.safetensors", "a.safetensors", &good);
        cut_header("a.safetensors", &good, header);
        damage("a.safetensors", "a.safetensors", &good, 8 + header);
    }
    read_file("config.json", &text);
    cut("a.safetensors", "config.json", &text);
    damage("a.safetensors", "config.json", &text, text.size);
    /* An index over the one file, for the last naming. */
    static const char *const names[] = {
        "in_proj_qkvz.weight", "in_proj_ba.weight", "conv1d.weight", "A_log", "dt_bias",
        "norm.weight",         "out_proj.weight"};
    text.size = (size_t)snprintf((char *)text.bytes, TEXT, "{\"weight_map\":{");
    for (int i = 0; i < 7; ++i)
        text.size += (size_t)snprintf((char *)text.bytes + text.size, TEXT - text.size,
                                      "%s\"model.layers.0.linear_attn.%s\":\"a.safetensors\"",
                                      i ? "," : "", names[i]);
    text.size += (size_t)snprintf((char *)text.bytes + text.size, TEXT - text.size, "}}");
    CHECK(read_damaged("a.json", "a.json", text.bytes, text.size) == GDN_STATUS_OK,
          "the good index: %s", gdn_last_error());
    cut("a.json", "a.json", &text);
    damage("a.json", "a.json", &text, text.size);
}

int main(int argc, char **argv) {
    if (argc != 2 || chdir(argv[1])) {
        fprintf(stderr, "usage: test_model_layer FOLDER\n");
        return 2;
    }
    test_round_trip();
    test_arguments();
    test_damage();
    return harness_finish();
}
