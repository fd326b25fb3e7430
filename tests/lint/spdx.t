#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every source file names its licence in its first five lines.
echo 1..2
cd "$top_srcdir" || exit 99
list() {
    find src kernels tests slurm modules benchmarks m4 doc \
        \( -name 'trash*' -o -name 'lt*.m4' -o -name libtool.m4 \) -prune -o -type f \
        \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.am' \
        -o -name '*.m4' -o -name '*.sh' -o -name '*.t' -o -name '*.bats' \
        -o -name '*.awk' -o -name '*.pl' -o -name '*.py' -o -name '*.sbatch' \) -print
    echo configure.ac
    echo Makefile.am
}
# lacks: of the files named on stdin, those without the line
lacks() {
    while read -r f; do
        head -n 5 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || echo "# $f"
    done
}
missing=$(list | lacks)
if [ -z "$missing" ]; then echo "ok 1 - every source file has the SPDX line"
else echo "not ok 1 - every source file has the SPDX line"; echo "$missing"; fi

work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
echo 'int x;' >"$work/planted.c"
if [ "$(echo "$work/planted.c" | lacks)" ]; then echo "ok 2 - a file without it is found"
else echo "not ok 2 - a file without it is found"; fi
