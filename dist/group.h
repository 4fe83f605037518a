/* What the parts of gdn_dist share: the group and the checks between ranks. */
#ifndef GDNI_DIST_GROUP_H
#define GDNI_DIST_GROUP_H

#include "gdn_dist.h"
#include "internal.h"

typedef struct gdni_watch gdni_watch;

enum {
    GDNI_TEXT = 1024, /* of a line that crosses ranks */
    GDNI_GROUPS = 3
};

struct gdn_dist {
    gdn_transport *transports[GDNI_GROUPS]; /* by gdn_dist_group */
    struct gdni_mpi *mpi;                   /* the communicator of the transports */
    gdni_watch *watch;                      /* NULL: one rank */
    struct gdni_nccl *nccl;                 /* NULL: messages of devices pass through the host */
    gdn_dist_failure on_failure;
    int32_t direct; /* MPI takes pointers to memory of devices */
    int32_t failed; /* this rank alone has failed, or the group; reason says why */
    char reason[GDNI_TEXT];
    char agreed[GDNI_TEXT]; /* the last failure that all ranks share */
};

/* Where ranks other than this one would wait for ever: remembers the failure of a collective call,
 * and refuses the next one. */
gdn_status gdni_dist_begin(gdn_dist *dist, const char *function);
gdn_status gdni_dist_end(gdn_dist *dist, gdn_status status);
/* The end of a call that failed on all ranks alike. */
gdn_status gdni_dist_shared(gdn_dist *dist, gdn_status status);

/* gdn_dist_agree over a transport; *shared: whether all ranks returned the same failure. */
gdn_status gdni_agree(gdn_transport *transport, gdn_status mine, const char *name,
                      const char *description, int32_t *shared);

/* all_gather and all_reduce of gdn_transport, on its send and receive. */
gdn_status gdni_all_gather(gdn_transport *transport, const void *mine, void *all, size_t bytes,
                           const char *what);
gdn_status gdni_all_reduce(gdn_transport *transport, gdn_dtype dtype, void *data, int64_t count,
                           const char *what);

int32_t gdni_nccl_device(const struct gdni_nccl *nccl); /* -1 without */
gdn_status gdni_nccl_check(struct gdni_nccl *nccl);     /* what has failed so far */
/* Frees what gdn_dist_allocate has made. NCCL wants the other ranks for that: before they go. */
void gdni_nccl_release(struct gdni_nccl *nccl);
/* After the watch has stopped. failed: what is under way is aborted. */
void gdni_nccl_destroy(struct gdni_nccl *nccl, int32_t failed);

/* Tags of messages between neighbours. */
enum {
    GDNI_TAG_FORWARD = 1,
    GDNI_TAG_BACKWARD,
    GDNI_TAG_HALO,
    GDNI_TAG_HALO_GRADIENT,
    GDNI_TAG_REDUCE,
    GDNI_TAG_GATHER
};

#endif /* GDNI_DIST_GROUP_H */
