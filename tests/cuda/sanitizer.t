#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# compute-sanitizer on the op tests: memcheck finds nothing; racecheck finds nothing in our
# kernels. "Nothing" means something because planted errors are found by the same commands.
# SANITIZED: op tests to run (all but strict, golden and prepare, which run on the host).
top=${top_srcdir:-.} build=${top_builddir:-.}
. "$top/tests/cuda/gpu.sh"
PATH=$PATH:/usr/local/cuda/bin
for tool in compute-sanitizer nvcc; do
    command -v $tool >/dev/null || { echo "1..0 # SKIP $tool is not there"; exit 0; }
done
export SLC_OP_BACKEND=cuda
tmp=$(mktemp -d) && trap 'rm -rf "$tmp"' EXIT
arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
nvcc -arch=sm_"$arch" -o "$tmp/planted" "$top/tests/cuda/planted.cu" >"$tmp/log" 2>&1 || {
    cat "$tmp/log"
    echo "Bail out! planted.cu does not compile"
    exit 1
}
n=0
result() { # NAME: reports the outcome of the command before it
    local rc=$?
    n=$((n + 1))
    if [ $rc -eq 0 ]; then echo "ok $n - $1"; else
        grep -v '^\[' "$tmp/log" | head -n 15 | sed 's/^/# /'
        echo "not ok $n - $1"
    fi
}
check() { # TOOL COMMAND...: output in $tmp/log
    local tool=$1
    shift
    timeout "${SLC_TEST_TIMEOUT:-240}" compute-sanitizer --tool "$tool" \
        --target-processes all --error-exitcode 9 --print-limit 0 "$@" >"$tmp/log" 2>&1
}
# Reports of the log, those in cuDNN's kernels and the others: its own barriers are ones that
# racecheck does not follow. A report goes on until an empty line.
reports() { # ours|cudnn
    awk -v RS='========= *\n' -v which="$1" '
        /(Invalid|Error|Warning|hazard|Leaked)/ && !/(ERROR|RACECHECK) SUMMARY/ {
            if ((which == "cudnn") == (/cudnn/ != 0)) { n++; print > "/dev/stderr" } }
        END { print n + 0 }' "$tmp/log" 2>"$tmp/reports"
}
# clean TOOL: the program ran to its end, all tests passed, and nothing of ours is reported
clean() {
    grep -q 'COMPUTE-SANITIZER' "$tmp/log" &&
        grep -q 'Synthesis: Tested.*Failing: .*0.*Crashing: .*0' "$tmp/log" &&
        [ "$(reports ours)" -eq 0 ] &&
        { [ "$1" = racecheck ] || [ "$(reports cudnn)" -eq 0 ]; }
}
tests=${SANITIZED:-$(cd "$build/tests/op" && ls test_*[a-z0-9] | grep -v '\.\|strict\|golden\|prepare')}
echo "1..$((4 + 2 * $(echo $tests | wc -w)))"
for tool in memcheck racecheck; do
    check $tool "$tmp/planted" none && grep -q 'planted none: no error' "$tmp/log"
    result "$tool: the planted program without its error is clean"
    ! check $tool "$tmp/planted" $tool && [ "$(reports ours)" -gt 0 ]
    result "$tool finds the planted error"
    for t in $tests; do
        check $tool "$build/tests/op/$t" -j"${SLC_TEST_JOBS:-1}"
        clean $tool
        result "$tool: $t"
        [ $tool = memcheck ] || echo "# $(reports cudnn) reports in cuDNN's kernels"
    done
done
