# SPDX-License-Identifier: Apache-2.0
# A rank is killed or stopped in every phase, on a real Slurm: all are out within 5 s, the
# cause is named, reason.json is there, no process and no shared memory is left.
load testbed
setup_file() {
    testbed_start
    if ldd "$top_builddir/sluice" | grep -q 'lib[at]san'; then
        skip "a sanitizer must be the first library; nothing else can be preloaded"
    fi
    export PATH=$top_srcdir/slurm:$PATH
    cd "$TB"
    cp "$top_srcdir/LICENSE" text.txt
    sluice data build --validation 0.1 --out corpus.h5 text.txt >data.log
    cp "$top_srcdir/tests/train/tiny.json" "$top_srcdir/tests/train/run.yaml" .
    export KILL_AT=$top_builddir/tests/slurm/.libs/kill_at.so
}
teardown_file() { testbed_stop; }
setup() { cd "$TB"; }

shared_memory() { { ipcs -m | awk '$1 ~ /^0x/ && $6 == 0 {print $2}'; ls /dev/shm; } | sort; }
processes() { pgrep -f "run.dir=$TB/" || true; }

# dies RANK PHASE STEP SIGNAL: runs until that happens; fills rc and seconds
dies() {
    local dir=$TB/$2-$1-$4
    shared_memory >shm.before
    rm -rf "$dir" mark
    rc=0
    KILL_RANK=$1 KILL_PHASE=$2 KILL_STEP=$3 KILL_SIGNAL=$4 KILL_MARK=$TB/mark LD_PRELOAD=$KILL_AT \
        timeout 60 srun -N2 -n4 --mpi=pmix --kill-on-bad-exit=0 sluice train run.yaml \
        run.dir="$dir" parallel.ep=4 train.steps=100000 train.validate_every=2 \
        checkpoint.every=2 >kill.log 2>&1 || rc=$?
    if [ "$4" -eq 19 ]; then # a stopped process cannot leave; what is left is only it
        pkill -KILL -f "run.dir=$dir " || true
    fi
    seconds=$(awk -v m="$(cat mark)" -v r="$(stat -c %.Y "$dir/reason.json")" 'BEGIN {print r - m}')
}

# out RANK PHASE SIGNAL
out() {
    local dir=$TB/$2-$1-$3 now
    now=$(date +%s.%N)
    if ! {
        grep -q "\"rank\": $1," "$dir/reason.json" &&
            grep -q '"code": 81' "$dir/reason.json" &&
            grep -q '"host": "c[12]"' "$dir/reason.json" &&
            [ "$(grep -c 'sluice.*error: ' kill.log)" -eq 1 ] &&
            awk -v now="$now" -v m="$(cat mark)" 'BEGIN {print "# out after", now - m, "s"; exit !(now - m < 5)}' >&3 &&
            [ -z "$(processes)" ]
    }; then
        cat kill.log "$dir/reason.json" >&2
        processes >&2
        return 1
    fi
    shared_memory >shm.after
    diff shm.before shm.after >&2
}

for_ranks() { # for_ranks PHASE STEP: the first, a middle and the last rank
    local rank
    for rank in 0 1 3; do
        dies $rank "$1" "$2" 9
        out $rank "$1" 9
    done
}

@test "killed in the first step" { for_ranks step 0; }
@test "killed inside an exchange" { for_ranks exchange 1; }
@test "killed in validation" { for_ranks validation 2; }
@test "killed inside a save; the folder resumes" {
    for_ranks save 4
    srun -N2 -n4 --mpi=pmix sluice train run.yaml run.dir="$TB/save-3-9" parallel.ep=4 train.steps=6 \
        checkpoint.every=2 >resume.log 2>&1 || { cat resume.log >&2; return 1; }
    grep -q resumed resume.log
}
@test "stopped in a step" {
    dies 2 step 1 19
    grep -q '"rank": 2,' "$TB/step-2-19/reason.json"
    grep -q '"code": 81' "$TB/step-2-19/reason.json"
    awk -v s="$seconds" 'BEGIN {print "# known after", s, "s"; exit !(s < 5)}' >&3
    [ -z "$(processes)" ]
    shared_memory >shm.after
    diff shm.before shm.after >&2
}
@test "killed in bootstrap: the batch template says so" {
    for rank in 0 1 3; do
        dir=$TB/boot-$rank
        cat >boot.sh <<SH
#!/bin/bash
export SLUICE_RETRIES=0 KILL_RANK=$rank KILL_PHASE=bootstrap KILL_STEP=0 KILL_SIGNAL=9
export KILL_MARK=$TB/mark LD_PRELOAD=$KILL_AT
exec $top_srcdir/slurm/sluice-job run.yaml run.dir=$dir parallel.ep=4
SH
        rm -f mark
        id=$(sbatch --parsable -N2 -n4 --output=boot.log boot.sh)
        wait_for 30 job_is "$id" COMPLETED FAILED
        [ -s mark ]
        grep -q '"phase": "bootstrap"' "$dir/reason.json" || { cat boot.log >&2; return 1; }
        [ -z "$(processes)" ]
    done
}
