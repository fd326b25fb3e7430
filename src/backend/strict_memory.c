/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/strict_private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct strict_region {
    struct strict_region *next;
    char *p;
    size_t bytes; /* whole pages */
};

struct strict_hidden {
    struct strict_hidden *next;
    char *p;
    size_t bytes;
    char data[];
};

void slc_strict_memory_init(struct strict_memory *m)
{
    memset(m, 0, sizeof(*m));
    pthread_mutex_init(&m->lock, NULL);
}

void slc_strict_memory_release(struct strict_memory *m)
{
    while (m->regions)
        slc_strict_memory_free(m, m->regions->p);
    while (m->hidden) {
        struct strict_hidden *h = m->hidden;

        m->hidden = h->next;
        free(h);
    }
    pthread_mutex_destroy(&m->lock);
}

void *slc_strict_memory_alloc(struct strict_memory *m, size_t bytes, struct slc_err *e)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    struct strict_region *r = malloc(sizeof(*r));
    size_t size = (bytes + page - 1) / page * page;
    void *p;

    size = size ? size : page;
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!r || p == MAP_FAILED) {
        if (p != MAP_FAILED)
            munmap(p, size);
        free(r);
        slc_errf(e, SLC_EXIT_SYSTEM, "backend strict: no memory for %zu bytes", bytes);
        return NULL;
    }
    memset(p, 0xff, size);
    pthread_mutex_lock(&m->lock);
    *r = (struct strict_region){m->regions, p, size};
    m->regions = r;
    if (!m->opened && mprotect(p, size, PROT_NONE) != 0)
        SLC_BUG("strict: mprotect failed");
    pthread_mutex_unlock(&m->lock);
    return p;
}

void slc_strict_memory_free(struct strict_memory *m, void *p)
{
    struct strict_region *r, **at;

    if (!p)
        return;
    pthread_mutex_lock(&m->lock);
    for (at = &m->regions; *at && (*at)->p != p; at = &(*at)->next)
        ;
    r = *at;
    if (!r)
        SLC_BUG("strict: %p was not allocated here", p);
    *at = r->next;
    pthread_mutex_unlock(&m->lock);
    munmap(r->p, r->bytes);
    free(r);
}

static void protect_all(struct strict_memory *m, int protection)
{
    for (struct strict_region *r = m->regions; r; r = r->next)
        if (mprotect(r->p, r->bytes, protection) != 0)
            SLC_BUG("strict: mprotect failed");
}

void slc_strict_memory_open(struct strict_memory *m)
{
    pthread_mutex_lock(&m->lock);
    if (m->opened++ == 0)
        protect_all(m, PROT_READ | PROT_WRITE);
    pthread_mutex_unlock(&m->lock);
}

void slc_strict_memory_close(struct strict_memory *m)
{
    pthread_mutex_lock(&m->lock);
    if (--m->opened == 0)
        protect_all(m, PROT_NONE);
    pthread_mutex_unlock(&m->lock);
}

void slc_strict_memory_hide(struct strict_memory *m, void *p, size_t bytes, bool hidden)
{
    struct strict_hidden **at = &m->hidden, *h;

    while (*at && ((*at)->p != p || (*at)->bytes != bytes))
        at = &(*at)->next;
    h = *at;
    if (hidden && !h) {
        h = malloc(sizeof(*h) + bytes);
        if (!h)
            SLC_BUG("strict: no memory to hide %zu bytes", bytes);
        h->next = m->hidden;
        h->p = p;
        h->bytes = bytes;
        memcpy(h->data, p, bytes);
        memset(p, 0xff, bytes);
        m->hidden = h;
    } else if (!hidden && h) {
        memcpy(p, h->data, bytes);
        *at = h->next;
        free(h);
    }
}
