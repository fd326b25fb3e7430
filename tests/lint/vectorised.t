#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Every loop of kernels/cpu, and of those that draw weights, marked `omp simd` becomes vectors of 64 bytes where the CPU has
# them: what GCC reports of each is looked for between the mark and the next ten lines.
top=${top_srcdir:-.} build=${top_builddir:-.}
if ! gcc -v 2>&1 | grep -q '^Target: x86_64'; then
    echo "1..0 # SKIP the check reads what GCC for x86-64 reports"
    exit 0
fi
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT

# missed FILE: the marked loops of it that stayed scalar
missed() {
    gcc -O2 -I"$top/src" -I"$top" -I"$build" -fopenmp -ftree-vectorize -fno-math-errno \
        -fno-trapping-math -ffp-contract=fast -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma \
        -mavx512bf16 -mprefer-vector-width=512 -DSLC_CPU_ISA=avx512_bf16 \
        -fopt-info-vec-optimized -c "$1" -o /dev/null 2>"$tmp/report" || echo "no compilation"
    awk -v file="$1" '
        FILENAME != file {
            split($0, at, ":")
            if (at[1] == file && /loop vectorized using 64/)
                done[at[2]] = 1
            next
        }
        function judge() { if (mark && !found) print "line " mark; mark = 0 }
        /#pragma omp simd/ { judge(); mark = FNR; found = 0 }
        mark && FNR > mark + 10 { judge() }
        mark && FNR in done { found = 1 }
        END { judge() }' "$tmp/report" "$1"
}

files=$(cd "$top" && grep -l 'pragma omp simd' kernels/cpu/*.c src/base/normals.c)
echo "1..$(($(wc -w <<<"$files") + 1))"
n=0
for f in $files; do
    n=$((n + 1))
    lines=$(missed "$top/$f")
    [ -z "$lines" ] && echo "ok $n - $f" || {
        sed 's/^/# /' <<<"$lines"
        echo "not ok $n - $f"
    }
done

cat >"$tmp/chain.c" <<'EOF'
void chain(float *x, int n);
void chain(float *x, int n)
{
#pragma omp simd
    for (int i = 0; i < n; i++)
        x[i] = x[i] > 1 ? __builtin_sinf(x[i]) : x[i];
}
EOF
n=$((n + 1))
[ -n "$(missed "$tmp/chain.c")" ] && echo "ok $n - a loop that stays scalar is found" ||
    echo "not ok $n - a loop that stays scalar is found"
