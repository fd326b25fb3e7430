/* SPDX-License-Identifier: Apache-2.0 */
/* Collectives, groups and point to point, on any number of ranks. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/fail.h"
#include "comm/check.h"
#include "comm/group.h"

static struct slc_err e = SLC_ERR_INIT;

/* A value that depends on member and place and whose sums round. */
static float value(int member, int64_t j)
{
    return (float)(1.0 / (1.0 + (double)member * 7 + (double)(j % 1013)) *
                   (j % 3 ? 1.0 : -1e4));
}

static void test_barrier(struct slc_group *g)
{
    for (int i = 0; i < 50; i++)
        OK(slc_barrier(g, &e));
}

static void test_broadcast(struct slc_group *g)
{
    static const size_t sizes[] = {0, 1, 7, 4096, 100003, 3000001};
    unsigned char *buf = malloc(3000001);

    for (int root = 0; root < slc_group_size(g); root++)
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
            for (size_t j = 0; j < sizes[s]; j++)
                buf[j] = slc_group_index(g) == root ? (unsigned char)(j * 31 + s) : 0;
            OK(slc_broadcast(g, buf, sizes[s], root, &e));
            for (size_t j = 0; j < sizes[s]; j++)
                CHECK(buf[j] == (unsigned char)(j * 31 + s));
        }
    free(buf);
}

static void test_allgather(struct slc_group *g)
{
    static const size_t sizes[] = {0, 1, 13, 4097, 300007};
    int n = slc_group_size(g), me = slc_group_index(g);

    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
        for (int in_place = 0; in_place < 2; in_place++) {
            size_t b = sizes[s];
            unsigned char *send = malloc(b + 1), *recv = calloc((size_t)n, b + 1);

            for (size_t j = 0; j < b; j++)
                send[j] = (unsigned char)(me * 5 + (int)j);
            if (in_place && b)
                memcpy(recv + (size_t)me * b, send, b);
            OK(slc_allgather(g, in_place ? recv + (size_t)me * b : send, recv, b, &e));
            for (int i = 0; i < n; i++)
                for (size_t j = 0; j < b; j++)
                    CHECK(recv[(size_t)i * b + j] == (unsigned char)(i * 5 + (int)j));
            free(send);
            free(recv);
        }
}

/* Shares of odd and of no size, over several rounds of staging. */
static void fill_shares(int64_t *off, int n, int64_t total)
{
    off[0] = 0;
    for (int i = 0; i < n; i++) {
        off[i + 1] = i == n - 1 ? total : i % 2 ? off[i] : off[i] + total / n + i;
        off[i + 1] = off[i + 1] < total ? off[i + 1] : total;
    }
}

static void test_reduce_scatter(struct slc_group *g, struct slc_world *w, int64_t total)
{
    int n = slc_group_size(g), me = slc_group_index(g);
    int64_t off[128];
    float *buf = malloc(sizeof(float) * (size_t)(total + 1));

    fill_shares(off, n, total);
    for (int64_t j = 0; j < total; j++)
        buf[j] = value(me, j);
    unsigned long long before = slc_world_traffic(w)->collective_bytes;
    OK(slc_reduce_scatter(g, buf, off, SLC_F32, &e));
    CHECK(slc_world_traffic(w)->collective_bytes - before ==
          (n == 1 ? 0 : (unsigned long long)(total - (off[me + 1] - off[me])) * 4));
    for (int64_t j = off[me]; j < off[me + 1]; j++) {
        float sum = value(0, j);

        for (int i = 1; i < n; i++)
            sum += value(i, j);
        CHECK(buf[j] == sum); /* the same bits: the order is fixed */
    }
    OK(slc_allgatherv(g, buf, off, SLC_F32, &e));
    for (int64_t j = 0; j < total; j++) {
        float sum = value(0, j);

        for (int i = 1; i < n; i++)
            sum += value(i, j);
        CHECK(buf[j] == sum);
    }
    free(buf);
}

static void test_allreduce(struct slc_group *g, struct slc_world *w)
{
    int n = slc_group_size(g), me = slc_group_index(g);

    for (int64_t total = 0; total < 40; total++) {
        double d[40];
        int64_t i64[40];

        for (int64_t j = 0; j < total; j++) {
            d[j] = (double)value(me, j);
            i64[j] = ((int64_t)1 << 40) * me + j;
        }
        OK(slc_allreduce(g, d, total, SLC_F64, &e));
        OK(slc_allreduce(g, i64, total, SLC_I64, &e));
        for (int64_t j = 0; j < total; j++) {
            double sum = (double)value(0, j);

            for (int i = 1; i < n; i++)
                sum += (double)value(i, j);
            CHECK(d[j] == sum);
            CHECK(i64[j] == ((int64_t)1 << 40) * (n * (n - 1) / 2) + j * n);
        }
    }
    /* at most 2 (N-1)/N of the payload, when shares are equal */
    int64_t even = 12 * 1024 * n;
    float *buf = calloc((size_t)even, 4);
    unsigned long long before = slc_world_traffic(w)->collective_bytes;
    OK(slc_allreduce(g, buf, even, SLC_F32, &e));
    unsigned long long sent = slc_world_traffic(w)->collective_bytes - before;
    CHECK(sent * (unsigned)n <=
          2ull * (unsigned)(n - 1) * (unsigned long long)even * 4);
    free(buf);

    int64_t most = 100 - me * (me % 2 ? 3 : -3);
    OK(slc_allreduce_max(g, &most, &e));
    int64_t expect = 100;
    for (int i = 0; i < n; i++)
        expect =
            100 - i * (i % 2 ? 3 : -3) > expect ? 100 - i * (i % 2 ? 3 : -3) : expect;
    CHECK(most == expect);
}

/* A ring of messages of all sizes; tags out of order on the receiving side. */
static void test_p2p(struct slc_group *g)
{
    int n = slc_group_size(g), me = slc_group_index(g);
    size_t big = 700001;
    char *out = malloc(big), *in = malloc(big);
    int right = (me + 1) % n, left = (me - 1 + n) % n;

    if (n > 1) {
        int a = me, b = me + 1000, got = -1;

        OK(slc_send(g, right, 1, &a, sizeof(a), &e));
        OK(slc_send(g, right, 2, &b, sizeof(b), &e));
        OK(slc_recv(g, left, 2, &got, sizeof(got), &e));
        CHECK(got == left + 1000);
        OK(slc_recv(g, left, 1, &got, sizeof(got), &e));
        CHECK(got == left);
        memset(out, me + 1, big);
        /* even members send first: a large message waits for its receiver */
        for (int turn = 0; turn < 2; turn++)
            if (me % 2 == turn && !(n % 2 && me == n - 1 && turn == 0))
                OK(slc_send(g, right, 3, out, big, &e));
            else if (!(n % 2))
                OK(slc_recv(g, left, 3, in, big, &e));
            else
                break;
        if (n % 2 == 0)
            for (size_t j = 0; j < big; j++)
                CHECK(in[j] == (char)(left + 1));
    }
    free(out);
    free(in);
}

static void test_all(struct slc_group *g, struct slc_world *w)
{
    test_barrier(g);
    test_broadcast(g);
    test_allgather(g);
    test_reduce_scatter(g, w, 0);
    test_reduce_scatter(g, w, 1);
    test_reduce_scatter(g, w, 1001);
    test_reduce_scatter(g, w, 3000001);
    test_allreduce(g, w);
    if (slc_group_size(g) % 2 == 0)
        test_p2p(g);
    test_barrier(g);
}

/* Groups made in different orders by different ranks, some with the same members. */
static void test_groups(struct slc_world *w)
{
    int n = slc_world_size(w), me = slc_world_rank(w), m[64], k = 0;
    struct slc_group *pair[2] = {NULL, NULL}, *parity;

    for (int r = me % 2; r < n; r += 2)
        m[k++] = r;
    NEED(parity = slc_group_create(w, m, k, &e));
    for (int i = 0; i < 2; i++) { /* twice the same pair: two groups */
        int low = me / 2 * 2, two[2] = {low, low + 1};

        NEED(pair[i] = slc_group_create(w, two, low + 1 < n ? 2 : 1, &e));
    }
    test_all(parity, w);
    test_all(pair[0], w);
    test_all(pair[1], w);
    if (slc_group_size(pair[0]) == 2) {
        int other = 1 - slc_group_index(pair[0]), a = 10, b = 20, got;

        /* messages of equal tags in different groups do not mix */
        OK(slc_send(pair[0], other, 9, &a, sizeof(a), &e));
        OK(slc_send(pair[1], other, 9, &b, sizeof(b), &e));
        OK(slc_recv(pair[1], other, 9, &got, sizeof(got), &e));
        CHECK(got == 20);
        OK(slc_recv(pair[0], other, 9, &got, sizeof(got), &e));
        CHECK(got == 10);
    }
    slc_group_destroy(pair[0]);
    NEED(pair[0] = slc_group_create(w, &me, 1, &e)); /* reuses the id */
    test_all(pair[0], w);
    slc_group_destroy(pair[0]);
    slc_group_destroy(pair[1]);
    slc_group_destroy(parity);
}

int main(void)
{
    struct slc_world_options o = {.allow_tcp = getenv("ALLOW_TCP") != NULL};
    struct slc_world *w;
    struct slc_group *g;
    int all[64];

    w = slc_world_create(&o, &e);
    if (!w) {
        slc_fail_print();
        return e.code;
    }
    if (slc_world_rank(w) == 0)
        fprintf(stderr, "%s%s\n", slc_world_transports(w),
                slc_world_shares_cores(w) ? ", sharing cores" : "");
    for (int r = 0; r < slc_world_size(w); r++)
        all[r] = r;
    NEED(g = slc_group_create(w, all, slc_world_size(w), &e));
    test_all(g, w);
    test_groups(w);
    slc_group_destroy(g);
    slc_world_destroy(w);
    return 0;
}
