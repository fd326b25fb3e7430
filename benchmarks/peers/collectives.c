/* SPDX-License-Identifier: Apache-2.0 */
/* The collectives of MPI, timed by the loop that times ours. benchmarks/collectives
 * builds it with mpicc and runs it. */
#include <mpi.h>

#include "collective_loop.h"

static int size, rank;

static void barrier(void)
{
    MPI_Barrier(MPI_COMM_WORLD);
}

static const float *run(enum collective what, float *buf, size_t n)
{
    static float *out; /* where reduce_scatter puts this rank's share */
    static size_t room;
    int share = (int)(n / (size_t)size), counts[64];

    if (what == ALLREDUCE) {
        MPI_Allreduce(MPI_IN_PLACE, buf, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        return buf;
    }
    if (what == ALLGATHER) {
        MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, buf, share, MPI_FLOAT,
                      MPI_COMM_WORLD);
        return buf;
    }
    if (room < (size_t)share) {
        free(out);
        room = (size_t)share;
        out = aligned_alloc(64, (room * sizeof(float) + 63) / 64 * 64);
        if (!out)
            exit(1);
    }
    for (int i = 0; i < size; i++)
        counts[i] = share;
    MPI_Reduce_scatter(buf, out, counts, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    return out;
}

static void collect(const double *mine, double *all, int k)
{
    MPI_Gather(mine, k, MPI_DOUBLE, all, k, MPI_DOUBLE, 0, MPI_COMM_WORLD);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (size > 64)
        return 1;
    struct side s = {rank, size, barrier, run, collect};
    measure_all(&s, argc, argv);
    MPI_Finalize();
    return 0;
}
