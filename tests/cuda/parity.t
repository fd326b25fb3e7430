#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Whole models on the GPU against Transformers: fp32 losses and gradients of all families,
# twenty steps of AdamW, and the distance of bf16 from fp32 beside Transformers' own.
# SLC_OP_BACKEND names another backend than cuda (cpu: to try this script without a GPU).
SLC_OP_BACKEND=${SLC_OP_BACKEND:-cuda}
export SLC_OP_BACKEND
[ "$SLC_OP_BACKEND" != cuda ] || . "${top_srcdir:-.}/tests/cuda/gpu.sh"
tests=${top_builddir:-.}/tests/parity
log=$(mktemp) && trap 'rm -f "$log"' EXIT
n=0
result() { # NAME: reports the outcome of the command before it
    rc=$?
    n=$((n + 1))
    if [ $rc -eq 0 ]; then echo "ok $n - $1"; else
        grep -v ' \[---\]   ' "$log" | tail -n 20 | sed 's/^/# /'
        echo "not ok $n - $1"
    fi
}
# passed PROGRAM LEAST: it passes, with at least so many tests and none left out
passed() {
    timeout 280 "$tests/$1" --verbose=1 >"$log" 2>&1 &&
        sed -n 's/.*Synthesis: Tested: \([0-9]*\) | Passing: \([0-9]*\) .*/\1 \2/p' "$log" |
        awk -v least="$2" '{ found = $1 >= least && $1 == $2 } END { exit !found }'
}
echo 1..4
(SLC_OP_BACKEND=nosuch && ! timeout 280 "$tests/test_trajectory" >"$log" 2>&1) &&
    grep -q '"nosuch" is not known' "$log"
result "the backend asked for is the one that runs"
passed test_parity 116
result "fp32 against Transformers: loss to 1e-5, gradients to 1e-4"
passed test_trajectory 4
result "fp32: twenty steps of AdamW as Transformers"
passed test_bf16 7 && [ "$(grep -c " on $SLC_OP_BACKEND: our error" "$log")" -eq 3 ]
result "bf16: at most 1.5 times Transformers' own distance from fp32"
sed -n 's/^.*\] *\([a-z0-9_]* on [a-z]*: our error over .*\)/# \1/p' "$log"
