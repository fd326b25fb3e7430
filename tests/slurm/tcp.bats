# SPDX-License-Identifier: Apache-2.0
# Nodes that only TCP joins: each slurmd in a network namespace of its own. What goes as
# messages there must give the bits that shared memory gives.
load testbed
setup_file() {
    testbed_start --netns
    export PATH=$top_srcdir/slurm:$PATH
    cd "$TB"
    cat "$top_srcdir"/doc/*.md "$top_srcdir/LICENSE" >text.txt
    sluice data build --tokenizer bytes --validation 0.05 --out corpus.h5 text.txt >data.log
    cp "$top_srcdir/slurm/examples/quickstart.json" model.json
    cat >run.yaml <<'EOF2'
model: {config: model.json}
data: {corpus: corpus.h5, sequence: 64}
train: {steps: 12, global_batch: 8, micro_batch: 2, validate_every: 6, log_every: 6}
parallel: {ep: 4}
moe: {aux_scope: sequence}
optim: {lr: 3e-3, warmup: 4}
checkpoint: {every: 12}
EOF2
}
teardown_file() { testbed_stop; }
setup() { cd "$TB"; }

train() { # train FOLDER "SRUN FLAGS" [argument ...]
    local folder=$1 flags=$2
    shift 2
    # shellcheck disable=SC2086
    timeout 100 srun --mpi=pmix --cpus-per-task=1 $flags sluice train run.yaml \
        run.dir="$folder" "$@" >"$folder.log" 2>&1 || { cat "$folder.log" >&2; return 1; }
}

losses() {
    sed -n 's/^{\("step": [0-9]*\),.*\("loss": [^,]*\),.*\("grad_norm": [^,]*\),.*/\1 \2 \3/p' \
        "$1/metrics.jsonl"
}

tensors() { sluice ckpt info "$1" | awk '/^(weights|adamw)/ {print $1, $NF}'; }

# same FOLDER FOLDER: losses, gradient norms, and the bits of weights and moments
same() {
    [ "$(losses "$1" | wc -l)" -eq 12 ]
    diff <(losses "$1") <(losses "$2")
    [ "$(tensors "$1" | wc -l)" -gt 50 ]
    diff <(tensors "$1") <(tensors "$2")
}

@test "the nodes see each other by their own addresses only" {
    run srun -N2 --ntasks-per-node=1 --mpi=none sh -c 'hostname -I'
    [ "$status" -eq 0 ]
    [ "$(sort -u <<<"$output" | wc -l)" -eq 2 ]
}

@test "doctor and the start name the path chosen for each peer" {
    run timeout 60 srun -N2 --ntasks-per-node=2 --mpi=pmix sluice doctor
    echo "$output"
    [ "$status" -eq 0 ]
    [[ $output == *"near ("*") to 1 peer of each rank, message (tcp) to 2 peers of each rank"* ]]
    [[ $output == *"rank 0 "*"near 1 ("*"), message 2-3 (tcp)"* ]]
    [[ $output == *"rank 3 "*"near 2 ("*"), message 0-1 (tcp)"* ]]
    UCX_TLS=tcp,self run timeout 60 srun -N2 --ntasks-per-node=2 --mpi=pmix sluice doctor
    [[ $output == *"message (tcp) to 3 peers of each rank"* ]]
}

@test "training over TCP, 4 ranks on 2 nodes: the bits of shared memory" {
    train shm "-N1 -n4 --overcommit"
    UCX_TLS=tcp,self train tcp "-N2 --ntasks-per-node=2" parallel.allow_tcp=true
    train mixed "-N2 --ntasks-per-node=2"
    same shm tcp
    same shm mixed
    grep -q '^exchange: near ([a-z+]*) to 3 peers of each rank$' shm.log
    grep -q '^exchange: message (tcp) to 3 peers of each rank$' tcp.log
    grep -q '^exchange: near (.*) to 1 peer of each rank, message (tcp) to 2 ' mixed.log
}
