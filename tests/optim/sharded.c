/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sharded EP BUCKET [stage]: the optimizer on all ranks against one that has all parameters to
 * itself and is given the sum of all gradients. Checks weights, norm, skipping, sizes,
 * cuts and traffic. stage: as if ops could not use host memory, as on a GPU.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "comm/check.h"
#include "optim/optim.h"

#define E 5 /* no multiple of ep 2 or 4 */

static struct slc_err e = SLC_ERR_INIT;

struct side {
    struct slc_params ps;
    struct slc_param p[6];
    struct slc_optim *o;
};

static const struct {
    int64_t rows, row; /* experts: rows = E */
    bool expert;
} sizes[] = {
    {1, 30001, false}, {1, 7, false},      {E, 4099, true},
    {1, 40960, false}, {E, 1500, true},    {1, 100, false},
};
enum { PARAMS = sizeof(sizes) / sizeof(*sizes) };

/* The part of member i of ep of every parameter. */
static void make_side(struct side *s, struct slc_backend *b, int ep, int i,
                      const struct slc_optim_options *o)
{
    memset(s, 0, sizeof(*s));
    s->ps = (struct slc_params){.p = s->p, .n = PARAMS, .b = b, .dtype = SLC_F32};
    for (int k = 0; k < PARAMS; k++) {
        struct slc_param *p = &s->p[k];
        int64_t first = sizes[k].expert ? slc_expert_first(E, ep, i) : 0;
        int64_t last = sizes[k].expert ? slc_expert_first(E, ep, i + 1) : 1;
        p->expert = sizes[k].expert;
        p->decay = k % 2 == 0;
        p->count = sizes[k].rows * sizes[k].row;
        p->start = first * sizes[k].row;
        p->local = (last - first) * sizes[k].row;
        p->at = s->ps.local;
        s->ps.local += (p->local + 63) / 64 * 64;
        s->ps.total += p->count;
    }
    slc_params_place_grads(&s->ps, SLC_GRADS_F32);
    NEED(s->ps.w = slc_mem_alloc(b, (size_t)s->ps.local * 4, SLC_MEM_DEVICE, &e));
    NEED(s->ps.g = slc_mem_alloc(b, (size_t)s->ps.local * 4, SLC_MEM_DEVICE, &e));
    memset(s->ps.w, 0, (size_t)s->ps.local * 4);
    memset(s->ps.g, 0, (size_t)s->ps.local * 4);
    NEED(s->o = slc_optim_create(&s->ps, o, &e));
}

static void drop_side(struct side *s)
{
    slc_optim_destroy(s->o);
    slc_mem_free(s->ps.b, s->ps.w, SLC_MEM_DEVICE);
    slc_mem_free(s->ps.b, s->ps.g, SLC_MEM_DEVICE);
}

static float *weight(struct side *s, int k)
{
    return (float *)s->ps.w + s->p[k].at;
}

/* Gradient that `rank` has for element j of parameter k; magnitudes differ a lot. */
static float gradient(int rank, int step, int k, int64_t j)
{
    double x = sin((double)(rank * 131 + step * 17 + k * 7) + (double)j * 0.37);

    return (float)(x * (j % 11 == 0 ? 3.0 : 1e-3));
}

static void put_gradients(struct side *s, int rank, int step)
{
    for (int k = 0; k < PARAMS; k++)
        for (int64_t j = 0; j < s->p[k].local; j++)
            slc_param_grad(&s->ps, k)[j] = gradient(rank, step, k, s->p[k].start + j);
}

/* What the owner of an element should see: the sum over the ranks that hold it. */
static void put_sums(struct side *s, int n, int ep, int step)
{
    for (int k = 0; k < PARAMS; k++)
        for (int64_t j = 0; j < s->p[k].local; j++) {
            int64_t expert = j / sizes[k].row;
            double sum = 0;
            for (int r = 0; r < n; r++)
                if (!sizes[k].expert || (slc_expert_first(E, ep, r % ep) <= expert &&
                                         expert < slc_expert_first(E, ep, r % ep + 1)))
                    sum += gradient(r, step, k, j);
            slc_param_grad(&s->ps, k)[j] = (float)sum;
        }
}

static void compare_weights(struct side *mine, struct side *all)
{
    for (int k = 0; k < PARAMS; k++)
        for (int64_t j = 0; j < mine->p[k].local; j++) {
            float a = weight(mine, k)[j], b = weight(all, k)[mine->p[k].start + j];
            if (fabsf(a - b) > 1e-6f * fmaxf(1, fabsf(b)))
                fprintf(stderr, "parameter %d element %ld: %.9g %.9g\n", k, (long)j, a, b);
            CHECK(fabsf(a - b) <= 1e-6f * fmaxf(1, fabsf(b)));
        }
}

/* All extents of all ranks make one copy; cuts are where the contract wants them. */
static void check_extents(struct side *s, struct slc_group *all, int n)
{
    int64_t bytes = slc_optim_bytes(s->o), largest = bytes, seen[PARAMS] = {0};
    int extents;
    const struct slc_optim_extent *x = slc_optim_extents(s->o, &extents);

    for (int i = 0; i < extents; i++) {
        const struct slc_param *p = &s->p[x[i].param];
        int64_t end = x[i].start + x[i].count;
        CHECK(x[i].count > 0 && x[i].start >= p->start && end <= p->start + p->local);
        CHECK(x[i].start % SLC_EXTENT == 0 || x[i].start == p->start);
        CHECK(end % SLC_EXTENT == 0 || end == p->start + p->local);
        CHECK(x[i].at == (i ? x[i - 1].at + x[i - 1].count : 0));
        seen[x[i].param] += x[i].count;
    }
    for (int k = 0; k < PARAMS; k++) {
        OK(slc_allreduce(all, &seen[k], 1, SLC_I64, &e));
        CHECK(seen[k] == s->p[k].count);
    }
    OK(slc_allreduce(all, &bytes, 1, SLC_I64, &e));
    CHECK(bytes == 12 * s->ps.total);
    OK(slc_allreduce_max(all, &largest, &e));
    /* Even but for the rounding of two cuts of each class and uneven experts. */
    CHECK(largest <= bytes / n + 12 * (4 * SLC_EXTENT + 5600));
}

/* The most that reduce-scatter and all-gather of n members may send of so many elements,
 * shares being uneven by an extent. */
static double most_sent(int64_t elements, int n)
{
    return 2.0 * (n - 1) / n * 4 * (double)elements + (n > 1 ? 2 * 2 * 4 * SLC_EXTENT : 0);
}

static void check_traffic(struct side *s, double sent, int n, int replicas)
{
    int64_t held[2] = {0};

    for (int k = 0; k < PARAMS; k++)
        held[s->p[k].expert] += s->p[k].local;
    double most = most_sent(held[0], n) + most_sent(held[1], replicas);
    CHECK(sent <= most + 64 * n); /* and the norm */
    CHECK(n == 1 || sent > most / 2);
    CHECK(n > 1 || sent == 0);
}

/* A loss or gradient that is bad on the last rank only stops all. */
static void check_skipping(struct side *s, struct slc_queue *q, int rank, int n)
{
    struct slc_optim_report r;
    size_t bytes = (size_t)s->ps.local * 4;
    float *before = malloc(bytes);

    memcpy(before, s->ps.w, bytes);
    for (int kind = 0; kind < 2; kind++) {
        bool bad = rank == n - 1;
        put_gradients(s, rank, 9);
        if (kind == 1 && bad)
            slc_param_grad(&s->ps, 3)[40000] = INFINITY;
        OK(slc_optim_step(s->o, q, 1e-2, kind == 1 || !bad, &r, &e));
        CHECK(r.skipped);
        CHECK(memcmp(before, s->ps.w, bytes) == 0);
        CHECK(slc_optim_updates(s->o) == 3);
    }
    free(before);
}

/* Weights come back from the owners' master weights alone. */
static void check_publish(struct side *s, struct slc_queue *q, struct side *all)
{
    for (int64_t i = 0; i < s->ps.local; i++)
        ((float *)s->ps.w)[i] = -77;
    OK(slc_optim_publish_weights(s->o, q, &e));
    compare_weights(s, all);
}

static struct slc_group *replicas_of(struct slc_world *w, int ep)
{
    int members[64], n = 0;

    for (int r = slc_world_rank(w) % ep; r < slc_world_size(w); r += ep)
        members[n++] = r;
    struct slc_group *g = slc_group_create(w, members, n, &e);
    NEED(g);
    return g;
}

int main(int argc, char **argv)
{
    int ep = argc > 1 ? atoi(argv[1]) : 1, members[64];
    struct slc_world *w = slc_world_create(&(struct slc_world_options){0}, &e);
    NEED(w);
    int rank = slc_world_rank(w), n = slc_world_size(w);
    CHECK(n <= 64 && n % ep == 0);
    for (int r = 0; r < n; r++)
        members[r] = r;
    struct slc_group *all = slc_group_create(w, members, n, &e);
    NEED(all);
    struct slc_group *replicas = replicas_of(w, ep);
    struct slc_backend *b =
        slc_backend_open("ref", &(struct slc_backend_options){.threads = 1}, &e);
    NEED(b);
    if (argc > 3 && !strcmp(argv[3], "stage"))
        b->host_readable = b->immediate = false;
    struct slc_queue *q = slc_queue_create(b, &e);
    NEED(q);
    struct slc_optim_options o = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8,
                                  .weight_decay = 0.1, .clip = 1};
    struct side mine, whole;
    make_side(&whole, b, 1, 0, &o);
    o.dense = all;
    o.expert = replicas;
    o.bucket = argc > 2 ? atoi(argv[2]) : 0;
    make_side(&mine, b, ep, rank % ep, &o);
    check_extents(&mine, all, n);
    for (int step = 0; step < 3; step++) {
        struct slc_optim_report ra, rb;
        put_gradients(&mine, rank, step);
        put_sums(&whole, n, ep, step);
        double before = (double)slc_world_traffic(w)->collective_bytes;
        OK(slc_optim_step(mine.o, q, 1e-2, true, &ra, &e));
        check_traffic(&mine, (double)slc_world_traffic(w)->collective_bytes - before, n,
                      n / ep);
        OK(slc_optim_step(whole.o, q, 1e-2, true, &rb, &e));
        CHECK(!ra.skipped && !rb.skipped);
        CHECK(fabs(ra.grad_norm - rb.grad_norm) <= 1e-6 * rb.grad_norm);
        compare_weights(&mine, &whole);
    }
    check_publish(&mine, q, &whole);
    check_skipping(&mine, q, rank, n);
    drop_side(&mine);
    drop_side(&whole);
    slc_queue_destroy(q);
    slc_backend_close(b);
    slc_group_destroy(replicas);
    slc_group_destroy(all);
    slc_world_destroy(w);
    return 0;
}
