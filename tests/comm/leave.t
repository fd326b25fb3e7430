#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A rank dies, hangs or refuses: all are out within 5 s, one line names rank, host, phase
# and cause, reason.json says the same, nothing is left behind.
. "$top_srcdir/tests/comm/ranks.sh"
bin=$top_builddir/tests/comm
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
quick=4 # a process that ends; three missed beats are for one that hangs

# Shared memory that nobody is attached to, and files of UCX.
left_over() {
    ipcs -m | awk '$6 == 0 && NF >= 6 && $1 ~ /^0x/ { n++ } END { print n + 0 }'
    ls /dev/shm | grep -c ucx_shm
}

# leaves NAME CODE RANK PHASE CAUSE MAX-SECONDS LAUNCH-ARGUMENTS...: MAX from the moment
# the rank acts until the last rank is gone.
leaves() {
    name=$1 code=$2 rank=$3 phase=$4 cause=$5 most=$6
    shift 6
    rm -rf "$scratch/run"
    mkdir "$scratch/run"
    "$launch" -v -t 20 "$@" "$scratch/run" >"$scratch/out" 2>&1
    rc=$?
    cat "$scratch/run/reason.json" >>"$scratch/out" 2>&1
    worst=$(awk '/^launch: started/ { start = $4 } /^leave: acts/ { acts = $4 }
        /^launch: rank/ { if ($8 > m) m = $8 } END { print start + m - acts }' "$scratch/out")
    echo "out after $worst s" >>"$scratch/out"
    lines=$(grep -c '^sluice.*error' "$scratch/out")
    bad=
    # the codes of the ranks that were not killed
    awk -v code="$code" -v rank="$rank" '/^launch: rank/ && $3 != rank && $6 != code { bad = 1 }
        END { exit bad }' "$scratch/out" || bad="$bad codes,"
    awk -v w="$worst" -v m="$most" 'BEGIN { exit !(w <= m) }' || bad="$bad $worst s,"
    [ "$lines" -eq 1 ] || bad="$bad $lines lines,"
    grep -q "^sluice.*error: fail: rank $rank on .*in $phase: .*$cause" "$scratch/out" ||
        bad="$bad line,"
    grep -q "\"rank\": $rank" "$scratch/run/reason.json" || bad="$bad reason.json rank,"
    grep -q "\"phase\": \"$phase\"" "$scratch/run/reason.json" || bad="$bad reason.json phase,"
    grep -q "$cause" "$scratch/run/reason.json" || bad="$bad reason.json cause,"
    [ "$(ls "$scratch/run")" = reason.json ] || bad="$bad files in the run folder,"
    [ -z "$bad" ] || echo "wrong: $bad code $rc" >>"$scratch/out"
    [ -z "$bad" ]
    report "$name" $?
}

plan 15
before=$(left_over)
"$launch" -t 20 -n 3 $bin/leave none 0 - "$scratch" >"$scratch/out" 2>&1 &&
    [ ! -s "$scratch/out" ] && [ ! -e "$scratch/reason.json" ]
report "nobody fails, nothing is said" $?
for r in 0 1 3; do
    leaves "rank $r of 4 killed, others in a barrier" 81 $r exchange "gone\|lost" $quick \
        -n 4 $bin/leave kill $r barrier
done
leaves "rank 2 of 4 killed, others wait for a signal" 81 2 exchange "gone\|lost" $quick \
    -n 4 --nodes 2 $bin/leave kill 2 window
leaves "rank 1 of 2 killed" 81 1 exchange "gone\|lost" $quick -n 2 $bin/leave kill 1 barrier
leaves "rank 1 leaves without a word" 81 1 exchange "gone\|lost" $quick \
    -n 3 $bin/leave exit 1 window
leaves "rank 1 stopped" 81 1 exchange "no sign of life" 5 -n 3 $bin/leave stop 1 barrier
leaves "rank 0 stopped" 81 0 exchange "no sign of life" 5 -n 4 $bin/leave stop 0 window
leaves "rank 2 killed, main threads busy" 81 2 exchange "gone\|lost" 5 \
    -n 3 $bin/leave kill 2 busy
leaves "rank 1 killed, over TCP" 81 1 exchange "gone\|lost" $quick \
    -n 3 env UCX_TLS=tcp ALLOW_TCP=1 $bin/leave kill 1 barrier
leaves "rank 2 refuses" 79 2 exchange "the planted refusal" $quick -n 4 $bin/leave refuse 2 window
leaves "rank 0 refuses" 79 0 exchange "the planted refusal" $quick -n 4 $bin/leave refuse 0 barrier
leaves "rank 1 has an early error" 78 1 bootstrap "the planted early error" $quick \
    -n 4 $bin/leave early 1 -
[ "$(left_over)" = "$before" ]
report "no shared memory is left" $?
