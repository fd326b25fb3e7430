#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# In a run of 4 ranks on 2 cores one rank stands still for a while: the others wait without
# using the cores, and the run goes on as if nothing had happened.
. "${top_srcdir:-.}/tests/train/functions.sh"
export OMP_NUM_THREADS=1
cores=$(taskset -cp $$ | sed 's/.*: //; s/-/,/g' | awk -F, '{print $1 "," $NF}')
echo 1..4

# ticks PID: user and system time so far, in 1/100 s
ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{print $12 + $13}'; }

# rank_pid N: of the run started by this script
rank_pid() {
    local p
    for p in $(cat /proc/"$job"/task/*/children 2>/dev/null); do
        tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -qx "PMIX_RANK=$1" && echo "$p"
    done
}
steps_done() { cat r/metrics.jsonl 2>/dev/null | grep -c '"loss"'; }
wait_for_steps() { # wait_for_steps N
    local i
    for ((i = 0; i < 300; i++)); do
        [ "$(steps_done)" -lt "$1" ] || return 0
        sleep 0.05
    done
    return 1
}

args=(train "$here/run.yaml" model.config="$here/tiny.json" data.corpus="$tmp/corpus.h5"
    train.steps=100 train.global_batch=16 parallel.ep=4)
taskset -c "$cores" timeout 100 "$launch" -n 4 "$sluice" "${args[@]}" run.dir=whole >log 2>&1
result "an undisturbed run"

taskset -c "$cores" "$launch" -n 4 "$sluice" "${args[@]}" run.dir=r >log 2>&1 &
job=$!
wait_for_steps 20
slow=$(rank_pid 3)
kill -STOP "$slow"
at=$(steps_done)
sleep 0.3 # what is under way ends
most=0
for r in 0 1 2; do
    pid=$(rank_pid $r)
    before[r]=$(ticks "$pid")
done
sleep 1.5
for r in 0 1 2; do
    used=$(($(ticks "$(rank_pid $r)") - before[r]))
    echo "# rank $r used $used of 150 ticks while rank 3 stood still"
    [ "$used" -le "$most" ] || most=$used
done
[ "$(steps_done)" -le $((at + 1)) ] # they did wait
result "no step is done while a rank stands still"
[ "$most" -lt 15 ]
result "ranks that wait use less than a tenth of a core"
kill -CONT "$slow"
wait "$job" && losses whole 0 >a && losses r 0 >b && [ "$(wc -l <b)" -eq 100 ] && cmp a b
result "the run ends, with the same losses"
