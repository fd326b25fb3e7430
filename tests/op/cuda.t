#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The op tests on the GPU: one TAP line a test program.
if ! ls "$top_builddir"/.libs/sluice-cuda.so >/dev/null 2>&1; then
    echo "1..0 # SKIP the GPU module was not built (configure --with-cuda)"
    exit 0
fi
if ! ls /dev/nvidia[0-9]* >/dev/null 2>&1; then
    echo "1..0 # SKIP this machine has no NVIDIA GPU"
    exit 0
fi
SLC_OP_BACKEND=cuda SLUICE_MODULE_DIR=$top_builddir/.libs
export SLC_OP_BACKEND SLUICE_MODULE_DIR
n=0
set -- "$top_builddir"/tests/op/test_*[a-z0-9]
echo "1..$(ls "$@" | grep -vc '\.')"
for program in "$@"; do
    case ${program##*/} in *.*) continue ;; esac
    n=$((n + 1))
    if timeout 300 "$program" -j1 >&2; then
        echo "ok $n - ${program##*/} on cuda"
    else
        echo "not ok $n - ${program##*/} on cuda"
    fi
done
