#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Bad input: one clear line, the documented code, no rank left behind, nothing half-written.
. "${top_srcdir:-.}/tests/train/functions.sh"
echo 1..22

# refused CODE PATTERN NAME: the command before ended with CODE and said PATTERN on its only
# line of complaint
refused() {
    local rc=$? lines
    lines=$(grep -c '^sluice.*error: \|^sluice: [a-z]*: ' log)
    [ $rc -eq "$1" ] && [ "$lines" -eq 1 ] && grep -qE "$2" log
    result "$3 (code $rc, $lines line)"
}

sed 's/^optim:.*/optim: {lr: 0.1, schedul: constant}/' "$here/run.yaml" >typo.yaml
"$sluice" train typo.yaml >log 2>&1
refused 78 'typo.yaml:9:.*schedul.*schedule' "unknown key: file, line and nearest key"
"$launch" -n 4 "$sluice" train typo.yaml >log 2>&1
refused 78 'typo.yaml:9:.*schedul.*schedule' "the same on four ranks is one line"
train 1 r optim.lr=fast
refused 78 'optim.lr' "wrong type"
train 1 r train.stepz=3
refused 78 'train.steps' "unknown key on the command line"
"$sluice" train missing.yaml >log 2>&1
refused 78 'missing.yaml' "missing run file"
train 1 r data.corpus=missing.h5 parallel.ep=1
refused 79 'missing.h5' "missing corpus"
train 1 r model.config=missing.json parallel.ep=1
refused 79 'missing.json' "missing config.json"
train 2 r model.config=missing.json
refused 79 'missing.json' "missing config.json on two ranks is one line"
sed 's/qwen3_moe/gpt_neo/; s/Qwen3MoeForCausalLM/GPTNeoForCausalLM/' "$here/tiny.json" >neo.json
train 1 r model.config=neo.json parallel.ep=1
refused 84 'gpt_neo|GPTNeo' "unsupported family"
train 7 r parallel.ep=7 train.global_batch=14
refused 78 'parallel.ep 7.*6 experts' "ep greater than the experts"
train 3 r parallel.ep=2 train.global_batch=6
refused 78 'parallel.ep 2.*3 ranks' "ep not dividing the ranks"
train 2 r train.global_batch=7
refused 78 'train.global_batch 7' "global batch that ranks cannot share"
sed 's/"vocab_size": 256/"vocab_size": 100/' "$here/tiny.json" >small.json
train 1 r model.config=small.json parallel.ep=1
refused 79 'vocabulary' "corpus ids beyond the vocabulary"
[ ! -e r ]
result "no run folder was made by any of these"

train 1 mine parallel.ep=1
result "a run to damage"
sed 's/"hidden_size": 32/"hidden_size": 48/' "$here/tiny.json" >other.json
train 1 mine model.config=other.json parallel.ep=1
refused 80 'another model' "checkpoint of another model"
"$sluice" train "$here/run.yaml" model.config="$here/tiny.json" data.corpus="$tmp/corpus.h5" \
    run.dir=mine parallel.ep=1 train.steps=1000000 >first.log 2>&1 &
pid=$!
for _ in $(seq 100); do
    grep -q '"step": 14' mine/metrics.jsonl && break
    sleep 0.1
done
train 1 mine parallel.ep=1 train.steps=2000000
refused 85 'mine' "run folder in use by a live job"
kill -TERM $pid
wait $pid
[ $? -eq 75 ]
result "SIGTERM ends the live job with code 75"

"$sluice" ckpt export mine/checkpoints/"$(newest mine)" hf >log 2>&1
result "an export to damage"
file=$(ls hf/*.safetensors | head -n 1)
cp -r hf cut && truncate -s -4 cut/"${file#hf/}"
train 1 r model.weights=cut parallel.ep=1
refused 79 "cut/${file#hf/}" "truncated safetensors"
cp -r hf long && printf '\377\377\377\377\377\377\377\177' |
    dd of=long/"${file#hf/}" conv=notrunc status=none
train 1 r model.weights=long parallel.ep=1
refused 79 "long/${file#hf/}" "safetensors header too long"

if [ "$(id -u)" -eq 0 ]; then
    setpriv --reuid=65534 --clear-groups "$sluice" train "$here/run.yaml" \
        model.config="$here/tiny.json" data.corpus="$tmp/corpus.h5" run.dir="$tmp/r" \
        parallel.ep=1 >log 2>&1
    rc=$?
    if grep -q 'cannot open.*ermission\|Permission' log; then (exit $rc); else (exit 99); fi
else
    mkdir closed && chmod 555 closed
    train 1 closed/r parallel.ep=1
fi
rc=$?
[ $rc -eq 82 ] || [ $rc -eq 79 ]
result "missing permission (code $rc)"
