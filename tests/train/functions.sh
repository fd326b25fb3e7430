# SPDX-License-Identifier: Apache-2.0
#
# For the .t scripts of this folder: a scratch folder with a corpus, ranks started without
# Slurm, and TAP.
top=${top_srcdir:-.} build=${top_builddir:-.}
sluice=$(cd "$build" && pwd)/sluice
launch=$(cd "$build" && pwd)/tests/launch/launch
here=$(cd "$top/tests/train" && pwd)
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 99
cp "$here/../../LICENSE" text.txt
"$sluice" data build --validation 0.1 --out corpus.h5 text.txt >log 2>&1 || {
    cat log
    echo "Bail out! no corpus"
    exit 1
}

number=0
# result NAME: reports the outcome of the command before it
result() {
    local rc=$?
    number=$((number + 1))
    if [ $rc -eq 0 ]; then
        echo "ok $number - $1"
    else
        [ ! -s log ] || tail -n 15 log | sed 's/^/# /'
        echo "not ok $number - $1"
    fi
}
# train RANKS DIR [key=value ...]: a run of tests/train/run.yaml; output in ./log
train() {
    local n=$1 dir=$2
    shift 2
    set -- train "$here/run.yaml" model.config="$here/tiny.json" data.corpus="$tmp/corpus.h5" \
        run.dir="$dir" "$@"
    if [ "$n" -eq 1 ]; then
        timeout 100 "$sluice" "$@" >log 2>&1
    else
        timeout 100 "$launch" -n "$n" "$sluice" "$@" >log 2>&1
    fi
}
# losses DIR FROM: step, loss and gradient norm of every step after FROM, as printed
losses() {
    sed -n 's/^{"step": \([0-9]*\), .*"loss": \([^,]*\), "aux.*"grad_norm": \([^,]*\),.*/\1 \2 \3/p' \
        "$1/metrics.jsonl" | awk -v from="$2" '$1 > from'
}
newest() { ls "$1/checkpoints" 2>/dev/null | grep '^step-[0-9]*$' | tail -n 1; }
# newest_step DIR: its number, 0 where there is none
newest_step() {
    local last
    last=$(newest "$1") && [ -n "$last" ] && echo $((10#${last#step-})) || echo 0
}
# killed_run DIR [key=value ...]: four ranks, one of which is killed at any moment after the
# second checkpoint; sets rc, how the job ended, and saved, the step of its newest checkpoint
killed_run() {
    local dir=$1 pid
    shift
    "$launch" -n 4 "$sluice" train "$here/run.yaml" model.config="$here/tiny.json" \
        data.corpus="$tmp/corpus.h5" run.dir="$dir" train.steps=100000 checkpoint.every=5 \
        "$@" >log 2>&1 &
    pid=$!
    for _ in $(seq 600); do
        [ "$(newest_step "$dir")" -ge 10 ] && break # older ones may be gone already
        sleep 0.1
    done
    # The ranks are the launcher's children: one dies, the others have to leave.
    kill -KILL "$(ps -o pid= --ppid $pid | tail -n 1)"
    wait $pid
    rc=$?
    saved=$(newest_step "$dir")
    [ $rc -ne 0 ] && [ "$saved" -ge 10 ]
}
# tensors CHECKPOINT: name and CRC of every tensor
tensors() { "$sluice" ckpt info "$1" 2>>log | awk '/^(weights|adamw)/ {print $1, $NF}'; }
# close A B TOLERANCE [NORM]: the two lists of losses agree to a relative tolerance, and the
# gradient norms to NORM if given
close() {
    paste "$1" "$2" | awk -v tol="$3" -v norm="${4:-1e9}" '
        function rel(a, b,    x) { x = a - b; if (x < 0) x = -x; return x / (b < 0 ? -b : b) }
        { d = rel($2, $5); if (d > most) most = d; g = rel($3, $6); if (g > gmost) gmost = g }
        NF != 6 || $1 != $4 || d > tol || g > norm { print "# differs: " $0; bad = 1 }
        END {
            printf "# largest distance of losses %.2g, of gradient norms %.2g\n", most, gmost
            exit bad || NR == 0
        }'
}
