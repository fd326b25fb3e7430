# SPDX-License-Identifier: Apache-2.0
# TAP for tests that run several ranks. Sourced.
launch="$top_builddir/tests/launch/launch"
count=0
scratch=$(mktemp -d) || exit 99
trap 'rm -rf "$scratch"' EXIT

plan() { echo "1..$1"; }

# report NAME RC: the output of the run is in $scratch/out
report() {
    count=$((count + 1))
    if [ "$2" -eq 0 ]; then
        echo "ok $count - $1"
    else
        echo "not ok $count - $1"
        sed 's/^/# /' "$scratch/out" | head -60
    fi
}

# ranks NAME LAUNCH-ARGUMENTS...: all ranks must end with 0
ranks() {
    name=$1
    shift
    "$launch" -t 100 "$@" >"$scratch/out" 2>&1
    report "$name" $?
}

# refused NAME CODE TEXT LAUNCH-ARGUMENTS...: the job ends with CODE and says TEXT once
refused() {
    name=$1 code=$2 text=$3
    shift 3
    "$launch" -t 60 "$@" >"$scratch/out" 2>&1
    rc=$?
    [ $rc -eq "$code" ] && [ "$(grep -c "$text" "$scratch/out")" -eq 1 ]
    report "$name" $?
}
