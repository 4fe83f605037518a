/* Checks between ranks: the same arguments everywhere, or the same failure everywhere. */
#include "group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What one rank says. */
typedef struct statement {
    int32_t status;
    char name[64];
    char text[GDNI_TEXT]; /* the description, or the failure's line */
} statement;

/* Length of the field that starts at text: up to ";" or the end. */
static size_t field_length(const char *text) {
    return strcspn(text, ";");
}

/* The first field in which two descriptions differ. */
static void find_difference(const char **a, const char **b) {
    while (**a && **b) {
        const size_t length = field_length(*a);
        if (length != field_length(*b) || strncmp(*a, *b, length) != 0)
            return;
        *a += length;
        *b += length;
        *a += **a == ';';
        *b += **b == ';';
        *a += strspn(*a, " ");
        *b += strspn(*b, " ");
    }
}

static gdn_status compare(const statement *all, int32_t ranks) {
    for (int32_t r = 0; r < ranks; ++r)
        if (all[r].status != GDN_STATUS_OK)
            return gdni_fail((gdn_status)all[r].status, "rank %d: %s", r, all[r].text);
    for (int32_t r = 1; r < ranks; ++r) {
        const char *a = all[0].text, *b = all[r].text;
        GDNI_REQUIRE(!strcmp(all[0].name, all[r].name),
                     "rank 0 is in %s, rank %d in %s: expected the same call", all[0].name, r,
                     all[r].name);
        if (!strcmp(a, b))
            continue;
        find_difference(&a, &b);
        return gdni_fail(GDN_STATUS_INVALID_ARGUMENT,
                         "%s: \"%.*s\" on rank 0, \"%.*s\" on rank %d: expected the same",
                         all[0].name, (int)field_length(a), a, (int)field_length(b), b, r);
    }
    return GDN_STATUS_OK;
}

gdn_status gdni_agree(gdn_transport *transport, gdn_status mine, const char *name,
                      const char *description, int32_t *shared) {
    statement own = {0}, *all = calloc((size_t)transport->ranks, sizeof(*all));
    char what[128];
    *shared = 0;
    if (!all)
        return gdni_fail(GDN_STATUS_OUT_OF_MEMORY, "%s: no memory for the check", name);
    own.status = (int32_t)mine;
    snprintf(own.name, sizeof(own.name), "%s", name);
    snprintf(own.text, sizeof(own.text), "%s",
             mine != GDN_STATUS_OK ? gdn_last_error()
             : description         ? description
                                   : "");
    snprintf(what, sizeof(what), "%s: comparing arguments between ranks", name);
    gdn_status status = transport->all_gather(transport, &own, all, sizeof(own), what);
    if (status == GDN_STATUS_OK) {
        status = compare(all, transport->ranks);
        *shared = status != GDN_STATUS_OK;
    }
    free(all);
    return status;
}

gdn_status gdn_dist_agree(gdn_dist *dist, gdn_dist_group group, gdn_status mine, const char *name,
                          const char *description) {
    int32_t shared = 0;
    GDNI_REQUIRE(dist && name, "gdn_dist_agree: dist or name is NULL");
    GDN_TRY(gdni_dist_begin(dist, "gdn_dist_agree"));
    gdn_status status =
        gdni_agree(gdn_dist_transport(dist, group), mine, name, description, &shared);
    return shared ? gdni_dist_shared(dist, status) : gdni_dist_end(dist, status);
}
