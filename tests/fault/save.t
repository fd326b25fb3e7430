#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SIGKILL of one rank at every point of a save: the newest checkpoint or the one before is
# always loadable and proven, and the next save works and leaves nothing behind.
. "$top_srcdir/tests/comm/ranks.sh"

OMP_NUM_THREADS=1
export OMP_NUM_THREADS
victim=$top_builddir/tests/fault/victim
good=$top_builddir/tests/store/ranks
base=$scratch/base
run=$scratch/run

# killed POINT RANK COUNT STEP EXPECTED: rank RANK dies at the COUNTth passing of POINT while
# 2 ranks save STEP; then a job that starts finds the step EXPECTED (23: one of both).
killed() {
    rm -rf "$run"
    cp -a "$base" "$run"
    {
        "$launch" -t 60 -n 2 env SLUICE_FAIL_AT="$1:$2:$3" "$victim" save "$run" "$4" \
            $((100 + $4)) 1
        rc=$?
        echo "launch ended with $rc"
        test $rc -eq 137 &&
            found=$("$launch" -t 60 -n 2 "$good" find "$run" 100 0) &&
            echo "found $found, want $5" && expr "$found" : "step-0000000[$5]$" &&
            "$launch" -t 60 -n 2 "$good" save "$run" 4 104 0 &&
            test "$("$good" find "$run" 100 0)" = step-00000004 &&
            ls "$run/checkpoints" "$run" && ! ls "$run/checkpoints" | grep tmp &&
            ! ls "$run" | grep lock
    } >"$scratch/out" 2>&1
    report "rank $2 dies at $1 ($3), step $4: step $5 is there" $?
}

plan 26
"$launch" -t 60 -n 2 "$good" save "$base" 1 101 0 >"$scratch/out" 2>&1 &&
    "$launch" -t 60 -n 2 "$good" save "$base" 2 102 1 >>"$scratch/out" 2>&1
report "two checkpoints to fall back on" $?

old=2
new=3
for point in save:folder save:file save:reserved; do
    killed $point 0 1 3 $old
done
for rank in 0 1; do
    killed save:planned $rank 1 3 $old
    killed save:data $rank 1 3 $old
    killed save:data $rank 40 3 $old
    killed save:fragments $rank 1 3 $old
    killed save:before-fsync $rank 1 3 $old
done
killed save:crcs 0 1 3 $old
# member 0 has all it needs by now: it may or may not commit before it hears of the death
killed save:crcs 1 1 3 23
killed save:blocks 0 1 3 $old
killed save:manifest 0 1 3 $old
killed save:renamed 0 1 3 $new
killed save:committed 0 1 3 $new
killed save:latest 0 1 3 $new
killed keep:renamed 0 1 3 $new
# saving a step again, which changes places with the one that is there
killed save:manifest 0 1 2 $old
killed save:exchanged 0 1 2 $old

# A rank that stops takes part no more; the others leave, the old one stays.
rm -rf "$run"
cp -a "$base" "$run"
"$launch" -t 60 -n 3 "$good" save "$run" 3 103 1 >"$scratch/out" 2>&1 &&
    test "$("$good" find "$run" 100 2)" = step-00000003
report "nobody dies: the new one is there" $?

# A disk that is full, for real, where a small file system can be mounted.
cat >"$scratch/full" <<'FULL'
set -e
mount -t tmpfs -o size=6m tmpfs "$1"
"$2" save "$1/run" 1 101 0
fill=0
for kb in 4096 512 64 8 4; do
    while dd if=/dev/zero of="$1/fill.$fill" bs=1k count=$kb 2>/dev/null; do
        fill=$((fill + 1))
    done
    rm "$1/fill.$fill"
    # with this much filled, a save fails, says so and keeps the old one
    if "$2" save "$1/run" 2 102 0 2>"$1.err"; then echo "saved on a full disk"; exit 1; fi
    cat "$1.err"
    grep -q 'No space left on device' "$1.err"
    test "$("$2" find "$1/run" 100 0)" = step-00000001
    test "$(ls "$1/run/checkpoints" | wc -l)" -eq 2
done
rm "$1"/fill.*
echo done
FULL
mkdir "$scratch/disk"
if unshare -m true 2>/dev/null; then ns="unshare -m"; else ns="unshare -rm"; fi
if ! $ns sh -c 'mount -t tmpfs tmpfs "$1"' - "$scratch/disk" 2>/dev/null; then
    count=$((count + 1))
    echo "ok $count - a full disk # SKIP no small file system can be mounted here"
else
    $ns sh "$scratch/full" "$scratch/disk" "$good" >"$scratch/out" 2>&1
    report "a full disk: the save fails, the old checkpoint stays" $?
fi
