# SPDX-License-Identifier: Apache-2.0
# sluice-job: every way a step can end, and what becomes of the job. The step is played
# by acting-sluice; the engine itself runs in train.bats.
load testbed
setup_file() {
    testbed_start
    mkdir "$TB/bin"
    ln -s "$top_srcdir/tests/slurm/acting-sluice" "$TB/bin/sluice"
    ln -s "$top_srcdir/slurm/sluice-job" "$TB/bin/sluice-job"
    export PATH=$TB/bin:$PATH
}
teardown_file() { testbed_stop; }
setup() {
    run_dir=$(mktemp -d "$TB/run.XXXX")
    log=$run_dir/log
}

# submit ACT [ENV=VALUE ...]: sets id
submit() {
    local act=$1
    shift
    printf 'dir=%s\nact=%s\n' "$run_dir" "$act" >"$run_dir/run"
    id=$(env "$@" sbatch --parsable --output="$log" \
        "$top_srcdir/slurm/sluice-train.sbatch" "$run_dir/run")
}

# ends_as STATE CODE
ends_as() {
    wait_for 60 job_is "$id" COMPLETED FAILED SPECIAL_EXIT
    job_is "$id" "$1" && [ "$(job_exit "$id")" -eq "$2" ] && return
    scontrol -o show job "$id" >&2
    cat "$log" >&2
    return 1
}

@test "0: done; every rank ran, with its cpus and the job's end time" {
    submit done
    ends_as COMPLETED 0
    [ "$(grep -c 'rank [0-3] cpus 1 end [0-9]\{10\}' "$log")" -eq 4 ]
    grep -q 'sluice-job: done' "$log"
    [ ! -e "$run_dir/reason.json" ]
    [ -z "$(find "$run_dir" -name '.started*')" ]
}

@test "75: requeued by the site's rule until it is done, one log" {
    submit again
    ends_as COMPLETED 0
    [ "$(grep -c 'requeued, it goes on' "$log")" -eq 2 ]
    [ "$(grep -c 'start [123]: 4 ranks on 2 nodes' "$log")" -eq 3 ]
}

@test "76: held for a person" {
    submit code-76
    ends_as SPECIAL_EXIT 76
    grep -q 'scontrol release' "$log"
    scancel "$id"
}

@test "78: ends with its own code and says what to do" {
    submit code-78
    ends_as FAILED 78
    grep -q 'correct what the message names' "$log"
    [ ! -e "$run_dir/reason.json" ]
}

@test "a rank killed before reason.json can be written: phase bootstrap" {
    submit bootstrap SLUICE_RETRIES=0
    ends_as FAILED 81
    grep -q '"phase": "bootstrap"' "$run_dir/reason.json"
    grep -q '"rank": 1,' "$run_dir/reason.json"
    grep -q 'no restart is left' "$log"
}

@test "a rank killed later: decided by reason.json, restarts are counted" {
    submit peer SLUICE_RETRIES=1
    ends_as FAILED 81
    [ "$(grep -c 'a rank failed (rank 2 on c2, exchange: killed); requeued' "$log")" -eq 1 ]
    grep -q 'no restart is left' "$log"
}

@test "an old reason.json does not decide" {
    echo '{"code": 81, "rank": 0, "host": "c1", "phase": "step", "cause": "old", "time": 1}' \
        >"$run_dir/reason.json"
    submit code-79
    ends_as FAILED 79
    [[ $(<"$log") != *": old"* ]]
}

@test "USR1 to the batch script reaches every rank, and the job goes on" {
    submit signal
    four_ready() { [ "$(grep -c ready "$run_dir/ready" 2>/dev/null)" = 4 ]; }
    wait_for 20 four_ready
    scancel --batch --signal=USR1 "$id"
    ends_as COMPLETED 0
    [ "$(grep -c 'rank [0-3] USR1' "$log")" -eq 4 ]
}

@test "mistakes are said before anything starts" {
    run sluice-job "$run_dir/run"
    [ "$status" -eq 78 ]
    [[ $output == *"not inside a Slurm job"* ]]
    id=$(sbatch --parsable --output="$log" "$top_srcdir/slurm/sluice-train.sbatch" nothing)
    ends_as FAILED 78
    grep -q 'nothing: no such file' "$log"
}
