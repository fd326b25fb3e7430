#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every run file that a user may copy is one that the program takes: the example's, and
# the one that the README explains. A planted unknown key must be refused.
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
n=0
check() { # check CODE NAME FILE
    n=$((n + 1))
    "$top_builddir/sluice" config "$3" >"$work/out" 2>&1
    if [ $? -eq "$1" ]; then echo "ok $n - $2"; else
        echo "not ok $n - $2"
        sed 's/^/# /' "$work/out"
    fi
}
echo 1..3
check 0 slurm/examples/quickstart.yaml "$top_srcdir/slurm/examples/quickstart.yaml"
sed -n '/^```yaml/,/^```$/p' "$top_srcdir/README.md" | grep -v '^```' >"$work/readme.yaml"
check 0 "the run file in README.md" "$work/readme.yaml"
sed 's/  steps:/  stepz:/' "$work/readme.yaml" >"$work/planted.yaml"
check 78 "an unknown key is refused" "$work/planted.yaml"
