# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Shared by the tests that need a Slurm: `load testbed`, then testbed_start in
# setup_file and testbed_stop in teardown_file. Sets SLURM_CONF and TB (the directory).
# SLC_KEEP_TESTBED=1 leaves the directory for a look at the logs.
top_srcdir=${top_srcdir:-$(cd "$BATS_TEST_DIRNAME/../.." && pwd)}
top_builddir=${top_builddir:-$top_srcdir/build}

testbed_start() { # testbed_start [--nodes N ...]; skips the file where Slurm is missing
    TB=$(mktemp -d "${TMPDIR:-/tmp}/slc-testbed.XXXXXX")
    # TaskProlog and node folders must be reachable for the job's user.
    chmod 755 "$TB"
    export TB
    "$top_srcdir/slurm/testbed" start "$TB" "$@" 2>"$TB/start.log" || {
        [ $? -eq 77 ] && skip "$(cat "$TB/start.log")"
        cat "$TB/start.log" >&2
        return 1
    }
    export SLURM_CONF=$TB/slurm.conf
    unset OMP_NUM_THREADS # of the other tests; jobs have what Slurm grants
    export PATH=$top_builddir:$PATH
}

testbed_stop() {
    [ -n "${TB:-}" ] || return 0
    "$top_srcdir/slurm/testbed" stop "$TB" 2>/dev/null
    [ -n "${SLC_KEEP_TESTBED:-}" ] || rm -rf "$TB"
}

# wait_for SECONDS COMMAND...: until the command succeeds
wait_for() {
    local i max=$(($1 * 5))
    shift
    for ((i = 0; i < max; i++)); do
        "$@" && return
        sleep 0.2
    done
    echo "after $((max / 5)) s still not: $*" >&2
    return 1
}

job_is() { # job_is JOBID STATE...
    local state id=$1
    state=$(scontrol -o show job "$id" | sed 's/.*JobState=\([A-Z_]*\).*/\1/')
    shift
    case " $* " in *" $state "*) return 0 ;; esac
    return 1
}

job_exit() { # job_exit JOBID: its exit code
    scontrol -o show job "$1" | sed 's/.* ExitCode=\([0-9]*\):.*/\1/'
}
