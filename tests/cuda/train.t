#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Training on one GPU: as on the CPU, to the same bits again and after a resume, through
# checkpoints of either; a step allocates nothing and the host reads two values.
. "${top_srcdir:-.}/tests/cuda/functions.sh"
echo 1..14

one="parallel.ep=1"
# --- fp32 against the CPU
train 1 cpu $one && gpu 1 gpu $one && agree gpu cpu 1e-5
result "fp32: 12 steps on GPU and CPU agree to 1e-5"
gpu 1 again $one && same gpu again
result "fp32: two runs on the GPU are the same bits"
gpu 1 cut $one train.steps=5 && gpu 1 cut $one && same gpu cut
result "fp32: stopped after 5 steps and resumed, the same bits"

# --- the other types
for states in fp32 bf16; do
    low="run.dtype=bf16 optim.states=$states $one train.micro_batch=8"
    gpu 1 bf16$states $low && gpu 1 again$states $low && same bf16$states again$states
    result "bf16, $states states: two runs are the same bits"
    gpu 1 cut$states $low train.steps=5 && gpu 1 cut$states $low &&
        same bf16$states cut$states
    result "bf16, $states states: resumed, the same bits"
    agree bf16$states cpu 2e-2
    result "bf16, $states states: losses near those in fp32"
done

# --- checkpoints from one to the other: without a step, then five more
moved() { # FROM_DIR TO_DIR COMMAND
    $3 1 "$2" $one train.steps=12 checkpoint.from="$tmp/$1/checkpoints/$(newest "$1")" &&
        tensors "$1/checkpoints/$(newest "$1")" >a.tensors &&
        tensors "$2/checkpoints/$(newest "$2")" >b.tensors && [ -s a.tensors ] &&
        diff a.tensors b.tensors >log
}
moved cpu cpu2gpu gpu && gpu 1 cpu2gpu $one train.steps=17 && cp -r cpu cpumore &&
    train 1 cpumore $one train.steps=17 && agree cpu2gpu cpumore 1e-5 12
result "a checkpoint of the CPU: unchanged through the GPU, five further steps agree"
moved gpu gpu2cpu train && train 1 gpu2cpu $one train.steps=17 && cp -r gpu gpumore &&
    gpu 1 gpumore $one train.steps=17 && agree gpu2cpu gpumore 1e-5 12
result "a checkpoint of the GPU: unchanged through the CPU, five further steps agree"

# --- what a step reads and allocates
gpu 1 count $one moe.aux_scope=micro moe.aux_coef=0.01 moe.z_coef=0.001 && counted count 2 &&
    gpu 1 count1 $one train.micro_batch=8 run.dtype=bf16 && counted count1 2
result "a step of four micro-batches, and of one, reads twice and allocates nothing"
gpu 1 count4 $one && ! counted count4 2 >/dev/null && counted count4 5
result "losses by document are read with each micro-batch, which the count shows"

# --- memory of attention
sed 's/"head_dim": 12/"head_dim": 16/; s/"max_position_embeddings": 256/"max_position_embeddings": 1024/' \
    "$here/tiny.json" >wide.json
gpu 1 refused $one model.config=wide.json run.dtype=bf16 data.sequence=1024 run.attention_mib=1
[ $? -eq 78 ] && grep -q 'run.attention_mib allows 1;' log &&
    gpu 1 split $one model.config=wide.json run.dtype=bf16 data.sequence=512 run.attention_mib=1 &&
    gpu 1 all $one model.config=wide.json run.dtype=bf16 data.sequence=512 && agree split all 5e-3
result "attention in little memory: a head at a time as all at once; less is refused"
