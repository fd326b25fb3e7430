/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_ARENA_H
#define SLC_BASE_ARENA_H

#include <stddef.h>

/*
 * Memory is sized first and carved once. A layout function takes all its
 * regions from an arena; it runs twice: on a measuring arena (which returns
 * NULL and only counts) and, after the owner allocated `slc_arena_size` bytes
 * on the right device, on the same arena given that memory. Both passes must
 * take the same regions in the same order.
 *
 *     slc_arena_measure(&a);
 *     layout(x, &a);                       pointers in x are NULL
 *     base = slc_mem_alloc(backend, slc_arena_size(&a), ...);
 *     slc_arena_carve(&a, base);
 *     layout(x, &a);                       pointers in x are real
 */
#define SLC_ARENA_ALIGN 256
#define SLC_ARENA_REGIONS 96

struct slc_arena_region {
    const char *name; /* static storage: the line of the memory table */
    size_t bytes;     /* sum over all takes of that name */
};

struct slc_arena {
    char *base;
    size_t used, size; /* size: bytes seen by the measuring pass */
    int n_regions;
    struct slc_arena_region regions[SLC_ARENA_REGIONS];
};

void slc_arena_measure(struct slc_arena *a);
size_t slc_arena_size(const struct slc_arena *a);
void slc_arena_carve(struct slc_arena *a, void *base);

/*
 * The next `bytes`, aligned to SLC_ARENA_ALIGN; NULL while measuring (and for
 * bytes == 0). `name` groups regions in the memory table. Taking more than was
 * measured is a bug and aborts.
 */
void *slc_arena_take(struct slc_arena *a, const char *name, size_t bytes);

/* What is used now, for regions whose lifetimes do not overlap: mark, take,
 * rewind, take again. The size is the high-water mark. */
size_t slc_arena_mark(const struct slc_arena *a);
void slc_arena_rewind(struct slc_arena *a, size_t mark);

#endif
