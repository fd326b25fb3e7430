/* SPDX-License-Identifier: Apache-2.0 */
/* Which way each rank's data goes to each other one, told to all. */
#include "comm/comm_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW 256

static const char *const names[] = {
    [SLC_PATH_NEAR] = "near", [SLC_PATH_PUT] = "put", [SLC_PATH_MESSAGE] = "message"};
#define KINDS (sizeof(names) / sizeof(names[0]))

/* What one rank chose. */
struct choice {
    int32_t count[KINDS];             /* peers */
    char lanes[KINDS][SLC_LANES_MAX]; /* of the first such peer */
    char row[ROW];                    /* "near 1 (sysv), message 2-3 (tcp)" */
};

/* Append peers of one kind as "near 1 4-6 (sysv)"; what does not fit is cut off. */
static void append_kind(const struct slc_world *w, enum slc_path kind, struct choice *c)
{
    size_t at = strlen(c->row);

#define ADD(...)                                                                       \
    (at += (size_t)snprintf(c->row + (at < ROW ? at : ROW - 1), at < ROW ? ROW - at : 1, \
                            __VA_ARGS__))
    ADD("%s%s", at ? ", " : "", names[kind]);
    for (int r = 0; r < w->size; r++) {
        int last = r;

        if (w->peers[r].chosen != kind)
            continue;
        while (last + 1 < w->size && w->peers[last + 1].chosen == kind)
            last++;
        ADD(last > r ? " %d-%d" : " %d", r, last);
        r = last;
    }
    ADD(" (%s)", c->lanes[kind]);
#undef ADD
}

static void look(const struct slc_world *w, struct choice *c)
{
    memset(c, 0, sizeof(*c));
    for (int r = 0; r < w->size; r++) {
        enum slc_path kind = w->peers[r].chosen;

        if (kind != SLC_PATH_UNKNOWN && c->count[kind]++ == 0)
            memcpy(c->lanes[kind], w->peers[r].lanes, SLC_LANES_MAX);
    }
    for (enum slc_path kind = SLC_PATH_NEAR; kind < KINDS; kind++)
        if (c->count[kind])
            append_kind(w, kind, c);
}

/* "near (sysv) to 1 peer of each rank, message (tcp) to 2" */
static void summarise(const struct choice *all, int n, char *line, size_t size)
{
    size_t at = 0;

    line[0] = '\0';
    for (enum slc_path kind = SLC_PATH_NEAR; kind < KINDS; kind++) {
        int32_t least = INT32_MAX, most = 0;
        const char *lanes = "";

        for (int r = 0; r < n; r++) {
            least = all[r].count[kind] < least ? all[r].count[kind] : least;
            most = all[r].count[kind] > most ? all[r].count[kind] : most;
            lanes = *lanes ? lanes : all[r].lanes[kind];
        }
        if (most == 0 || at >= size)
            continue;
        at += (size_t)snprintf(line + at, size - at, "%s%s (%s) to ", at ? ", " : "",
                               names[kind], lanes);
        if (at < size && least < most)
            at += (size_t)snprintf(line + at, size - at, "%d to ", least);
        if (at < size)
            at += (size_t)snprintf(line + at, size - at, "%d peer%s of each rank", most,
                                   most == 1 ? "" : "s");
    }
}

int slc_world_paths(struct slc_world *w, char *line, size_t size, char **rows,
                    struct slc_err *e)
{
    struct choice *all = calloc((size_t)w->size, sizeof(*all));
    int rc = -1;

    *line = '\0';
    if (!all)
        return slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the paths of %d ranks",
                        w->size);
    look(w, &all[w->rank]);
    if (w->size > 1 &&
        slc_group_setup_gather(w->all, 0x50415448, all, sizeof(*all), e) < 0)
        goto out;
    summarise(all, w->size, line, size);
    for (int r = 0; rows && r < w->size; r++)
        if (!(rows[r] = strdup(all[r].row))) {
            slc_errf(e, SLC_EXIT_SYSTEM, "no memory for the paths of rank %d", r);
            goto out;
        }
    rc = 0;
out:
    free(all);
    return rc;
}
