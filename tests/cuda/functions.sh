# SPDX-License-Identifier: Apache-2.0
#
# For the .t scripts of this folder: skips where there is no module or GPU; then as
# tests/train/functions.sh.
. "${top_srcdir:-.}/tests/cuda/gpu.sh"
. "${top_srcdir:-.}/tests/train/functions.sh"

gpu() { train "$@" run.device=cuda; }
# same A B: losses and tensors of two runs are the same bits
same() {
    losses "$1" 0 >a.losses && losses "$2" 0 >b.losses
    tensors "$1/checkpoints/$(newest "$1")" >a.tensors
    tensors "$2/checkpoints/$(newest "$2")" >b.tensors
    [ -s a.losses ] && [ -s a.tensors ] && diff a.losses b.losses >log &&
        diff a.tensors b.tensors >>log
}
# agree A B TOLERANCE [FROM]: losses of two runs agree
agree() {
    losses "$1" "${4:-0}" >a.losses && losses "$2" "${4:-0}" >b.losses &&
        close a.losses b.losses "$3"
}
# counted DIR FETCHES: from the third step on nothing is allocated and as much is read
counted() {
    sed -n 's/^{"step": \([0-9]*\), .*"fetches": \([0-9]*\), "allocations": \([0-9]*\)}/\1 \2 \3/p' \
        "$1/metrics.jsonl" | awk -v most="$2" '
        $1 > 2 { n++; if ($2 > most || $3 > 0) { print "# step " $0; bad = 1 } f = $2 }
        END { printf "# %d steps, %d reads and no allocation each\n", n, f; exit bad || n < 8 }'
}
