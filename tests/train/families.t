#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Mixtral (window shorter than the documents) and OLMoE (clipped queries and keys) through
# the commands: train, resume, export, score, generate, and train on from the export.
. "${top_srcdir:-.}/tests/train/functions.sh"
echo 1..16

echo '{"ids": [84, 104, 101, 32, 76, 105, 99, 101, 110, 115, 101, 32, 97, 110, 100, 32, 121, 111, 117]}' >ids
first() { awk 'NR == 1 {print $2}' "$1"; }
last() { awk 'END {print $2}' "$1"; }

for family in mixtral olmoe; do
    # The last of two values of a key counts.
    run() { train "$@" model.config="$config"; }
    config=$here/$family.json
    r() { echo "$family-$1"; }

    run 4 "$(r ep4)" parallel.ep=4 train.steps=16 && losses "$(r ep4)" 0 >ep4.losses &&
        awk -v a="$(first ep4.losses)" -v b="$(last ep4.losses)" \
            'BEGIN { print "# loss " a " to " b; exit !(b < 0.85 * a) }'
    result "$family: learns on 4 ranks, an odd number of experts over them"
    run 4 "$(r ep2)" parallel.ep=2 train.steps=16 && losses "$(r ep2)" 0 >ep2.losses &&
        close ep4.losses ep2.losses 1e-5
    result "$family: ep 4 and ep 2 agree to 1e-5"
    run 1 "$(r ep1)" parallel.ep=1 train.micro_batch=8 train.steps=16 &&
        losses "$(r ep1)" 0 >ep1.losses && close ep4.losses ep1.losses 1e-5
    result "$family: ep 4 and one rank agree to 1e-5"
    run 4 "$(r half)" parallel.ep=4 train.steps=7 && run 4 "$(r half)" parallel.ep=4 train.steps=16 &&
        grep -q resumed log && losses "$(r half)" 0 >half.losses && diff ep4.losses half.losses >log
    result "$family: stopped and resumed, the same bits"
    run 4 "$(r bf16)" parallel.ep=4 run.dtype=bf16 train.steps=16 && losses "$(r bf16)" 0 >bf16.losses &&
        ! diff -q ep4.losses bf16.losses >/dev/null && close ep4.losses bf16.losses 1e-2
    result "$family: bf16 is near fp32, and not the same"

    ckpt=$(r ep4)/checkpoints/$(newest "$(r ep4)")
    "$sluice" ckpt export "$ckpt" "$family" >log 2>&1 &&
        "$sluice" score --model "$ckpt" --ids ids --json 2>>log >score.ckpt && [ -s score.ckpt ] &&
        "$sluice" score --model "$family" --ids ids --json 2>>log | diff - score.ckpt >>log
    result "$family: the export scores as the checkpoint does"
    "$sluice" generate --model "$family" --prompt "The licence" --tokens 20 >text 2>log &&
        "$sluice" generate --model "$ckpt" --prompt "The licence" --tokens 20 2>>log | cmp - text >>log &&
        [ "$(wc -c <text)" -gt 20 ]
    result "$family: generates from both alike, past its window"

    config=$family
    run 1 "$(r on1)" model.weights="$family" parallel.ep=1 train.micro_batch=8 train.steps=4 &&
        run 2 "$(r on2)" model.weights="$family" parallel.ep=2 train.steps=4 &&
        losses "$(r on1)" 0 >on1.losses && losses "$(r on2)" 0 >on2.losses &&
        close on1.losses on2.losses 1e-5 &&
        awk -v a="$(first ep4.losses)" -v b="$(first on1.losses)" 'BEGIN { exit !(b < 0.85 * a) }'
    result "$family: goes on from its export, on one rank and on two alike"
done
