#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A tiny training run has the same bits on the strict backend as on ref: nothing in the
# engine reads backend memory directly, or counts on an order that no event made. What
# such a mistake looks like there is in test_strict.c.
. "$top_srcdir/tests/comm/ranks.sh"

OMP_NUM_THREADS=1
export OMP_NUM_THREADS
sluice=$top_builddir/sluice
cd "$scratch" || exit 99

cat >model.json <<'END'
{"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "vocab_size": 256,
 "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
 "num_key_value_heads": 2, "head_dim": 6, "intermediate_size": 20,
 "moe_intermediate_size": 12, "num_experts": 5, "num_experts_per_tok": 2,
 "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [1],
 "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
 "max_position_embeddings": 64, "tie_word_embeddings": false}
END
cat >run.yaml <<'END'
model: {config: model.json}
data: {corpus: corpus.h5, sequence: 16}
run: {dir: run}
train: {steps: 3, global_batch: 4, micro_batch: 1, validate_every: 2}
moe: {aux_scope: sequence, aux_coef: 0.02, z_coef: 0.001}
optim: {lr: 1e-3}
END
awk 'BEGIN { for (i = 0; i < 300; i++) printf "%d bottles stand on wall %d.\n", i, i * 7 % 13 }' >text.txt
"$sluice" data build --out corpus.h5 --validation 0.05 text.txt >out 2>&1 || cat out

# same NAME RANKS [section.key=value ...]: loss of each step and the CRC of every tensor
same() {
    name=$1 n=$2 rc=0
    shift 2
    for device in ref strict; do
        rm -rf "$device"
        "$launch" -t 100 -n "$n" "$sluice" train run.yaml run.dir=$device run.device=$device \
            "$@" >out 2>&1 || rc=1
        {
            grep -o '"\(loss\|val_loss\|aux_loss\|z_loss\|grad_norm\)": [^,}]*' $device/metrics.jsonl
            grep -ho '^{"name": .*"crc": "[0-9a-f]*"' $device/checkpoints/*/manifest.json
        } >$device.values 2>>out
    done
    [ "$(grep -c crc ref.values)" -gt 60 ] || { rc=1; echo "no checkpoint" >>out; }
    diff ref.values strict.values >>out || rc=1
    report "$name" $rc
}

plan 5
same "one rank" 1
same "one rank, whole layers computed again in backward" 1 train.recompute=true
same "one rank, auxiliary loss of the micro-batch" 1 moe.aux_scope=micro
same "2 ranks, ep 2" 2 parallel.ep=2
same "2 ranks, ep 2, auxiliary loss of the micro-batch" 2 parallel.ep=2 moe.aux_scope=micro
