/* Writing datasets. */
#include "internal.h"

/* A chunk carries one checksum and is read whole. */
enum {
    CHUNK_BYTES = 1 << 20
};

gdn_status gdni_tensor_write(const gdni_writer *writer, const char *name, const gdni_shape *shape,
                             hid_t file_type, hid_t memory_type, const void *data) {
    gdn_status status = GDN_STATUS_OK;
    hsize_t dim[GDNI_MAX_DIMS], chunk[GDNI_MAX_DIMS];
    hsize_t room = CHUNK_BYTES / H5Tget_size(file_type);
    const int64_t count = gdni_shape_count(shape);
    for (int32_t i = shape->ndim - 1; i >= 0; --i) {
        dim[i] = (hsize_t)shape->dim[i];
        chunk[i] = dim[i] < room ? dim[i] : room;
        room = chunk[i] ? room / chunk[i] : 0;
        room = room ? room : 1;
    }
    const hid_t space =
        shape->ndim ? H5Screate_simple(shape->ndim, dim, NULL) : H5Screate(H5S_SCALAR);
    const hid_t creation = H5Pcreate(H5P_DATASET_CREATE), links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    if (shape->ndim == 0) {
        H5Pset_layout(creation, H5D_COMPACT); /* part of the header and its checksum */
    } else if (count) {
        H5Pset_chunk(creation, shape->ndim, chunk);
        H5Pset_fletcher32(creation);
    }
    const hid_t dataset =
        H5Dcreate2(writer->id, name, file_type, space, links, creation, H5P_DEFAULT);
    if (dataset < 0 ||
        (count && H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0))
        status = gdni_h5_fail(GDN_STATUS_IO_ERROR, writer->target, "dataset %s: cannot be written",
                              name);
    if (dataset >= 0 && H5Dclose(dataset) < 0 && status == GDN_STATUS_OK)
        status = gdni_h5_fail(GDN_STATUS_IO_ERROR, writer->target, "dataset %s: cannot be written",
                              name);
    H5Pclose(links);
    H5Pclose(creation);
    H5Sclose(space);
    return status;
}
