#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The op tests on the GPU: one TAP line a test program, one of grouped products as on an older
# card, one of very many of them, and one of attention in so little memory that a group's heads
# are computed one at a time. SLC_TEST_JOBS: tests at once (1).
. "${top_srcdir:-.}/tests/cuda/gpu.sh"
SLC_OP_BACKEND=cuda
export SLC_OP_BACKEND
n=0
set -- "$top_builddir"/tests/op/test_*[a-z0-9]
echo "1..$(($(ls "$@" | grep -vc '\.') + 3))"
for program in "$@"; do
    case ${program##*/} in *.*) continue ;; esac
    n=$((n + 1))
    if timeout 300 "$program" -j"${SLC_TEST_JOBS:-1}" >&2; then
        echo "ok $n - ${program##*/} on cuda"
    else
        echo "not ok $n - ${program##*/} on cuda"
    fi
done
n=$((n + 1))
SLUICE_GPU_ARCH=80 timeout 300 "$top_builddir/tests/op/test_grouped" -j"${SLC_TEST_JOBS:-1}" >&2 ||
    printf 'not '
echo "ok $n - test_grouped on cuda, kernels of an A100"
n=$((n + 1))
SLC_TEST_CALLS=30000 timeout 100 "$top_builddir/tests/op/test_grouped" \
    --filter 'grouped/many_calls_as_one' >&2 || printf 'not '
echo "ok $n - test_grouped on cuda, 90000 calls"
n=$((n + 1))
{ SLC_TEST_ATTENTION_MIB=1 timeout 100 "$top_builddir/tests/op/test_attention" \
    --filter 'attention/backends_agree' &&
    SLC_TEST_ATTENTION_MIB=16 timeout 100 "$top_builddir/tests/op/test_attention" \
        --filter 'attention/packings'; } >&2 || printf 'not '
echo "ok $n - test_attention on cuda, a head at a time"
