#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# After the first step no call from Sluice's own objects allocates, and memory in use stays
# flat. Library calls are reported.
. "${top_srcdir:-.}/tests/train/functions.sh"
counter=$(cd "$build" && pwd)/tests/train/.libs/count_malloc.so
planted=$(cd "$build" && pwd)/tests/train/planted
if ldd "$sluice" | grep -q 'lib[at]san'; then
    echo "1..0 # SKIP a sanitizer has its own malloc"
    exit 0
fi
echo 1..9

# counted PROGRAM RANKS PATH [DTYPE]: 19 steps after the first, validations among them, calls in
# calls.PID. PATH message: over TCP
counted() {
    local path=$3 tcp=()
    rm -rf r calls.*
    [ "$path" != message ] || { path=auto tcp=(UCX_TLS=tcp,self); }
    COUNT_MALLOC_OUT=$tmp/calls COUNT_MALLOC_LAST=20 timeout 100 "$launch" -n "$2" env LD_PRELOAD="$counter" "${tcp[@]}" "$1" train \
        "$here/run.yaml" model.config="$here/tiny.json" data.corpus="$tmp/corpus.h5" run.dir=r \
        train.steps=20 train.global_batch=8 train.validate_every=8 moe.path="$path" parallel.allow_tcp="$([ "$3" = message ] && echo true || echo false)" \
        run.dtype="${4:-fp32}" >log 2>&1 || return 1
    sed 's/^/# /' calls.*
    [ "$(cat calls.* | grep -c '^steps 20$')" -eq "$2" ]
}
# The save at the end comes after the steps and is not counted.
own() { cat calls.* | awk -v name="$(basename "$1")" '$1 == name {n += $3} END {print n + 0}'; }

for path in auto far; do
    counted "$sluice" 4 $path && [ "$(own "$sluice")" -eq 0 ]
    result "4 ranks, path $path: the program itself allocates nothing after step 1"
done
for n in 2 4; do
    counted "$sluice" $n message && [ "$(own "$sluice")" -eq 0 ] &&
        grep -q "^exchange: message (tcp) to $((n - 1)) peer" log
    result "$n ranks, by messages over TCP: the program itself allocates nothing after step 1"
done
counted "$sluice" 4 auto bf16 && [ "$(own "$sluice")" -eq 0 ]
result "4 ranks, bf16: the program itself allocates nothing after step 1"
SLUICE_CPU_ISA=avx2 counted "$sluice" 2 auto bf16 && [ "$(own "$sluice")" -eq 0 ]
result "2 ranks, bf16 converted to fp32: nor does it then"
counted "$sluice" 2 auto && [ "$(own "$sluice")" -eq 0 ]
result "2 ranks: the program itself allocates nothing after step 1"
counted "$planted" 2 auto && [ "$(own "$planted")" -gt 0 ]
result "a planted allocation is found"

rm -rf r
"$sluice" train "$here/run.yaml" model.config="$here/tiny.json" data.corpus="$tmp/corpus.h5" \
    run.dir=r parallel.ep=1 train.micro_batch=8 train.steps=100000 >log 2>&1 &
pid=$!
rss_at() {
    for _ in $(seq 2000); do
        grep -q "^{\"step\": $1, " r/metrics.jsonl 2>/dev/null && break
        sleep 0.01
    done
    awk '/VmRSS/ {print $2}' /proc/$pid/status
}
early=$(rss_at 2) late=$(rss_at 200)
kill -TERM $pid
wait $pid
echo "# resident after step 2: $early kB, after step 200: $late kB"
[ "$early" -gt 0 ] && [ $((late - early)) -lt 1024 ]
result "resident memory is flat from step 2 to 200"
