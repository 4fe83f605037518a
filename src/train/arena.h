/* Memory that is planned first and handed out in a second pass over the same calls. */
#ifndef GDNI_TRAIN_ARENA_H
#define GDNI_TRAIN_ARENA_H

#include <stddef.h>

enum {
    GDNI_ARENA_ALIGNMENT = 256
};

typedef struct gdni_arena {
    char *base; /* NULL while planning */
    size_t used;
} gdni_arena;

static inline void *gdni_arena_take(gdni_arena *arena, size_t bytes) {
    const size_t step = GDNI_ARENA_ALIGNMENT;
    void *at = arena->base ? arena->base + arena->used : NULL;
    arena->used += (bytes + step - 1) / step * step;
    return at;
}

#endif /* GDNI_TRAIN_ARENA_H */
