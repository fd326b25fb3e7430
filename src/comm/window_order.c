/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which operation of a target may start. Normally the oldest. With a test seed puts are
 * cut, delayed and reordered as far as the contract of a window allows: shared memory
 * completes at once and would hide a missing flush, credit or order.
 */
#include "comm/window_private.h"

#include <time.h>

#include "base/rng.h"

#define DELAY_MAX 24 /* looks */

static uint32_t draw(struct slc_window *win, uint32_t below)
{
    struct slc_world *w = win->g->w;

    return (uint32_t)(slc_rng_u64(w->options.test_seed, SLC_RNG_TEST,
                                  (uint64_t)w->rank << 16 | win->id, win->random++) %
                      below);
}

/* A signal goes only when nothing posted before it is still waiting. */
static bool may_start(const struct slc_target *t, size_t i, const struct slc_op *op)
{
    return op->kind == SLC_OP_PUT || i == t->head;
}

static size_t shuffled_next(struct slc_target *t)
{
    size_t ready[64], n = 0;
    bool signal_seen = false;

    for (size_t i = t->head; i < t->tail && n < 64; i++) {
        struct slc_op *op = slc_target_op(t, i);

        if (op->kind == SLC_OP_DONE)
            continue;
        if (op->delay)
            op->delay--;
        if (!op->delay && !signal_seen && may_start(t, i, op))
            ready[n++] = i;
        signal_seen |= op->kind == SLC_OP_SIGNAL;
    }
    return n ? ready[draw(t->window, (uint32_t)n)] : SIZE_MAX;
}

size_t slc_order_next(struct slc_target *t)
{
    if (t->current != SIZE_MAX)
        return t->current;
    if (t->head == t->tail)
        return SIZE_MAX;
    return t->window->g->w->options.test_seed ? shuffled_next(t) : t->head;
}

int slc_order_post(struct slc_target *t, const struct slc_op *op, struct slc_err *e)
{
    struct slc_op piece = *op;
    size_t left = op->bytes;

    do {
        /* Odd sizes: a reader that polls the last byte instead of a signal is found. */
        if (op->kind == SLC_OP_PUT) {
            piece.bytes =
                1 + draw(t->window, (uint32_t)(left < 1u << 20 ? left : 1u << 20));
            if (draw(t->window, 2) || left - piece.bytes < 64)
                piece.bytes = left;
        }
        piece.delay = draw(t->window, 4) ? draw(t->window, DELAY_MAX) : 0;
        if (slc_target_push(t, &piece, e) < 0)
            return -1;
        piece.src += piece.bytes;
        piece.offset += piece.bytes;
        left -= piece.bytes;
    } while (left);
    slc_order_drift(t->window);
    return 0;
}

void slc_order_drift(struct slc_window *win)
{
    if (draw(win, 8) == 0) {
        struct timespec t = {.tv_nsec = draw(win, 200000)};

        nanosleep(&t, NULL);
    }
}
