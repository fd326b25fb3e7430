/* SPDX-License-Identifier: Apache-2.0 */
/* Our collectives, timed by the loop that times those of MPI; one rank of
 * benchmarks/collectives, which starts it. */
#include "comm/group.h"
#include "peers/collective_loop.h"

static struct slc_group *group;
static struct slc_err e = SLC_ERR_INIT;

static void need(int rc)
{
    if (rc < 0) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
}

static void barrier(void)
{
    need(slc_barrier(group, &e));
}

static const float *run(enum collective what, float *buf, size_t n)
{
    int size = slc_group_size(group), me = slc_group_index(group);
    int64_t off[65], share = (int64_t)n / size;

    for (int i = 0; i <= size; i++)
        off[i] = share * i;
    if (what == ALLREDUCE) {
        need(slc_allreduce(group, buf, (int64_t)n, SLC_F32, &e));
        return buf;
    }
    if (what == ALLGATHER) {
        need(slc_allgatherv(group, buf, off, SLC_F32, &e));
        return buf;
    }
    need(slc_reduce_scatter(group, buf, off, SLC_F32, &e));
    return buf + off[me];
}

static void collect(const double *mine, double *all, int k)
{
    need(slc_allgather(group, mine, all, sizeof(*mine) * (size_t)k, &e));
}

int main(int argc, char **argv)
{
    struct slc_world *w = slc_world_create(&(struct slc_world_options){0}, &e);
    int members[64];

    if (!w || slc_world_size(w) > 64) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    for (int r = 0; r < slc_world_size(w); r++)
        members[r] = r;
    group = slc_group_create(w, members, slc_world_size(w), &e);
    need(group ? 0 : -1);
    struct side s = {slc_world_rank(w), slc_world_size(w), barrier, run, collect};
    measure_all(&s, argc, argv);
    slc_group_destroy(group);
    slc_world_destroy(w);
    return 0;
}
