/*
 * What the files of gdn_io share: HDF5 calls that stay silent, messages that name the file, reading
 * with checks before any allocation, writing to a temporary name.
 */
#ifndef GDNI_IO_INTERNAL_H
#define GDNI_IO_INTERNAL_H

#include <hdf5.h>

#include "../src/error.h"
#include "gdn_io.h"

/* ---- Messages (message.c) ----------------------------------------------------------------------
 */

/* HDF5's automatic printing, switched off between begin and end. */
typedef struct gdni_quiet {
    H5E_auto2_t function;
    void *data;
} gdni_quiet;

/* Every public call starts with begin, which also forgets the thread's last failure. */
void gdni_quiet_begin(gdni_quiet *quiet);
void gdni_quiet_end(const gdni_quiet *quiet);

/* "PATH: <line>", control characters replaced so that it stays one line. */
__attribute__((format(printf, 3, 4))) gdn_status gdni_io_fail(gdn_status status, const char *path,
                                                              const char *format, ...);
/* The same with HDF5's innermost message behind it; call it right after the HDF5 call. */
__attribute__((format(printf, 3, 4))) gdn_status gdni_h5_fail(gdn_status status, const char *path,
                                                              const char *format, ...);

/* ---- Structs of the caller (message.c) ---------------------------------------------------------
 */

/* Copies a caller's struct of `size` bytes into one of `known` bytes, the rest zeroed. */
gdn_status gdni_take_struct(const char *name, void *to, size_t known, const void *from,
                            size_t size);
#define GDNI_TAKE(to, from, name)                                                                  \
    do {                                                                                           \
        GDNI_REQUIRE((from) != NULL, "%s is NULL", name);                                          \
        GDN_TRY(gdni_take_struct(name, (to), sizeof(*(to)), (from), (from)->size));                \
    } while (0)
/* The way back: as much as the caller's struct holds, its size field kept. */
#define GDNI_GIVE(to, from)                                                                        \
    do {                                                                                           \
        const size_t gdni_size_ = (to)->size;                                                      \
        memcpy((to), (from), gdni_size_ < sizeof(*(from)) ? gdni_size_ : sizeof(*(from)));         \
        (to)->size = gdni_size_;                                                                   \
    } while (0)

/* ---- Files (file.c, guard.c) -------------------------------------------------------------------
 */

typedef struct gdni_file {
    const char *path;
    hid_t id;
    int64_t bytes; /* of the file; bounds what its header may declare */
} gdni_file;

/* Checks that path is a regular file, and notes its size. */
gdn_status gdni_file_stat(gdni_file *file, const char *path);
/* Opens a regular HDF5 file for reading. */
gdn_status gdni_file_open(gdni_file *file, const char *path);
void gdni_file_close(gdni_file *file);
/* Checks `format` and `version` = 1. */
gdn_status gdni_file_expect(const gdni_file *file, const char *format);

/* Reads all that a file has, checks it and releases it. */
typedef gdn_status (*gdni_rehearsal)(const char *path);
/* Runs a rehearsal where HDF5 cannot harm the caller, and returns its status and message. */
gdn_status gdni_rehearse(const char *path, gdni_rehearsal read);

/* ---- Writing (output.c, write.c) ---------------------------------------------------------------
 */

/* A file that appears complete or not at all. */
typedef struct gdni_output {
    char *target, *temporary, *directory;
    int fd;
} gdni_output;

/* Checks that path can be the name of a file to write or replace. */
gdn_status gdni_output_prepare(gdni_output *output, const char *path);
/* Opens the temporary beside it. */
gdn_status gdni_output_begin(gdni_output *output);
gdn_status gdni_output_write(const gdni_output *output, const void *data, size_t size);
/* If status is OK: syncs the temporary, renames it to the target, syncs the directory; otherwise
 * removes it. Returns the first failure. Releases the output in any case, begun or not. */
gdn_status gdni_output_close(gdni_output *output, gdn_status status);

/* What HDF5 leaves behind when it closes a file that it built in memory. */
typedef struct gdni_image {
    unsigned char *bytes;
    size_t size;
} gdni_image;

/*
 * A file that is being written. HDF5 (1.10) crashes when it has to close a file that it could not
 * write, so it never sees the disk: it builds the file in memory, and close() writes that image.
 */
typedef struct gdni_writer {
    hid_t id;
    gdni_image *image;
    gdni_output output;
    const char *target; /* of the output */
} gdni_writer;

/* Begins a file with its format and version attributes. */
gdn_status gdni_writer_open(gdni_writer *writer, const char *path, const char *format);
/* If status is OK: writes the output. Returns the first failure. Releases the writer in any case.
 */
gdn_status gdni_writer_close(gdni_writer *writer, gdn_status status);
/* Removes the files PREFIX*.tmp.PID of `directory` whose process is dead. */
void gdni_remove_leftovers(const char *directory, const char *prefix);

/* ---- Attributes of the root group (attribute.c) ------------------------------------------------
 */

int gdni_attr_exists(const gdni_file *file, const char *name);
gdn_status gdni_attr_read_text(const gdni_file *file, const char *name, char *text, size_t size);
gdn_status gdni_attr_read_int(const gdni_file *file, const char *name, int64_t low, int64_t high,
                              int64_t *value);
gdn_status gdni_attr_read_real(const gdni_file *file, const char *name, double *value);
gdn_status gdni_attr_write_text(const gdni_writer *writer, const char *name, const char *text);
gdn_status gdni_attr_write_int(const gdni_writer *writer, const char *name, int64_t value);
gdn_status gdni_attr_write_real(const gdni_writer *writer, const char *name, double value);

/* ---- Datasets (tensor.c, tensor_write.c, values.c)
 * -----------------------------------------------------------------------
 */

enum {
    GDNI_MAX_DIMS = 4
};

/* Shape of a dataset. symbols is for messages, such as "[T, Hk, K]"; dim or ndim -1 = not known
 * yet. */
typedef struct gdni_shape {
    const char *symbols;
    int32_t ndim;
    int64_t dim[GDNI_MAX_DIMS];
} gdni_shape;

/* Types of datasets on file; the type in memory is float64, int64, or the type itself. */
typedef enum gdni_class {
    GDNI_REAL,    /* float32 or float64 */
    GDNI_INTEGER, /* any integer of up to 64 bits that int64 holds */
    GDNI_BYTES,   /* uint8 */
    GDNI_F32,
    GDNI_F64,
    GDNI_I64,
    GDNI_U64
} gdni_class;

gdn_status gdni_tensor_exists(const gdni_file *file, const char *name, int *exists);
/* Checks that the dataset exists with this class, rank and the known dims, and that the file is
 * large enough for it; fills in the unknown dims. */
gdn_status gdni_tensor_check(const gdni_file *file, const char *name, gdni_class type,
                             gdni_shape *shape);
/* A header may declare any size, but the file bounds what is stored (which has to be in the file
 * itself), and data that were never written are not data. element: bytes of one. */
gdn_status gdni_check_storage(const gdni_file *file, const char *name, hid_t dataset,
                              size_t element, const gdni_shape *shape);
/* The same, and reads it into new memory as memory_type. */
gdn_status gdni_tensor_read(const gdni_file *file, const char *name, gdni_class type,
                            gdni_shape *shape, hid_t memory_type, void **data);
/* The same into the caller's memory, for a shape whose dims are all known. */
gdn_status gdni_tensor_read_into(const gdni_file *file, const char *name, gdni_class type,
                                 gdni_shape *shape, hid_t memory_type, void *data);
/* Rows [first, first + rows), which the caller has checked, of a dataset of one dim or more. */
gdn_status gdni_tensor_read_rows(const gdni_file *file, const char *name, gdni_class type,
                                 gdni_shape *shape, int64_t first, int64_t rows, hid_t memory_type,
                                 void *data);
/* Reads float64 and refuses NaN and Inf. */
gdn_status gdni_tensor_read_real(const gdni_file *file, const char *name, gdni_shape *shape,
                                 double **data);
/* Elements of a shape whose dims are known. */
int64_t gdni_shape_count(const gdni_shape *shape);
/* A dataset in chunks with Fletcher32 checksums; a dataset of no elements is stored plainly. */
gdn_status gdni_tensor_write(const gdni_writer *writer, const char *name, const gdni_shape *shape,
                             hid_t file_type, hid_t memory_type, const void *data);

/* First element that is not finite: BAD_DATA naming it. */
gdn_status gdni_check_finite(gdn_status status, const char *path, const char *name,
                             const gdni_shape *shape, const double *data);
/* Whether float32 holds every value. */
int gdni_fits_float(const double *data, int64_t count);
/* "[T, Hk, K] = [?, 2, 128]" */
void gdni_format_shape(const gdni_shape *shape, char *text, size_t size);
/* "[3, 0, 17]" of a flat index. */
void gdni_format_index(const gdni_shape *shape, int64_t flat, char *text, size_t size);

/* cu_seqlens: starts with 0, never decreases, ends at T or before. */
gdn_status gdni_check_sequences(gdn_status status, const char *path, const int64_t *cu_seqlens,
                                int64_t N, int64_t T);
/* Optional dataset cu_seqlens of T tokens, checked; sets *N to 1 where it is absent. */
gdn_status gdni_read_sequences(const gdni_file *file, int64_t T, int64_t *N, int64_t **cu_seqlens);

/* Root attributes that results of operators and of layers share (result.c). */
gdn_status gdni_result_read_about(const gdni_file *file, char backend[32], char dtype[8],
                                  char library_version[32], int32_t *ranks);
gdn_status gdni_result_check_about(const char *path, const char *backend, const char *dtype,
                                   const char *library_version, int32_t ranks);
gdn_status gdni_result_write_about(const gdni_writer *writer, const char *backend,
                                   const char *dtype, const char *library_version, int32_t ranks);

#endif /* GDNI_IO_INTERNAL_H */
