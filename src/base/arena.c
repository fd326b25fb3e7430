/* SPDX-License-Identifier: Apache-2.0 */
#include "base/arena.h"

#include <string.h>

#include "base/err.h"

void slc_arena_measure(struct slc_arena *a)
{
    memset(a, 0, sizeof(*a));
}

size_t slc_arena_size(const struct slc_arena *a)
{
    return a->size;
}

void slc_arena_carve(struct slc_arena *a, void *base)
{
    SLC_ASSERT(((size_t)base & 63) == 0);
    a->base = base;
    a->used = 0;
}

static void count_region(struct slc_arena *a, const char *name, size_t bytes)
{
    for (int i = 0; i < a->n_regions; i++) {
        if (strcmp(a->regions[i].name, name) == 0) {
            a->regions[i].bytes += bytes;
            return;
        }
    }
    SLC_ASSERT(a->n_regions < SLC_ARENA_REGIONS);
    a->regions[a->n_regions++] = (struct slc_arena_region){name, bytes};
}

void *slc_arena_take(struct slc_arena *a, const char *name, size_t bytes)
{
    size_t at = a->used;

    if (bytes == 0)
        return NULL;
    a->used += (bytes + SLC_ARENA_ALIGN - 1) / SLC_ARENA_ALIGN * SLC_ARENA_ALIGN;
    if (!a->base) {
        count_region(a, name, bytes);
        if (a->used > a->size)
            a->size = a->used;
        return NULL;
    }
    SLC_ASSERT(a->used <= a->size);
    return a->base + at;
}

size_t slc_arena_mark(const struct slc_arena *a)
{
    return a->used;
}

void slc_arena_rewind(struct slc_arena *a, size_t mark)
{
    SLC_ASSERT(mark <= a->used);
    a->used = mark;
}
