#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Waiting costs next to nothing, also where ranks share cores: four on two.
. "$top_srcdir/tests/comm/ranks.sh"

OMP_NUM_THREADS=1
export OMP_NUM_THREADS
bin=$top_builddir/tests/moe
two="taskset -c $(taskset -cp $$ | sed 's/.*: //; s/-/,/g' | awk -F, '{print $1 "," $NF}')"

plan 14
for what in barrier allreduce receive exchange combine; do
    ranks "4 ranks on 2 cores, one sleeps: $what" -n 4 $two $bin/waiting $what sleep
done
for what in allreduce exchange combine; do
    ranks "4 ranks on 2 cores, one is stopped: $what" -n 4 $two $bin/waiting $what stop
    ranks "the same over TCP: $what" -n 4 \
        env UCX_TLS=tcp,self ALLOW_TCP=1 $two $bin/waiting $what stop
done
for what in allreduce exchange combine; do
    ranks "2 ranks with a core each, one sleeps: $what" -n 2 $two $bin/waiting $what sleep
done
