# SPDX-License-Identifier: Apache-2.0
# The testbed itself: what the other Slurm tests stand on.
load testbed
setup_file() { testbed_start; }
teardown_file() { testbed_stop; }

@test "two nodes are usable and each has a TMPDIR of its own" {
    run srun -N2 --ntasks-per-node=1 sh -c 'echo $SLURMD_NODENAME $TMPDIR'
    [ "$status" -eq 0 ]
    [ "$(sort <<<"$output")" = "c1 $TB/nodetmp/c1
c2 $TB/nodetmp/c2" ]
}

@test "the PMIx plug-in serves both nodes" {
    run srun -N2 --ntasks-per-node=2 --mpi=pmix sh -c 'echo $PMIX_RANK'
    [ "$status" -eq 0 ]
    [ "$(sort <<<"$output" | tr '\n' ' ')" = "0 1 2 3 " ]
}

@test "exit code 75 requeues, 76 holds, others end the job" {
    cat >"$TB/job" <<'EOF'
#!/bin/sh
exit $((SLURM_RESTART_COUNT > 0 ? 9 : 75))
EOF
    id=$(sbatch --parsable --requeue -o /dev/null "$TB/job")
    wait_for 30 job_is "$id" FAILED
    [ "$(job_exit "$id")" -eq 9 ]
    id=$(sbatch --parsable --requeue -o /dev/null --wrap 'exit 76')
    wait_for 20 job_is "$id" SPECIAL_EXIT
    scancel "$id"
}

@test "a killed node goes down and comes back" {
    "$top_srcdir/slurm/testbed" stop-node "$TB" c2
    run "$top_srcdir/slurm/testbed" stop-node "$TB" c2
    [ "$status" -eq 1 ]
    scontrol update nodename=c2 state=down reason=test
    run "$top_srcdir/slurm/testbed" status "$TB"
    [ "$status" -eq 1 ]
    "$top_srcdir/slurm/testbed" start-node "$TB" c2
    wait_for 20 "$top_srcdir/slurm/testbed" status "$TB"
    srun -N2 true
}

@test "stop leaves no process, and a second testbed can run beside the first" {
    other=$(mktemp -d "$TB/o.XXXX")
    "$top_srcdir/slurm/testbed" start "$other" --nodes 1
    SLURM_CONF=$other/slurm.conf srun -N1 true
    pids=$(cat "$other"/run/*.pid)
    "$top_srcdir/slurm/testbed" stop "$other"
    for pid in $pids; do
        if grep -qs "SLURM_CONF=$other" "/proc/$pid/environ"; then return 1; fi
    done
    srun -N2 true
}

@test "mistakes are said in one line" {
    run "$top_srcdir/slurm/testbed" start "$TB" --nodes 0
    [ "$status" -eq 1 ]
    [ "${#lines[@]}" -eq 1 ]
    run "$top_srcdir/slurm/testbed" status "$TB/nothing"
    [ "$status" -eq 1 ]
    run "$top_srcdir/slurm/testbed" start "$TB"
    [ "$status" -eq 1 ]
    [[ $output == *"one runs in $TB already"* ]]
}
