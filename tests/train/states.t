#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# optim.states bf16: runs repeat and resume to the bit, on one rank (where gradients are bf16
# too) and on several; layouts and fp32 states agree; what it needs is said.
. "${top_srcdir:-.}/tests/train/functions.sh"
echo 1..8

low() { train "$@" run.dtype=bf16 optim.states=bf16; }
one="parallel.ep=1 train.micro_batch=8"
ok=true

# --- one rank, one micro-batch
low 1 whole $one && low 1 again $one
result "two runs of one rank"
grep -q '^dtype: .*bf16 moments, no master weights' log && grep -q 'gradients, bf16 and fp32' log
result "the start and the memory table say what is in bf16"
low 1 cut $one train.steps=5 && low 1 cut $one
losses whole 0 >whole.losses && losses again 0 >again.losses && losses cut 0 >cut.losses
for d in whole again cut; do tensors $d/checkpoints/"$(newest $d)" >$d.tensors; done
[ "$(wc -l <whole.losses)" -eq 12 ] && [ -s whole.tensors ] &&
    diff whole.losses again.losses >log && diff whole.tensors again.tensors >>log
result "their losses, weights and moments are the same bits"
diff whole.losses cut.losses >log && diff whole.tensors cut.tensors >>log
result "so are those of a run that stopped after 5 steps"

# --- several micro-batches and ranks: gradients are fp32, rounding the same function
low 1 one parallel.ep=1 && low 4 four && grep -q 'gradients, fp32' log
result "four micro-batches, and four ranks"
losses one 0 >one.losses && losses four 0 >four.losses
close four.losses one.losses 3e-3 && close whole.losses one.losses 3e-3
result "four ranks and one, bf16 and fp32 gradients agree to 3e-3 over 12 steps"
train 1 fp32 $one && losses fp32 0 >fp32.losses && close whole.losses fp32.losses 1e-2 &&
    ! diff -q whole.losses fp32.losses >/dev/null
result "losses are near those of an fp32 run, and not the same"

train 1 refused $one optim.states=bf16
[ $? -eq 78 ] && grep -q 'optim.states bf16 needs run.dtype bf16' log
result "refused without run.dtype bf16"
