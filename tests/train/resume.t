#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Kill and resume gives the same bits; so do two runs; a checkpoint moves between layouts
# without a change, and training goes on from it alike.
. "${top_srcdir:-.}/tests/train/functions.sh"
echo 1..10

# --- killed at any moment after a checkpoint
killed_run killed
result "a killed rank ends the job after its checkpoint (exit $rc)"
[ -f killed/reason.json ] && grep -q '"rank"' killed/reason.json
result "reason.json names the cause"

last=$((saved + 6))
train 4 killed train.steps=$last && grep -q "resumed" log
result "the killed run resumes"
train 4 whole train.steps=$last && train 4 again train.steps=$last
result "two uninterrupted runs"
losses whole "$saved" >whole.losses && losses killed "$saved" >killed.losses
[ "$(wc -l <whole.losses)" -eq 6 ] && diff whole.losses killed.losses >log
result "later losses and gradient norms are the same bits"
losses whole 0 >whole.losses && losses again 0 >again.losses
[ "$(wc -l <whole.losses)" -eq $last ] && diff whole.losses again.losses >log
result "two runs have the same losses"
for d in whole killed again; do tensors $d/checkpoints/"$(newest $d)" >$d.tensors; done
[ -s whole.tensors ] && diff whole.tensors killed.tensors >log && diff whole.tensors again.tensors >log
result "final weights and moments are the same bits"

# --- through other layouts: loaded and saved again without a step
ok=true
from=$tmp/whole/checkpoints/$(newest whole)
for layout in "2 2 4" "1 1 8" "4 2 2" "3 3 8"; do
    set -- $layout
    [ "$1" = 3 ] && batch=24 || batch=8 # three ranks need a batch that they can share
    train "$1" moved$1 parallel.ep="$2" train.micro_batch="$3" train.global_batch=$batch \
        train.steps=$last checkpoint.from="$from" || ok=false
    from=$tmp/moved$1/checkpoints/$(newest moved$1)
    "$sluice" ckpt verify "$from" >>log 2>&1 || ok=false
    tensors "$from" >moved.tensors
    [ -s moved.tensors ] && diff whole.tensors moved.tensors >>log || ok=false
done
$ok
result "weights, moments and counters pass through 2/2, 1/1, 4/2 and 3/3 unchanged"

# --- and five further steps agree
more=$((last + 5))
for layout in "4 2 2" "2 2 4" "1 1 8"; do
    set -- $layout
    cp -r whole more$1
    train "$1" more$1 parallel.ep="$2" train.micro_batch="$3" train.steps=$more || ok=false
    losses more$1 $last >more$1.losses
done
close more4.losses more1.losses 1e-5
result "five further steps on 4 and 1 ranks agree to 1e-5"
close more2.losses more1.losses 1e-5
result "five further steps on 2 and 1 ranks agree to 1e-5"
