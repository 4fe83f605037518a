/*
 * The safetensors format: the length of a header as 8 bytes, little-endian; the header, a JSON
 * object of {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}} and optional
 * texts under __metadata__; then the data, little-endian and row by row, which the tensors cover
 * without gaps.
 */
#ifndef GDNI_IO_SAFETENSORS_H
#define GDNI_IO_SAFETENSORS_H

#include "internal.h"

enum {
    GDNI_SAFETENSORS_DIMS = 8
};

/* A type of elements; the format has more than libgdn reads. */
typedef struct gdni_safetensors_type {
    const char *name;
    int bits;
    int readable;
    gdn_dtype dtype; /* if readable */
} gdni_safetensors_type;

typedef struct gdni_safetensors_tensor {
    char *name;
    const gdni_safetensors_type *type;
    int32_t ndim;
    int64_t dim[GDNI_SAFETENSORS_DIMS];
    int64_t begin, end; /* bytes, counted from the first of the data */
} gdni_safetensors_tensor;

typedef struct gdni_safetensors {
    char *path;
    int fd;
    int64_t data, bytes;              /* where the data begin, and how much of them there is */
    gdni_safetensors_tensor *tensors; /* by name */
    size_t count;
} gdni_safetensors;

/* Reads and checks the header; the data stay on disk. BAD_FILE, IO_ERROR, OUT_OF_MEMORY. */
gdn_status gdni_safetensors_open(const char *path, gdni_safetensors **out);
void gdni_safetensors_close(gdni_safetensors *file);
/* NULL if there is none. */
const gdni_safetensors_tensor *gdni_safetensors_find(const gdni_safetensors *file,
                                                     const char *name);
/* Checks rank, known dims and type of a tensor, and fills in the unknown dims. */
gdn_status gdni_safetensors_check(const gdni_safetensors *file,
                                  const gdni_safetensors_tensor *tensor, gdni_shape *shape);
/* Reads a readable tensor as float32. */
gdn_status gdni_safetensors_read(const gdni_safetensors *file,
                                 const gdni_safetensors_tensor *tensor, float *values);

/* A tensor to be written: rounded to nearest even, if to a smaller type than float32. */
typedef struct gdni_safetensors_output {
    const char *name;
    gdn_dtype dtype;
    gdni_shape shape;
    const float *values;
} gdni_safetensors_output;

/* The header is in the order given, padded with spaces to a multiple of 8 bytes. BAD_DATA: a finite
 * value that the type does not hold. */
gdn_status gdni_safetensors_write(const char *path, const gdni_safetensors_output *tensors,
                                  size_t count);

/* The name of a type on file; NULL for fp64, which is not written. */
const char *gdni_safetensors_name(gdn_dtype dtype);

/* A whole small file of text in new memory; limit: bytes. */
gdn_status gdni_read_text(const char *path, int64_t limit, char **text, size_t *size);

#endif /* GDNI_IO_SAFETENSORS_H */
