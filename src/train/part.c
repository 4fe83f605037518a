/* Which tokens of a batch a rank holds. */
#include "ranks.h"

gdni_part gdni_part_of(const gdni_ranks *ranks, int64_t N, int64_t context) {
    gdni_part p = {0, N * context, 0, N * context};
    if (!ranks)
        return p;
    const int64_t groups = ranks->ranks / ranks->width, group = ranks->rank / ranks->width,
                  place = ranks->rank % ranks->width;
    p.group_first = N * group / groups * context;
    p.group_count = N * (group + 1) / groups * context - p.group_first;
    p.first = p.group_first + p.group_count * place / ranks->width;
    p.count = p.group_first + p.group_count * (place + 1) / ranks->width - p.first;
    return p;
}
