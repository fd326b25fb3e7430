#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Two ranks on one GPU: gradients by NCCL, tokens through pinned host memory. NCCL refuses
# two ranks of one host on one GPU, so each says it is a host of its own. Where there are two
# GPUs, the same with one each, on one host.
. "${top_srcdir:-.}/tests/cuda/functions.sh"
if ! ldconfig -p 2>/dev/null | grep -q libnccl.so.2 && ! (
    IFS=:
    for d in $LD_LIBRARY_PATH; do [ -e "$d/libnccl.so.2" ] && exit 0; done
    exit 1
); then
    echo "1..0 # SKIP libnccl.so.2 is not there"
    exit 0
fi
seen=$CUDA_VISIBLE_DEVICES
[ -n "$seen" ] || seen=$(seq -s , 0 $(($(nvidia-smi -L | grep -c ^GPU) - 1)))
case $seen in *,*) echo 1..12 ;; *) echo 1..10 ;; esac
CUDA_VISIBLE_DEVICES=${seen%%,*}
export CUDA_VISIBLE_DEVICES
NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 NCCL_NVLS_ENABLE=0
export NCCL_SOCKET_IFNAME NCCL_IB_DISABLE NCCL_NVLS_ENABLE

cat >own_host <<END
#!/bin/sh
NCCL_HOSTID=host\$PMIX_RANK exec "$sluice" "\$@"
END
chmod +x own_host
two() { sluice=$tmp/own_host gpu 2 "$@"; }

gpu 1 one parallel.ep=1 train.micro_batch=4
result "one rank"
two nccl parallel.ep=1 train.micro_batch=2 && grep -q '^backend: cuda.*NCCL' log
result "two ranks, gradients by NCCL"
two host parallel.ep=1 train.micro_batch=2 parallel.collectives=host
agree nccl host 1e-5
result "as through host memory, to 1e-5"
agree nccl one 1e-5
result "as one rank, to 1e-5"
two again parallel.ep=1 train.micro_batch=2 && same nccl again
result "two runs are the same bits"
two ep2 parallel.ep=2 train.micro_batch=2 && agree ep2 one 1e-5
result "experts on two ranks: as one rank, to 1e-5"
two ep2again parallel.ep=2 train.micro_batch=2 && same ep2 ep2again
result "two runs of them are the same bits"
two far parallel.ep=2 train.micro_batch=2 moe.path=far && agree far one 1e-5
result "tokens by puts: as one rank, to 1e-5"
! gpu 2 shared parallel.ep=1 train.micro_batch=2 &&
    grep -q 'NCCL.*a GPU of its own (--gpus-per-task=1), or set parallel.collectives=host' log
result "one host, one GPU: what to do is said"
if [ "$seen" != "$CUDA_VISIBLE_DEVICES" ]; then
    CUDA_VISIBLE_DEVICES=$seen gpu 2 apart parallel.ep=1 train.micro_batch=2 &&
        grep -q '^backend: cuda.*NCCL' log && same nccl apart
    result "a GPU each: the bits of two ranks on one"
    CUDA_VISIBLE_DEVICES=$seen gpu 2 apart2 parallel.ep=2 train.micro_batch=2 && same ep2 apart2
    result "experts on two GPUs: the bits of two ranks on one"
fi

used() { nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -n 1; }
before=$(used)
"$launch" -n 2 "$tmp/own_host" train "$here/run.yaml" model.config="$here/tiny.json" \
    data.corpus="$tmp/corpus.h5" run.dir=killed run.device=cuda parallel.ep=1 \
    train.steps=1000000 >log 2>&1 &
pid=$!
for _ in $(seq 300); do
    lines=$(wc -l 2>/dev/null <killed/metrics.jsonl)
    [ "${lines:-0}" -gt 20 ] && break
    sleep 0.1
done
kill -KILL "$(ps -o pid= --ppid $pid | tail -n 1)"
start=$(date +%s%N)
for _ in $(seq 100); do
    [ -f killed/reason.json ] && break
    sleep 0.05
done
took=$((($(date +%s%N) - start) / 1000000))
wait $pid
sleep 1
after=$(used)
echo "# reason.json after $took ms; GPU memory $before MiB before, $after MiB after"
[ "${lines:-0}" -gt 20 ] && grep -q '"rank"' killed/reason.json && [ $took -lt 5000 ] &&
    [ "$after" -le $((before + 64)) ]
result "a killed rank: reason.json within 5 s, no GPU memory held"
