#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# sluice ckpt: import, export and import again give the same bits; verify proves bytes; what
# is wrong is one line and a documented code.
sluice=$top_builddir/sluice
golden=$top_srcdir/tests/data/golden
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
n=0
report() {
    n=$((n + 1))
    if [ "$2" -eq 0 ]; then echo "ok $n - $1"; else
        echo "not ok $n - $1"
        sed 's/^/# /' "$work/out" | head -30
    fi
}
check() {
    name=$1
    shift
    "$@" >"$work/out" 2>&1
    report "$name" $?
}
# refused NAME CODE TEXT ARGUMENTS: one line on stderr with TEXT, exit CODE
refused() {
    name=$1 code=$2 text=$3
    shift 3
    "$sluice" ckpt "$@" >"$work/stdout" 2>"$work/out"
    rc=$?
    [ $rc -eq "$code" ] && [ "$(wc -l <"$work/out")" -eq 1 ] && grep -q "$text" "$work/out"
    ok=$?
    echo "code $rc" >>"$work/out"
    report "$name" $ok
}
ckpt() { "$sluice" ckpt "$@"; }
step0=checkpoints/step-00000000
# round IN DTYPE NAME: import, export, import; the tensors' CRCs must be the same
round() {
    ckpt import "$golden/$1" "$work/$3.a" && ckpt verify "$work/$3.a" &&
        ckpt export "$work/$3.a" "$work/$3.hf" --dtype "$2" &&
        ckpt import "$work/$3.hf" "$work/$3.b" &&
        ckpt info "$work/$3.a" | grep '^weights' >"$work/$3.1" && [ -s "$work/$3.1" ] &&
        ckpt info "$work/$3.b" | grep '^weights' | cmp - "$work/$3.1"
}

echo 1..27
check "per-expert layout, out and in: the same bits" round qwen3_moe-e7k3-aux-rows2 fp32 plain
check "fused layout and dense layers" round qwen3_moe-e5k2-mlponly-fused fp32 fused
check "tied head" round qwen3_moe-e5k3-tied-packed fp32 tied
check "a released bf16 folder through bf16" round qwen3_moe-e5k2-released bf16 bf16
for f in mixtral:e9k3-kv1-aux:e7k7-tied-fused:e10k8-window:e10k4-kv1-released \
    olmoe:e7k3-clip-packed:e7k7-tied-fused:e10k8-renorm:e10k4-clip-released; do
    IFS=: read -r family plain fused sharded released <<END
$f
END
    check "$family" round $family-$plain fp32 $family-plain
    check "$family, fused layout" round $family-$fused fp32 $family-fused
    check "$family, several files" round $family-$sharded fp32 $family-sharded
    check "$family, released, bf16 through bf16" round $family-$released bf16 $family-bf16
done
check "ls" sh -c '"$1" ckpt ls "$2" | grep -q "step-00000000"' - "$sluice" "$work/plain.a"
check "info --json is JSON" sh -c '
    "$1" ckpt info "$2" --json | grep -q "\"format\": \"sluice-checkpoint\""' - "$sluice" \
    "$work/plain.a/$step0"

ids=$work/ids
echo '{"ids": [1, 2, 3, 4, 5, 6, 7]}' >"$ids"
check "the checkpoint and the export score alike" sh -c '
    "$1" score --model "$2" --ids "$4" --json | tail -1 >"$5/s1" && test -s "$5/s1" &&
    "$1" score --model "$3" --ids "$4" --json | tail -1 | cmp - "$5/s1"' - \
    "$sluice" "$work/plain.a" "$work/plain.hf" "$ids" "$work"

refused "export to a folder that is there" 78 "not an empty folder" \
    export "$work/plain.a" "$work/plain.hf"
refused "import over a run" 78 "has checkpoints already" \
    import "$golden/qwen3_moe-e3k1" "$work/plain.a"
mkdir "$work/family"
cp "$golden/qwen3_moe-e3k1/model.safetensors" "$work/family"
sed 's/qwen3_moe/other_moe/' "$golden/qwen3_moe-e3k1/config.json" >"$work/family/config.json"
refused "import of a family that is not known" 84 "not supported: model_type" \
    import "$work/family" "$work/none"
refused "import of nothing" 79 "cannot open" import "$work/absent" "$work/none"
refused "a verb that is not there" 78 "unknown verb" prove x
refused "too few arguments" 78 "usage: sluice ckpt export" export x
refused "no checkpoint there" 79 "there is no" info "$work/absent"
check "nothing half-written is left" sh -c '! ls -d "$1"/*.tmp "$1"/none/checkpoints 2>/dev/null | grep .' - "$work"

h5=$work/plain.b/$step0/state.h5
printf '\001' | dd of="$h5" bs=1 seek=9000 conv=notrunc 2>/dev/null
"$sluice" ckpt verify "$work/plain.b" >"$work/out" 2>&1
rc=$?
[ $rc -eq 86 ] && grep -q 'damaged: tensor weights/' "$work/out"
report "a changed byte: verify names the tensor and exits 86" $?
refused "and export refuses it" 80 "damaged: tensor weights/" export "$work/plain.b" "$work/bad"
check "and leaves nothing" test ! -e "$work/bad"

# A header that lies: nothing is imported.
mkdir "$work/lie"
cp "$golden/qwen3_moe-e3k1/config.json" "$work/lie"
{ printf '\377\377\377\377\377\377\377\177'; cat "$golden/qwen3_moe-e3k1/model.safetensors"; } \
    >"$work/lie/model.safetensors"
refused "a header longer than the file" 79 "header too long" import "$work/lie" "$work/none"
