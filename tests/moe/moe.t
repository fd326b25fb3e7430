#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The token exchange between real processes, by the launcher for tests.
. "$top_srcdir/tests/comm/ranks.sh"

# One thread a rank: what is tested here is talk, not arithmetic.
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
bin=$top_builddir/tests/moe
seeds=${SLC_TEST_SEEDS:-200}
fewer=$(((seeds + 3) / 4))

# mutant NAME PROGRAM ARGUMENTS...: a wait is missing in it, so sums must come out wrong
mutant() {
    name=$1
    shift
    "$launch" -t 60 "$@" >"$scratch/out" 2>&1
    [ $? -eq 1 ] && grep -q ' differs by ' "$scratch/out"
    report "$name" $?
}

plan 52
x=$bin/exchange
some="chaos=1 seed=1 seeds=$fewer far=1 layers=3 E=7 K=2"
ranks "alone" -n 1 $x E=10 K=4 slots=2
for n in 2 4; do
    ranks "$n near ranks" -n $n $x expect=near,one window=60
    ranks "$n near ranks, window by the factor" -n $n $x expect=near T=40 H=17 F=12 E=10 K=3
    ranks "$n far ranks" -n $n $x far=1 expect=far,one window=60 E=7 K=3
    ranks "$n ranks far by the layer's own option" -n $n $x far=2 expect=far E=7 K=3
    ranks "$n near ranks, several rounds" -n $n $x expect=near,rounds window=3 E=7 K=3
    ranks "$n far ranks, several rounds" -n $n $x far=1 expect=far,rounds window=3 E=7 K=3
    ranks "$n near ranks, every round one record" -n $n $x expect=near,rounds window=1 T=5
    ranks "$n ranks, all tokens to one expert, padding" -n $n \
        $x skew=1 padding=1 expect=near,rounds window=8
    ranks "$n ranks, all tokens to one expert, K = 1" -n $n $x skew=1 K=1 renorm=0 expect=near
    ranks "$n ranks that talk to few" -n $n $x skew=2 K=1 far=1 T=16 E=10 renorm=0 layers=4 expect=any
    ranks "$n ranks, every expert for every token" -n $n $x E=5 K=5 renorm=0 expect=near
    ranks "$n ranks, two slots in flight, several steps" -n $n \
        $x far=1 slots=2 layers=3 steps=3 window=6 E=10 K=4 expect=far,rounds
done
for path in "2 near one 60" "2 far one 60" "4 far rounds 3"; do
    set -- $path
    far=0
    [ "$2" = near ] || far=1
    ranks "bf16: $1 $2 ranks, $3 $4" -n $1 $x bf16=1 backend=ref far=$far window=$4 E=7 K=3 \
        H=33 expect=$2,$3
done
for far in "" --far; do
    ranks "rows, ids, weights and what returns, summed by the benchmark, bf16 $far" -n 2 \
        "$top_builddir/sluice" bench dispatch --bytes 64K,1M --dtype bf16 --top-k 4 $far
done
ranks "3 ranks, two slots in flight, near" -n 3 $x slots=2 layers=3 steps=2 expect=near
ranks "near and far ranks at once" -n 4 --nodes 2 $x E=10 K=4 expect=near,far
for path in 0 1; do
    for window in 3 60; do
        ranks "strict backend, same bits: far=$path, window of $window" -n 2 $x mode=bits \
            backend=ref backend2=strict far=$path window=$window E=7 K=3 expect=any
    done
done
for more in "expect=far,early E=10 K=4" "window=3 E=7 K=3" "slots=2 layers=3 steps=2 T=200 H=300 E=10 K=4"; do
    ranks "4 ranks over TCP, by messages: $more" -n 4 --nodes 4 \
        env UCX_TLS=tcp,self $x expect=far $more
done
ranks "over TCP and shared memory, the same bits on ref and strict" -n 4 --nodes 2 \
    env UCX_TLS=tcp,self,sysv,posix $x mode=bits backend=ref backend2=strict E=7 K=3 \
    layers=3 expect=any
ranks "strict backend, same bits, two slots on 3 ranks" -n 3 $x mode=bits \
    backend=ref backend2=strict slots=2 layers=3 steps=2 E=7 K=3 expect=any
ranks "post returns before any peer has posted" -n 3 $x mode=post
ranks "post returns before any far peer has posted" -n 3 $x mode=post far=1
ranks "$fewer seeds of delayed and reordered puts, 2 ranks" -n 2 \
    $x chaos=1 seed=1 seeds=$fewer far=1 window=5 layers=3 E=5 K=2 expect=far,rounds
ranks "$seeds seeds of delayed and reordered puts, 4 ranks" -n 4 \
    $x chaos=1 seed=1 seeds=$seeds far=1 layers=3 E=7 K=2 window=4 expect=far,rounds
ranks "$fewer seeds, by messages over TCP" -n 4 --nodes 4 env UCX_TLS=tcp,self \
    $x chaos=1 seed=1 seeds=$fewer layers=3 E=7 K=2 window=4 expect=far,rounds
for slots in 1 2; do
    ranks "$fewer seeds, rows with the count row, by messages over TCP, $slots in flight" -n 4 \
        --nodes 4 env UCX_TLS=tcp,self $x chaos=1 seed=1 seeds=$fewer layers=3 E=7 K=2 \
        window=60 slots=$slots expect=far,one,early
done
ranks "$fewer seeds, plans of one round, two slots" -n 4 \
    $x $some window=60 expect=far,one slots=2
ranks "$fewer seeds, ranks that talk to few" -n 4 \
    $x $some skew=2 T=16 window=8 K=1 renorm=0 expect=any
mutant "without the credit wait sums are wrong" -n 4 \
    $bin/no_credit $some window=4 expect=far,rounds
mutant "without the flush sums are wrong" -n 4 \
    $bin/no_flush $some window=60 expect=far,one
