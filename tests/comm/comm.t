#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Collectives and windows between real processes, by the launcher for tests.
. "$top_srcdir/tests/comm/ranks.sh"

# One thread a rank: what is tested here is talk, not arithmetic.
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
bin=$top_builddir/tests/comm

plan 26
for n in 1 2 3 4; do
    ranks "collectives on $n ranks" -n $n $bin/coll
done
ranks "collectives on 8 ranks of 2 nodes" -n 8 --nodes 2 $bin/coll
ranks "collectives over TCP" -n 3 env UCX_TLS=tcp ALLOW_TCP=1 $bin/coll
ranks "bulks between near ranks, 2" -n 2 $bin/bulk
ranks "bulks between near ranks, 4" -n 4 $bin/bulk
ranks "bulks between far ranks" -n 3 $bin/bulk 1
ranks "bulks between near and far ranks" -n 4 --nodes 2 $bin/bulk
ranks "bulks over a lane without puts" -n 3 env UCX_TLS=tcp ALLOW_TCP=1 $bin/bulk
ranks "bulks over a lane without puts, shuffled" -n 3 env UCX_TLS=tcp ALLOW_TCP=1 $bin/bulk 0 23
ranks "bulks, near, shuffled" -n 3 $bin/bulk 0 21
ranks "bulks, far, shuffled" -n 3 $bin/bulk 1 22
ranks "window of a rank alone" -n 1 $bin/window 0 0 near
ranks "windows between near ranks" -n 2 $bin/window 0 0 near
ranks "windows between near ranks, 4" -n 4 $bin/window 0 0 near
ranks "windows between far ranks" -n 4 $bin/window 1 0 far
ranks "windows between near and far ranks" -n 4 --nodes 2 $bin/window 0 0 mixed
ranks "windows over a lane without puts" -n 3 env UCX_TLS=tcp ALLOW_TCP=1 $bin/window 0 0 far
for seed in 13 14; do
    ranks "windows over a lane without puts, shuffled, seed $seed" -n 3 \
        env UCX_TLS=tcp ALLOW_TCP=1 $bin/window 0 $seed far
done
ranks "windows over a lane without puts, short segments" -n 3 \
    env UCX_TLS=tcp ALLOW_TCP=1 UCX_TCP_RX_SEG_SIZE=8K $bin/window 0 15 far
ranks "near windows, shuffled" -n 3 $bin/window 0 11 near
ranks "far windows, shuffled" -n 3 $bin/window 1 12 far
refused "TCP between ranks of a node" 78 "would talk over TCP" \
    -n 2 env UCX_TLS=tcp $bin/coll
