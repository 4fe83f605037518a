/* HDF5 files, built in memory and then written. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

static void *image_malloc(size_t size, H5FD_file_image_op_t op, void *image) {
    (void)op;
    (void)image;
    return malloc(size);
}

static void *image_memcpy(void *to, const void *from, size_t size, H5FD_file_image_op_t op,
                          void *image) {
    (void)op;
    (void)image;
    return memcpy(to, from, size);
}

static void *image_realloc(void *bytes, size_t size, H5FD_file_image_op_t op, void *user) {
    gdni_image *image = user;
    (void)op;
    void *grown = realloc(bytes, size);
    if (grown)
        image->size = size;
    return grown;
}

/* The bytes of the closed file are kept instead of freed. */
static herr_t image_free(void *bytes, H5FD_file_image_op_t op, void *user) {
    gdni_image *image = user;
    if (op == H5FD_FILE_IMAGE_OP_FILE_CLOSE)
        image->bytes = bytes;
    else
        free(bytes);
    return 0;
}

static void *image_share(void *user) {
    return user;
}

static herr_t image_release(void *user) {
    (void)user;
    return 0;
}

/* Files in memory, in a version of the format whose metadata carries checksums. */
static hid_t access_properties(gdni_image *image) {
    H5FD_file_image_callbacks_t callbacks = {image_malloc, image_memcpy,  image_realloc, image_free,
                                             image_share,  image_release, image};
    const hid_t properties = H5Pcreate(H5P_FILE_ACCESS);
    if (properties < 0 || H5Pset_fapl_core(properties, 1 << 20, 0) < 0 ||
        H5Pset_file_image_callbacks(properties, &callbacks) < 0 ||
        H5Pset_libver_bounds(properties, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0) {
        H5Pclose(properties);
        return -1;
    }
    return properties;
}

gdn_status gdni_writer_open(gdni_writer *w, const char *path, const char *format) {
    gdn_status status;
    const gdni_writer none = {.id = -1};
    *w = none;
    GDN_TRY_GOTO(gdni_output_prepare(&w->output, path), fail);
    w->target = w->output.target;
    w->image = calloc(1, sizeof(*w->image));
    const hid_t properties = w->image ? access_properties(w->image) : -1;
    if (properties >= 0) {
        w->id = H5Fcreate(w->output.temporary, H5F_ACC_TRUNC, H5P_DEFAULT, properties);
        H5Pclose(properties);
    }
    if (w->id < 0) {
        status = gdni_io_fail(GDN_STATUS_OUT_OF_MEMORY, path, "no memory for the file");
        goto fail;
    }
    GDN_TRY_GOTO(gdni_attr_write_text(w, "format", format), fail);
    GDN_TRY_GOTO(gdni_attr_write_int(w, "version", 1), fail);
    return GDN_STATUS_OK;
fail:
    return gdni_writer_close(w, status);
}

/* HDF5 grows the image in large steps; the superblock (version 3) says where the file ends. */
static int trim_image(gdni_image *image) {
    uint64_t end = 0;
    if (!image->bytes || image->size < 48 || image->bytes[8] != 3)
        return 0;
    for (int i = 7; i >= 0; --i)
        end = end << 8 | image->bytes[28 + i];
    if (end > image->size)
        return 0;
    image->size = (size_t)end;
    return 1;
}

gdn_status gdni_writer_close(gdni_writer *w, gdn_status status) {
    if (w->id >= 0) {
        const int closed = H5Fclose(w->id) >= 0 && trim_image(w->image);
        if (!closed && status == GDN_STATUS_OK)
            status = gdni_h5_fail(GDN_STATUS_OUT_OF_MEMORY, w->target, "cannot build the file");
        if (status == GDN_STATUS_OK)
            status = gdni_output_begin(&w->output);
        if (status == GDN_STATUS_OK)
            status = gdni_output_write(&w->output, w->image->bytes, w->image->size);
    }
    if (w->image)
        free(w->image->bytes);
    free(w->image);
    return gdni_output_close(&w->output, status);
}
