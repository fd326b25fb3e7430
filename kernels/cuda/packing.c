/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cuda/packing.h"

#include <stdbool.h>

#include "base/err.h"

#define ROOMS 48
#define LEAST 256
#define LEAST_FINE 512

static int64_t power_of_two(int64_t n)
{
    int64_t p = 1;

    while (p < n)
        p *= 2;
    return p;
}

/* Whether sizes come in steps of 3/4, too. */
static bool is_fine(const struct slc_packing_rule *k)
{
    return k->workspace == 0;
}

/* n rounded up to a power of two, or to 3/4 of one. */
static int64_t rounded(const struct slc_packing_rule *k, int64_t n)
{
    const int64_t p = power_of_two(n);

    return is_fine(k) && p % 4 == 0 && p / 4 * 3 >= n ? p / 4 * 3 : p;
}

int64_t slc_packing_room(const struct slc_packing_rule *k, int64_t length)
{
    const int64_t least = is_fine(k) ? LEAST_FINE : LEAST;
    const int64_t s = rounded(k, length < least ? least : length);

    return k->row >= length && s > k->row ? (k->row + 127) / 128 * 128 : s;
}

static bool fits(const struct slc_packing_rule *k, int64_t B, int64_t heads, int64_t S)
{
    return k->workspace == 0 || 2 * B * heads * S * S <= k->workspace;
}

/* The largest part of B sequences, in equal parts, for which dS of one group of heads fits; 1
 * where none does. */
static int64_t fitting(const struct slc_packing_rule *k, int64_t B, int64_t S)
{
    int64_t parts = 1;

    while (parts < B && (B % parts || !fits(k, B / parts, k->heads / k->kv_heads, S)))
        parts++;
    return B / parts;
}

int64_t slc_packing_most(const struct slc_packing_rule *k, int64_t S)
{
    const int64_t times = is_fine(k) ? 4 : 2;

    return fitting(k, power_of_two((times * k->T + S - 1) / S), S);
}

int64_t slc_packing_size(const struct slc_packing_rule *k, int64_t n, int64_t S)
{
    const int64_t least = is_fine(k) ? k->T / S : 1;

    return rounded(k, n < least ? least : n);
}

int64_t slc_packing_heads(const struct slc_packing_rule *k, int64_t B, int64_t S)
{
    for (int64_t parts = 1; parts <= k->kv_heads; parts++)
        if (k->kv_heads % parts == 0 && fits(k, B, k->heads / parts, S))
            return k->heads / parts;
    return 1;
}

static double call_cost(const struct slc_packing_rule *k, int64_t B, int64_t S)
{
    return (double)k->call_blocks * (double)(k->heads / slc_packing_heads(k, B, S)) +
           (double)(B * k->heads * (S / 128));
}

/* `count` documents with room for S: full calls of the most, one that is full, too, or none,
 * and one of the rest. */
struct cut {
    int64_t full, half, rest;
};

static struct cut cut_of(const struct slc_packing_rule *k, int64_t count, int64_t S,
                         double *cost)
{
    const int64_t most = slc_packing_most(k, S), left = count % most;
    struct cut c = {.full = count / most};

    *cost = (double)c.full * call_cost(k, most, S);
    if (left == 0)
        return c;
    c.rest = slc_packing_size(k, left, S);
    double one = call_cost(k, c.rest, S);
    if (c.rest > left) {
        const int64_t half = slc_packing_size(k, c.rest / 2, S);
        const int64_t rest = left > half ? slc_packing_size(k, left - half, S) : c.rest;
        const double two = call_cost(k, half, S) + call_cost(k, rest, S);

        if (two < one) {
            one = two;
            c.half = half;
            c.rest = rest;
        }
    }
    *cost += one;
    return c;
}

static void add(struct slc_packing *p, int64_t S, int64_t B, int64_t calls, int64_t *count)
{
    if (B == 0 || calls == 0)
        return;
    SLC_ASSERT(p->n < SLC_PACKING_PARTS);
    struct slc_packing_part *x = &p->part[p->n];
    const int64_t taken = *count < B * calls ? *count : B * calls;

    *x = (struct slc_packing_part){
        .S = (int32_t)S,
        .B = (int32_t)B,
        .calls = (int32_t)calls,
        .first = p->n ? x[-1].first + x[-1].count : 0,
        .count = (int32_t)taken,
        .slot = p->slots,
        .stride = (int32_t)((B + 4) / 4 * 4), /* lists are aligned, and have B + 1 */
    };
    p->n++;
    p->slots += (int32_t)(x->stride * calls);
    *count -= taken;
}

static void add_cut(struct slc_packing *p, const struct slc_packing_rule *k, int64_t count,
                    int64_t S)
{
    double cost;
    const struct cut c = cut_of(k, count, S, &cost);

    add(p, S, slc_packing_most(k, S), c.full, &count);
    add(p, S, c.half, 1, &count);
    add(p, S, c.rest, 1, &count);
}

/* Documents by the room they need: the smallest first. */
struct rooms {
    int n;
    int64_t S[ROOMS], count[ROOMS];
};

static void rooms_of(struct rooms *r, const struct slc_packing_rule *k, const int32_t *seg,
                     int64_t n_seg)
{
    int64_t longest = 0;

    *r = (struct rooms){0};
    for (int64_t i = 0; i < n_seg; i++)
        if (seg[i + 1] - seg[i] > longest)
            longest = seg[i + 1] - seg[i];
    do {
        SLC_ASSERT(r->n < ROOMS);
        r->S[r->n] = slc_packing_room(k, r->n ? r->S[r->n - 1] + 1 : 1);
    } while (r->S[r->n++] < longest);
    for (int64_t i = 0; i < n_seg; i++) {
        const int64_t length = seg[i + 1] - seg[i];
        int at = 0;

        while (r->S[at] < length)
            at++;
        r->count[at] += length > 0;
    }
}

void slc_packing_cut(struct slc_packing *p, const struct slc_packing_rule *k,
                     const int32_t *seg, int64_t n_seg, int64_t longest)
{
    /* least[j]: of what needs no more than room j - 1; from[j]: its last part starts
     * with room from[j] */
    double least[ROOMS + 1] = {0};
    int from[ROOMS + 1] = {0};
    struct rooms r;

    p->n = p->slots = 0;
    if (!seg) {
        add_cut(p, k, n_seg, slc_packing_room(k, longest));
        return;
    }
    rooms_of(&r, k, seg, n_seg);
    for (int j = 0; j < r.n; j++) {
        int64_t count = 0;

        least[j + 1] = least[j];
        from[j + 1] = j;
        for (int i = j; i >= 0 && r.count[j] > 0; i--) {
            double cost;

            count += r.count[i];
            cut_of(k, count, r.S[j], &cost);
            if (i == j || least[i] + cost < least[j + 1]) {
                least[j + 1] = least[i] + cost;
                from[j + 1] = i;
            }
        }
    }
    for (int j = r.n; j > 0; j = from[j]) {
        int64_t count = 0;

        for (int i = from[j]; i < j; i++)
            count += r.count[i];
        if (count > 0)
            add_cut(p, k, count, r.S[j - 1]);
    }
}

void slc_packing_rows(struct slc_packing *p, const struct slc_packing_rule *k, int64_t n,
                      int64_t S)
{
    const int64_t B = fitting(k, n, S);

    p->slots = 0;
    p->n = 1;
    p->part[0] = (struct slc_packing_part){.S = (int32_t)S, .B = (int32_t)B,
                                           .calls = (int32_t)(n / B), .count = (int32_t)n};
}
