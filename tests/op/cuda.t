#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The op tests on the GPU: one TAP line a test program, one of grouped products as on an older
# card, one of very many of them, and one of attention in so little memory that a group's heads
# are computed one at a time. SLC_TEST_JOBS: tests at once (1).
. "${top_srcdir:-.}/tests/cuda/gpu.sh"
SLC_OP_BACKEND=cuda
export SLC_OP_BACKEND
folder=$top_builddir/tests/op jobs=-j${SLC_TEST_JOBS:-1}
n=0
check() { # NAME COMMAND...
    name=$1
    shift
    n=$((n + 1))
    "$@" >&2 || printf 'not '
    echo "ok $n - $name"
}
little_memory() {
    SLC_TEST_ATTENTION_MIB=1 timeout 100 "$folder/test_attention" \
        --filter 'attention/backends_agree' &&
        SLC_TEST_ATTENTION_MIB=16 timeout 100 "$folder/test_attention" \
            --filter 'attention/packings'
}
set -- "$folder"/test_*[a-z0-9]
echo "1..$(($(ls "$@" | grep -vc '\.') + 3))"
for program in "$@"; do
    case ${program##*/} in *.*) continue ;; esac
    check "${program##*/} on cuda" timeout 300 "$program" "$jobs"
done
check "test_grouped on cuda, kernels of an A100" \
    env SLUICE_GPU_ARCH=80 timeout 300 "$folder/test_grouped" "$jobs"
check "test_grouped on cuda, 90000 calls" \
    env SLC_TEST_CALLS=30000 timeout 100 "$folder/test_grouped" \
    --filter 'grouped/many_calls_as_one'
check "test_attention on cuda, a head at a time" little_memory
