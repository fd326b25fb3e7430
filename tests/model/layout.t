#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The same global batch on several ranks and on one: losses and gradients agree, whatever
# the layout, the routing, the window and the path.
. "$top_srcdir/tests/comm/ranks.sh"

OMP_NUM_THREADS=1
export OMP_NUM_THREADS
layout=$top_builddir/tests/model/layout

plan 87
ranks "1 rank" -n 1 $layout --scope micro
for scope in none micro sequence; do
    ranks "2 ranks, aux $scope" -n 2 $layout --scope $scope
    ranks "2 ranks, ep 2, aux $scope" -n 2 $layout --ep 2 --scope $scope
    ranks "4 ranks, ep 2, aux $scope" -n 4 $layout --ep 2 --scope $scope
    ranks "4 ranks, ep 4, aux $scope" -n 4 $layout --ep 4 --scope $scope
done
ranks "7 experts over 4 ranks, top 3" -n 4 $layout --ep 4 --experts 7 --topk 3
ranks "5 experts over 2 ranks, top 1" -n 4 $layout --ep 2 --experts 5 --topk 1
ranks "all tokens to two experts" -n 4 $layout --ep 4 --one-expert
ranks "far" -n 4 $layout --ep 4 --far
ranks "several rounds" -n 4 $layout --ep 4 --window-rows 6 --scope micro
ranks "several rounds, far, recompute" -n 2 $layout --ep 2 --window-rows 9 --far --recompute
ranks "20 steps, 2 ranks" -n 2 $layout --steps 20 --scope micro
ranks "20 steps, ep 2" -n 4 $layout --ep 2 --scope micro --steps 20
ranks "20 steps, 7 experts, ep 4" -n 4 $layout --ep 4 --experts 7 --topk 3 --scope sequence --steps 20
ranks "20 steps, cpu" -n 4 $layout --ep 4 --backend cpu --scope micro --steps 20

# Every configuration of the other families that is compared with Transformers.
golden=$top_srcdir/tests/data/golden
for dir in "$golden"/mixtral-* "$golden"/olmoe-*; do
    of=${dir##*/}
    ranks "$of, 4 ranks" -n 4 $layout --config "$dir" --scope micro --backend cpu
    ranks "$of, ep 2" -n 4 $layout --config "$dir" --ep 2 --scope sequence --recompute
    case $of in
    *-e3*) ranks "$of, ep 2, cpu" -n 2 $layout --config "$dir" --ep 2 --backend cpu ;;
    *) ranks "$of, ep 4" -n 4 $layout --config "$dir" --ep 4 --scope micro --backend cpu ;;
    esac
done
for of in mixtral-e9k3-kv1-aux olmoe-e7k3-clip-packed; do
    ranks "$of, ep 4, far, several rounds" -n 4 $layout --config "$golden/$of" --ep 4 \
        --far --window-rows 9
    ranks "$of, 20 steps, ep 2" -n 4 $layout --config "$golden/$of" --ep 2 --steps 20 \
        --scope micro --backend cpu
    ranks "$of, 20 steps, ep 4" -n 4 $layout --config "$golden/$of" --ep 4 --steps 20
done

# The strict backend runs the same kernels late, with memory closed and weights hidden: the
# same bits, or something was read too early, or without being acquired.
same_bits() {
    name=$1
    shift
    "$launch" -t 100 "$@" --backend ref >"$scratch/out" 2>&1 &&
        grep ^step "$scratch/out" >"$scratch/ref" &&
        "$launch" -t 100 "$@" --backend strict >"$scratch/out" 2>&1 &&
        grep ^step "$scratch/out" >"$scratch/strict" &&
        cmp "$scratch/ref" "$scratch/strict" >>"$scratch/out" 2>&1
    report "$name" $?
}
same_bits "strict, 1 rank" -n 1 $layout --scope sequence --steps 3
same_bits "strict, ep 2, recompute" -n 2 $layout --ep 2 --scope micro --recompute --steps 3
for of in mixtral-e7k5-window-aux olmoe-e9k6-clip-tied; do
    same_bits "strict, $of, ep 2, recompute" -n 2 $layout --config "$golden/$of" --ep 2 \
        --scope micro --recompute --steps 3
done
