#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Training in bf16: kill and resume gives the same bits, checkpoints hold fp32 masters that
# move between layouts unchanged, expert parallel sizes agree, and the start says how.
#
# Two layouts round at other places (a row that two ranks sum is rounded once more), so
# losses of bf16 runs agree to 2e-3 and gradient norms to 2e-2 where losses of fp32 runs
# agree to 1e-5.
. "${top_srcdir:-.}/tests/train/functions.sh"
echo 1..16

bf16() { train "$@" run.dtype=bf16; }

# --- killed after a checkpoint
killed_run killed run.dtype=bf16
result "a killed rank ends the job after its checkpoint (exit $rc)"
last=$((saved + 6))
bf16 4 killed train.steps=$last && grep -q "resumed" log && bf16 4 whole train.steps=$last
result "the killed run resumes; an uninterrupted one beside it"
losses whole "$saved" >whole.losses && losses killed "$saved" >killed.losses
[ "$(wc -l <whole.losses)" -eq 6 ] && diff whole.losses killed.losses >log
result "later losses and gradient norms are the same bits"
for d in whole killed; do tensors $d/checkpoints/"$(newest $d)" >$d.tensors; done
[ -s whole.tensors ] && diff whole.tensors killed.tensors >log
result "final master weights and moments are the same bits"

# --- through other layouts
ok=true
from=$tmp/whole/checkpoints/$(newest whole)
for layout in "2 2 4" "1 1 8" "4 4 2" "3 3 8"; do
    set -- $layout
    [ "$1" = 3 ] && batch=24 || batch=8
    bf16 "$1" moved$1 parallel.ep="$2" train.micro_batch="$3" train.global_batch=$batch \
        train.steps=$last checkpoint.from="$from" || ok=false
    from=$tmp/moved$1/checkpoints/$(newest moved$1)
    tensors "$from" >moved.tensors
    [ -s moved.tensors ] && diff whole.tensors moved.tensors >>log || ok=false
done
$ok
result "masters and moments pass through 2/2, 1/1, 4/4 and 3/3 unchanged"

# --- expert parallel sizes, from the same weights on
for layout in "1 1 8" "2 2 4" "4 2 2" "4 4 2"; do
    set -- $layout
    bf16 "$1" ep$1$2 parallel.ep="$2" train.micro_batch="$3" train.steps=10 || ok=false
    losses ep$1$2 0 >ep$1$2.losses
done
close ep22.losses ep11.losses 2e-3 2e-2
result "ep 2 agrees with one rank to 2e-3 over 10 steps"
close ep44.losses ep11.losses 2e-3 2e-2 && close ep42.losses ep11.losses 2e-3 2e-2
result "ep 4, and ep 2 on 4 ranks, agree with one rank to 2e-3"

# --- what is in bf16, and what is not
train 4 fp32 train.steps=10 && losses fp32 0 >fp32.losses
! diff -q fp32.losses ep42.losses >/dev/null && close fp32.losses ep42.losses 1e-2
result "losses are near those of fp32, and not the same"
near() { sed -n 's/^{"step": 10,.*"near_bytes": \([0-9]*\),.*"collective_bytes": \([0-9]*\).*/\1 \2/p' "$1/metrics.jsonl"; }
set -- $(near fp32) $(near ep42)
echo "# a step of fp32 exchanges $1 bytes and reduces $2, one of bf16 $3 and $4"
# A row of 32 numbers, with its experts and weights and padding to 64 bytes.
[ $(($3 * 100)) -lt $(($1 * 75)) ]
result "rows travel in bf16"
# Gradients 4 bytes down, weights 4 or 2 bytes up: 6 of 8.
[ $(($4 * 100)) -gt $(($2 * 72)) ] && [ $(($4 * 100)) -lt $(($2 * 80)) ]
result "gradients are reduced in fp32, weights gathered in bf16"
for d in fp32 bf16; do
    train 4 still-$d train.steps=1 optim.lr=0 run.dtype=$d || ok=false
    tensors still-$d/checkpoints/"$(newest still-$d)" | grep ^weights >still-$d.tensors
done
[ -s still-fp32.tensors ] && diff still-fp32.tensors still-bf16.tensors >log
result "master weights start as in fp32, not rounded"

# --- what the CPU does
bf16 1 said parallel.ep=1 train.micro_batch=8 train.steps=2 &&
    grep -q '^dtype: bf16 weights' log &&
    grep -q '^backend: cpu.* bf16 products \(by\|converted\)' log
result "the start names the type and what computes products: $(
    sed -n 's/^backend: .*\(bf16 products .*\),.*/\1/p' log)"
SLUICE_CPU_ISA=avx2 bf16 1 narrow parallel.ep=1 train.micro_batch=8 train.steps=10 &&
    grep -q '^backend: cpu.*bf16 products converted to fp32' log &&
    losses narrow 0 >narrow.losses && close narrow.losses ep11.losses 2e-3
result "with AVX2 alone they are converted to fp32, the start says so, losses agree"

# --- auto: the type that all ranks multiply in hardware
# as_auto DIR TYPE: the start names TYPE, and the run is the one that asks for it
as_auto() {
    grep -q "^dtype: $2" log && losses "$1" 0 >auto.losses && [ -s auto.losses ] &&
        diff auto.losses "$2.losses" >>log
}
one="parallel.ep=1 train.micro_batch=8 train.steps=4"
SLUICE_CPU_ISA=avx2 train 1 f $one && losses f 0 >fp32.losses &&
    SLUICE_CPU_ISA=avx2 train 1 auto-narrow $one run.dtype=auto && as_auto auto-narrow fp32
result "run.dtype=auto is fp32 where only AVX2 is in use"
train 1 b $one run.dtype=bf16 && losses b 0 >bf16.losses && train 1 f2 $one && losses f2 0 >fp32.losses &&
    train 1 auto $one run.dtype=auto &&
    if grep -q 'bf16 products by \(AMX\|AVX512-BF16\),' log; then as_auto auto bf16; else as_auto auto fp32; fi
result "and bf16 where there are instructions for it: $(grep -o '^dtype: [a-z0-9]*' log)"
two="parallel.ep=2 train.micro_batch=4 train.steps=4"
cat >mixed <<EOS
#!/bin/sh
[ "\$PMIX_RANK" != 1 ] || export SLUICE_CPU_ISA=avx2
exec $sluice "\$@"
EOS
chmod +x mixed
sluice=$tmp/mixed
train 2 f3 $two && losses f3 0 >fp32.losses &&
    train 2 auto2 $two run.dtype=auto && as_auto auto2 fp32
result "one rank without them makes it fp32 on all"
