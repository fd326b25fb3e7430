#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Folders depend only on folders above them. The check is run on the tree and, to know
# that it can fail, on small trees with one planted include each.
rules=$top_srcdir/tests/lint/includes.awk
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
n=0
ok() { n=$((n + 1)); echo "ok $n - $1"; }
not_ok() { n=$((n + 1)); echo "not ok $n - $1"; }

# check_tree DIR: the lines that break the order
check_tree() {
    (cd "$1" && find src kernels -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' |
        LC_ALL=C sort | xargs awk -f "$rules")
}

# plant EXPECTED FILE INCLUDE: EXPECTED is refused or allowed
plant() {
    rm -rf "$work/tree"
    mkdir -p "$work/tree/src/base" "$work/tree/kernels" "$work/tree/$(dirname "$2")"
    echo '#include "base/err.h"' >"$work/tree/src/base/err.c"
    printf '#include <stdio.h>\n#include "%s"\n' "$3" >"$work/tree/$2"
    if check_tree "$work/tree" >"$work/out"; then got=allowed; else got=refused; fi
    if [ $got = "$1" ]; then
        ok "$3 in $2 is $1"
    else
        not_ok "$3 in $2 should be $1"
        sed 's/^/# /' "$work/out"
    fi
}

echo 1..10
if check_tree "$top_srcdir" >"$work/out"; then
    ok "no reverse include in the tree"
else
    not_ok "no reverse include in the tree"
    sed 's/^/# /' "$work/out"
fi
plant refused src/base/a.c config/options.h
plant refused src/comm/a.h moe/router.h
plant refused src/train/a.c cmd/cmd.h
plant refused src/store/a.c ../train/step.h
plant refused kernels/cpu/a.c model/spec.h
plant refused kernels/cpu/a.c kernels/ref/ref.h
plant allowed src/train/a.c base/err.h
plant allowed kernels/cpu/a.c backend/ops.h
plant allowed src/moe/a.c moe/router.h
