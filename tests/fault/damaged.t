#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A damaged or missing newest checkpoint: training says so and goes on from the one before,
# with the bits of a run that was never touched.
. "${top_srcdir:-.}/tests/train/functions.sh"
echo 1..6

train 2 whole train.steps=6 checkpoint.every=2 checkpoint.keep=9
result "six steps, a checkpoint every two"
losses whole 4 >whole.losses
last=checkpoints/step-00000006

# once NAME TEXT COMMAND: damage the newest by COMMAND (run in its folder), go on to step 6
once() {
    rm -rf hurt
    cp -r whole hurt
    (cd "hurt/$last" && eval "$3") >log 2>&1 && train 2 hurt train.steps=6 &&
        grep -q "passing over a checkpoint: .*$2" log && grep -q "resumed .*step-00000004" log &&
        losses hurt 4 | sort -n | uniq >hurt.losses && cmp hurt.losses whole.losses &&
        "$sluice" ckpt verify "hurt/$last" >>log 2>&1
    result "$1"
}
flip() { # FILE BYTE
    local b
    b=$(od -An -tu1 -j "$2" -N 1 "$1")
    printf "\\$(printf %o $((b ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc
}
once "a flipped bit of a weight" "damaged: tensor weights/" \
    'flip state.h5 $(sed -n "s/.*embed.*\"offset\": \([0-9]*\),.*/\1/p" manifest.json | head -n 1)'
once "a flipped bit of HDF5 metadata" "the CRC of its metadata" 'flip state.h5 20'
once "a file cut short" "state.h5: damaged: .* bytes" 'truncate -s -1 state.h5'
once "a missing manifest" "cannot open" 'rm manifest.json'

rm -rf gone
cp -r whole gone
rm -r "gone/$last"
train 2 gone train.steps=6 && grep -q "resumed .*step-00000004" log
result "the newest removed: the one before is taken"
