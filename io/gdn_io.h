/*
 * HDF5 files of libgdn: operator and layer cases, results, tokenised datasets, checkpoints and run
 * logs; and layers of models in safetensors. Formats: README.md beside this file. Host memory;
 * every function may allocate; what a read returns is released by the matching _free or _close.
 * Errors: BAD_FILE (file, dataset, expected, found), INVALID_ARGUMENT, IO_ERROR (no space, no
 * permission), OUT_OF_MEMORY, with one line in gdn_last_error(). Every file appears complete or not
 * at all: written to a temporary name beside it, synced, renamed. Not thread-safe unless HDF5 was
 * built so.
 *
 * Set `size` of a struct before a call that fills it. HDF5 can crash on damaged files, so every
 * reader first reads the file in a child process (fork), and in the caller's only if that went
 * well.
 */
#ifndef GDN_IO_H
#define GDN_IO_H

#include "gdn.h"
#include "gdn_layer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Operator cases and results ----------------------------------------------------------------
 */

/* All tensors float64 in memory, dense, shapes as gdn_tensors; NULL = absent. */
typedef struct gdn_io_case {
    size_t size;
    int64_t T, N;
    int32_t Hk, Hv, K, V;
    double scale; /* 0 = absent: 1 / sqrt(K) */
    double *q, *k, *v, *g, *beta;
    int64_t *cu_seqlens; /* NULL = absent: one sequence */
    double *initial_state, *do_, *dht;
} gdn_io_case;

typedef struct gdn_io_result {
    size_t size;
    int64_t T, N;
    int32_t Hk, Hv, K, V;
    char backend[32], dtype[8], library_version[32];
    int32_t ranks;
    double *o, *final_state;                 /* read: NULL if absent */
    double *dq, *dk, *dv, *dg, *dbeta, *dh0; /* all or none */
} gdn_io_result;

/* What a file is, from its `format` attribute. */
typedef enum gdn_io_kind {
    GDN_IO_CASE,
    GDN_IO_RESULT,
    GDN_IO_LAYER_CASE,
    GDN_IO_LAYER_RESULT,
    GDN_IO_DATASET,
    GDN_IO_CHECKPOINT,
    GDN_IO_LOG
} gdn_io_kind;

GDN_API GDN_CHECK_RESULT gdn_status gdn_io_file_kind(const char *path, gdn_io_kind *kind);

/* Reads and checks a case: shapes, finite values, g <= 0, cu_seqlens. The same rules hold for
 * writing. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_case_read(const char *path, gdn_io_case *out);
/* Writes float32 datasets if every value is a float32, float64 otherwise. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_case_write(const char *path, const gdn_io_case *in);
GDN_API void gdn_io_case_free(gdn_io_case *c);

GDN_API GDN_CHECK_RESULT gdn_status gdn_io_result_read(const char *path, gdn_io_result *out);
/* float64 datasets if in->dtype is "fp64", float32 otherwise. BAD_DATA: a value is not finite. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_result_write(const char *path, const gdn_io_result *in);
GDN_API void gdn_io_result_free(gdn_io_result *r);

/* ---- Layer cases and results -------------------------------------------------------------------
 */

/* Names of the projections on file; in memory they are those of gdn_layer_weights. */
typedef enum gdn_io_layer_naming {
    GDN_IO_QWEN3_5,   /* in_proj_qkv, in_proj_z, in_proj_b, in_proj_a */
    GDN_IO_QWEN3_NEXT /* in_proj_qkvz, in_proj_ba, rows interleaved per k-head */
} gdn_io_layer_naming;

typedef struct gdn_io_layer_case {
    size_t size;
    gdn_layer layer; /* shapes, scale, norm_eps; dtype and flags are the caller's */
    double *x, *dout;
    int64_t *cu_seqlens;
    gdn_layer_weights weights; /* float64 */
    gdn_io_layer_naming naming;
} gdn_io_layer_case;

typedef struct gdn_io_layer_result {
    size_t size;
    gdn_layer layer; /* read without gradients: only T, D, Hk and K are known */
    char backend[32], dtype[8], library_version[32];
    int32_t ranks;
    double *out, *dx; /* dx NULL = no gradients */
    gdn_layer_weights dweights;
    gdn_io_layer_naming naming; /* of the case */
} gdn_io_layer_result;

GDN_API GDN_CHECK_RESULT gdn_status gdn_io_layer_case_read(const char *path,
                                                           gdn_io_layer_case *out);
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_layer_case_write(const char *path,
                                                            const gdn_io_layer_case *in);
GDN_API void gdn_io_layer_case_free(gdn_io_layer_case *c);
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_layer_result_read(const char *path,
                                                             gdn_io_layer_result *out);
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_layer_result_write(const char *path,
                                                              const gdn_io_layer_result *in);
GDN_API void gdn_io_layer_result_free(gdn_io_layer_result *r);

/* ---- Tokenised datasets ------------------------------------------------------------------------
 */

typedef enum gdn_io_tokenizer {
    GDN_IO_TOKENIZER_BYTE, /* token = byte, vocab 256 */
    GDN_IO_TOKENIZER_BPE   /* SentencePiece model, trained on the text; stored in the dataset */
} gdn_io_tokenizer;

typedef struct gdn_io_dataset_options {
    size_t size;
    gdn_io_tokenizer tokenizer;
    int32_t vocab;           /* BPE only */
    double heldout_fraction; /* the tail of the text that is kept for evaluation; default 0.05 */
} gdn_io_dataset_options;

#define GDN_IO_DATASET_OPTIONS_INIT                                                                \
    { sizeof(gdn_io_dataset_options), GDN_IO_TOKENIZER_BYTE, 256, 0.05 }

/* Tokenises a UTF-8 or byte text file into a dataset file. UNSUPPORTED: BPE and no SentencePiece in
 * this build. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_dataset_create(const char *path, const char *text_path,
                                                          const gdn_io_dataset_options *options);

typedef struct gdn_io_dataset gdn_io_dataset;

typedef enum gdn_io_split {
    GDN_IO_TRAIN,
    GDN_IO_HELDOUT
} gdn_io_split;

GDN_API GDN_CHECK_RESULT gdn_status gdn_io_dataset_open(const char *path, gdn_io_dataset **out);
GDN_API void gdn_io_dataset_close(gdn_io_dataset *dataset);
GDN_API int32_t gdn_io_dataset_vocab(const gdn_io_dataset *dataset);
GDN_API int64_t gdn_io_dataset_tokens(const gdn_io_dataset *dataset, gdn_io_split split);
/* Entropies of the held-out tokens in nats a token under the training split's counts: what a model
 * has to beat. Unigram with add-one smoothing; bigram interpolated with it after Witten and Bell
 * (formulas in README.md). INVALID_ARGUMENT if a split is empty. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_dataset_entropy(const gdn_io_dataset *dataset,
                                                           double *unigram, double *bigram);
/* Tokens [first, first + count) of a split. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_dataset_read(gdn_io_dataset *dataset, gdn_io_split split,
                                                        int64_t first, int64_t count,
                                                        int32_t *tokens);
/*
 * Lets the ranks of an MPI job read a dataset's file together, through MPI-IO, where HDF5 is the
 * parallel one. Collective over the communicator, whose ranks have all opened the same file; so is
 * gdn_io_dataset_close() after it. Reads stay every rank's own. communicator: pointer to an
 * MPI_Comm; NULL = MPI_COMM_WORLD. UNSUPPORTED, with nothing done: this build has no parallel HDF5.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_dataset_share(gdn_io_dataset *dataset,
                                                         const void *communicator);
/* Whether this build can do so. */
GDN_API int32_t gdn_io_can_share(void);
/* Whether calls on different files may come from several threads: the HDF5 below says so. */
GDN_API int32_t gdn_io_is_thread_safe(void);
/* Text of tokens: *text is allocated (release with free()), *bytes its length, not terminated. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_dataset_decode(const gdn_io_dataset *dataset,
                                                          const int32_t *tokens, int64_t count,
                                                          char **text, size_t *bytes);

/* ---- Checkpoints: named tensors and attributes -------------------------------------------------
 */

typedef enum gdn_io_type {
    GDN_IO_F32,
    GDN_IO_F64,
    GDN_IO_I64,
    GDN_IO_U64,
    GDN_IO_TEXT
} gdn_io_type;

/* One entry. name may hold "/" for groups. TEXT: shape[0] bytes. */
typedef struct gdn_io_entry {
    const char *name;
    gdn_io_type type;
    int32_t ndim;
    int64_t shape[4];
    const void *data;
} gdn_io_entry;

typedef struct gdn_io_checkpoint gdn_io_checkpoint;

/* Writes DIR/step-%012lld.h5 with a checksum per dataset, then removes all but the newest `keep`
 * checkpoints of DIR (keep <= 0: all stay). DIR is created if needed. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_checkpoint_write(const char *dir, int64_t step,
                                                            int32_t keep,
                                                            const gdn_io_entry *entries,
                                                            size_t count);
/* Writes one checkpoint under a name of the caller's choice, and touches no others. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_checkpoint_write_file(const char *path, int64_t step,
                                                                 const gdn_io_entry *entries,
                                                                 size_t count);
/* Path of the newest checkpoint of DIR that opens and whose checksums hold, into path; BAD_FILE if
 * there is none. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_checkpoint_latest(const char *dir, char *path,
                                                             size_t path_size);
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_checkpoint_open(const char *path,
                                                           gdn_io_checkpoint **out);
GDN_API void gdn_io_checkpoint_close(gdn_io_checkpoint *checkpoint);
GDN_API int64_t gdn_io_checkpoint_step(const gdn_io_checkpoint *checkpoint);
/* Shape of an entry (for allocation); BAD_FILE if it is absent or of another type. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_checkpoint_shape(gdn_io_checkpoint *checkpoint,
                                                            const char *name, gdn_io_type type,
                                                            int32_t *ndim, int64_t shape[4]);
/* Reads an entry whose name, type and shape are as in `want`, into data; the checksum is verified.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_checkpoint_read(gdn_io_checkpoint *checkpoint,
                                                           const gdn_io_entry *want, void *data);

/* ---- Run logs ----------------------------------------------------------------------------------
 */

/* A table of float64 columns with names, one row a record ("step", "loss", ...); NaN = not
 * measured. */
typedef struct gdn_io_log {
    size_t size;
    size_t columns, rows;
    const char *const *names; /* [columns] */
    const double *values;     /* [rows][columns] */
    const char *config;       /* the run's configuration as text; NULL = none */
    const double *spans;      /* [span_count][5]: where the time of one step went, as part, pass,
                                 block (-1: none), begin and end in seconds; NULL = not measured */
    size_t span_count;
} gdn_io_log;

GDN_API GDN_CHECK_RESULT gdn_status gdn_io_log_write(const char *path, const gdn_io_log *log);
/* *out is allocated whole; release with gdn_io_log_free(). */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_log_read(const char *path, gdn_io_log **out);
GDN_API void gdn_io_log_free(gdn_io_log *log);

/* ---- Layers of Hugging Face models -------------------------------------------------------------
 *
 * In safetensors files, not HDF5: read without a child process, tensor by tensor.
 */

enum {
    GDN_IO_LAYER_TENSORS = 9, /* fields of gdn_layer_weights */
    GDN_IO_PREFIX_SIZE = 128
};

typedef struct gdn_io_model_layer {
    size_t size;
    char prefix[GDN_IO_PREFIX_SIZE]; /* before its tensors' names: "model.layers.3.linear_attn." */
    gdn_io_layer_naming naming;
    gdn_layer layer; /* D, Hk, Hv, K, V, conv_width, norm_eps; the rest is as in GDN_LAYER_INIT */
    gdn_dtype dtype[GDN_IO_LAYER_TENSORS]; /* on file, in the order of gdn_layer_weights */
    gdn_layer_weights weights;             /* float32 */
} gdn_io_model_layer;

/*
 * Reads the GDN layer `number`, whose tensors are called ...layers.NUMBER.linear_attn..., under
 * either naming. path: a safetensors file of F32, BF16 or F16, the *.index.json of several, or a
 * folder with model.safetensors.index.json or model.safetensors. key_heads: Hk, which shapes do not
 * tell; 0 = from the config.json beside it, which must agree with the tensors where it is there.
 * Values are finite.
 */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_model_layer_read(const char *path, int32_t number,
                                                            int32_t key_heads,
                                                            gdn_io_model_layer *out);
/* Writes one safetensors file of these layers, each under its prefix and naming, rounded to nearest
 * even. BAD_DATA: a value that is not finite, or that a dtype does not hold. */
GDN_API GDN_CHECK_RESULT gdn_status gdn_io_model_layers_write(const char *path,
                                                              const gdn_io_model_layer *layers,
                                                              size_t count);
GDN_API void gdn_io_model_layer_free(gdn_io_model_layer *layer);

#ifdef __cplusplus
}
#endif

#endif /* GDN_IO_H */
