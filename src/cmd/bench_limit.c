/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/bench_limit.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cmd/bench.h"
#include "comm/window.h"
#include "model/param.h"

/* What rank r has to do with, in rows. */
struct share {
    double out, in; /* records to and from other ranks */
    double own;     /* records that stay */
    double rows;    /* expert rows */
};

static struct share share_of(const struct slc_moe_shape *n, const int32_t *plan, int r)
{
    const int64_t ld = n->R + n->E, first = slc_expert_first(n->E, n->R, r);
    const int64_t end = slc_expert_first(n->E, n->R, r + 1);
    struct share s = {.own = plan[r * ld + r]};

    for (int i = 0; i < n->R; i++) {
        s.out += i == r ? 0 : plan[r * ld + i];
        s.in += i == r ? 0 : plan[i * ld + r];
        for (int64_t x = first; x < end; x++)
            s.rows += plan[i * ld + n->R + x];
    }
    return s;
}

/*
 * Of rank r. There: tokens made, records that leave read and written to their rank (of own
 * ones only what goes along), rows read for every expert, a peer's for the first time. Back:
 * results made and read, their sums written to the source and read there, tokens written and
 * read. Own results take that way, too, in a plan of several rounds.
 */
static void passes_of(const struct slc_moe_shape *n, const int32_t *plan, int rounds, int r,
                      struct slc_bench_passes *there, struct slc_bench_passes *back)
{
    const struct share s = share_of(n, plan, r);
    const double row = (double)n->row_bytes / 2, tokens = (double)n->T * row;
    const double meta = (double)n->meta_x / 2;

    there->own = tokens + s.out * row + (s.out + s.own) * meta + (s.rows - s.in) * row;
    there->between = (s.out + s.in) * row;
    back->own = 2 * s.rows * row + 2 * tokens + (rounds > 1 ? 2 * s.own * row : 0);
    back->between = (s.in + s.out) * row;
}

size_t slc_bench_memory(const struct slc_moe_shape *n, const int32_t *plan)
{
    double most = 0;

    for (int r = 0; r < n->R; r++) {
        const struct share s = share_of(n, plan, r);
        /* tokens, results, outputs, both halves of the window, what comes back */
        const double rows = 2 * (double)n->T + s.rows + 2 * s.in + s.out;

        most = rows > most ? rows : most;
    }
    return (size_t)most * n->row_bytes;
}

static double copy(char *to, const char *from, size_t bytes)
{
    const double start = slc_now();

    memcpy(to, from, bytes);
    __asm__ volatile("" : : "r"(to) : "memory");
    return slc_now() - start;
}

static int own_rate(struct slc_group *g, char *to, const char *from, size_t bytes, int n,
                    double *t, double *rate, struct slc_err *e)
{
    if (slc_barrier(g, e) < 0)
        return -1;
    for (int i = 0; i < n; i++)
        t[i] = copy(to, from, bytes);
    *rate = (double)bytes / slc_bench_median(t, n);
    return 0;
}

static int between_rate(struct slc_group *g, struct slc_window *w, char *block, size_t bytes,
                        int n, double *t, double *rate, struct slc_err *e)
{
    char *peer = slc_window_near(w, (slc_group_index(g) + 1) % slc_group_size(g));
    double seconds = 0;

    for (int in = 0; in < 2; in++) {
        for (int i = 0; i < n; i++)
            for (int way = 0; way < 2; way++) {
                double s;

                if (slc_barrier(g, e) < 0)
                    return -1;
                s = way ? copy(block, slc_window_local(w), bytes) : copy(peer, block, bytes);
                if (way == in)
                    t[i] = s;
            }
        seconds += slc_bench_median(t, n);
    }
    *rate = 2 * (double)bytes / seconds;
    return 0;
}

static int all_near(struct slc_group *g, struct slc_window *w, bool *near, struct slc_err *e)
{
    int64_t far = 0;

    for (int i = 0; i < slc_group_size(g); i++)
        far |= !slc_window_near(w, i);
    if (slc_allreduce_max(g, &far, e) < 0)
        return -1;
    *near = !far;
    return 0;
}

int slc_bench_copy_rates(struct slc_group *g, size_t bytes, int n, double *t,
                         struct slc_bench_passes *rate, struct slc_err *e)
{
    const size_t half = bytes / 2, size = (half + 4095) / 4096 * 4096;
    char *from = aligned_alloc(4096, size), *to = aligned_alloc(4096, size);
    struct slc_window *w = NULL;
    double mean[2];
    bool near;
    int rc = -1;

    if (!from || !to) {
        slc_errf(e, SLC_EXIT_SYSTEM, "no memory for two blocks of %zu bytes", half);
        goto out;
    }
    memset(from, 1, half);
    memset(to, 2, half);
    w = slc_window_create(g, half, e);
    if (!w || own_rate(g, to, from, half, n, t, &mean[0], e) < 0 ||
        all_near(g, w, &near, e) < 0)
        goto out;
    mean[1] = mean[0];
    if ((near && between_rate(g, w, from, half, n, t, &mean[1], e) < 0) ||
        slc_allreduce(g, mean, 2, SLC_F64, e) < 0)
        goto out;
    rate->own = mean[0] / slc_group_size(g);
    rate->between = mean[1] / slc_group_size(g);
    rc = 0;
out:
    slc_window_destroy(w);
    free(from);
    free(to);
    return rc;
}

void slc_bench_limit(const struct slc_moe_shape *n, const int32_t *plan, int rounds,
                     const struct slc_bench_passes *rate, double seconds[3])
{
    memset(seconds, 0, 3 * sizeof(*seconds));
    for (int r = 0; r < n->R; r++) {
        struct slc_bench_passes p[2];
        double s[3];

        passes_of(n, plan, rounds, r, &p[0], &p[1]);
        for (int i = 0; i < 2; i++)
            s[i] = p[i].own / rate->own + p[i].between / rate->between;
        s[2] = s[0] + s[1];
        for (int i = 0; i < 3; i++)
            seconds[i] = s[i] > seconds[i] ? s[i] : seconds[i];
    }
}
