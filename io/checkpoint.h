/* Checkpoint files, as the rotation of a directory sees them. */
#ifndef GDNI_IO_CHECKPOINT_H
#define GDNI_IO_CHECKPOINT_H

#include "internal.h"

gdn_status gdni_checkpoint_write_file(const char *path, int64_t step, const gdn_io_entry *entries,
                                      size_t count);
/* Opens it and reads all of it, in a child process. */
gdn_status gdni_checkpoint_verify(const char *path);

#endif /* GDNI_IO_CHECKPOINT_H */
