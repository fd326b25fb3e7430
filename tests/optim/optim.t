#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The sharded optimizer on several ranks gives what one rank gives.
. "$top_srcdir/tests/comm/ranks.sh"

OMP_NUM_THREADS=1
export OMP_NUM_THREADS
bin=$top_builddir/tests/optim

plan 8
ranks "one rank" -n 1 $bin/sharded 1
ranks "2 ranks" -n 2 $bin/sharded 1
ranks "2 ranks, ep 2" -n 2 $bin/sharded 2
ranks "4 ranks, ep 2" -n 4 $bin/sharded 2
ranks "4 ranks, ep 4" -n 4 $bin/sharded 4
ranks "4 ranks, ep 2, in many small buckets" -n 4 $bin/sharded 2 5000
ranks "3 ranks, small buckets" -n 3 $bin/sharded 1 4096
ranks "4 ranks, ep 2, through host memory" -n 4 $bin/sharded 2 9000 stage
