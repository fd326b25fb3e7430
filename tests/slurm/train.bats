# SPDX-License-Identifier: Apache-2.0
# The engine under Slurm: 4 ranks on 2 nodes, 6 experts over 4 ranks, from sbatch to the
# export. Losses are compared digit by digit where the layout is the same.
load testbed
setup_file() {
    testbed_start
    export PATH=$top_srcdir/slurm:$PATH
    cd "$TB"
    cat "$top_srcdir"/doc/*.md "$top_srcdir/LICENSE" >text.txt
    sluice data build --tokenizer bytes --validation 0.05 --out corpus.h5 text.txt >data.log
    cat >model.json <<'EOF'
{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 256,
 "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
 "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 64,
 "moe_intermediate_size": 32, "num_experts": 6, "num_experts_per_tok": 2,
 "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
 "hidden_act": "silu", "attention_bias": false, "rms_norm_eps": 1e-6,
 "rope_theta": 10000.0, "max_position_embeddings": 512, "tie_word_embeddings": false,
 "initializer_range": 0.02, "router_aux_loss_coef": 0.01}
EOF
    cat >run.yaml <<'EOF'
model: {config: model.json}
data: {corpus: corpus.h5, sequence: 64}
run: {dir: whole}
train: {steps: 400, global_batch: 8, micro_batch: 2, validate_every: 200, log_every: 100}
parallel: {ep: 4}
moe: {aux_scope: sequence}
optim: {lr: 3e-3, warmup: 10}
checkpoint: {every: 20}
EOF
    # The run that nothing interrupts; the others are compared with it.
    sbatch --wait --output=whole.log "$top_srcdir/slurm/sluice-train.sbatch" run.yaml ||
        { cat whole.log >&2; return 1; }
}
teardown_file() { testbed_stop; }
setup() { cd "$TB"; }

# losses FOLDER: what must be the same bits: step, loss, gradient norm
losses() {
    sed -n 's/^{\("step": [0-9]*\),.*\("loss": [^,]*\),.*\("grad_norm": [^,]*\),.*/\1 \2 \3/p' \
        "$1/metrics.jsonl"
}

submit() { # submit FOLDER [argument ...]: sets id
    local folder=$1
    shift
    id=$(sbatch --parsable --output="$folder.log" "$top_srcdir/slurm/sluice-train.sbatch" \
        run.yaml run.dir="$folder" "$@")
}

ends_as() { # ends_as STATE CODE
    wait_for 90 job_is "$id" COMPLETED FAILED SPECIAL_EXIT &&
        job_is "$id" "$1" && [ "$(job_exit "$id")" -eq "$2" ] && return
    { scontrol show job "$id"; sinfo -N -o "%N %T %E"; tail -n 30 ./*.log slurmctld.log; } >&2
    return 1
}

# saved FOLDER: a checkpoint is there, and most of the 400 steps are still to come
saved() { ls "$1/checkpoints" 2>/dev/null | grep -q "^step-"; }
# started FOLDER: sets pid, the process of rank 2
started() { pid=$(rank_pid 2 "$1") && [ -n "$pid" ]; }

# rank_pid N FOLDER: the process of rank N of the run in FOLDER
rank_pid() {
    local p
    for p in /proc/[0-9]*; do
        [ "$(cat "$p/comm" 2>/dev/null)" = sluice ] || continue
        tr '\0' '\n' <"$p/environ" 2>/dev/null | grep -qx "SLURM_PROCID=$1" || continue
        tr '\0' '\n' <"$p/cmdline" | grep -qx "run.dir=$2" || continue
        echo "${p#/proc/}"
    done | head -n 1
}

@test "4 ranks on 2 nodes train: the loss falls, no token is dropped" {
    [ "$(losses whole | wc -l)" -eq 400 ]
    # The text is the documentation, which changes: a share of the first loss, over ten steps.
    losses whole | sed 's/.*"loss": \([^ ]*\).*/\1/' |
        awk 'NR == 1 { first = $1 } NR > 390 { last += $1 / 10 }
             END { print first, last; exit !(first > 5 && last < 0.65 * first) }'
    if grep -q '"dropped": [1-9]' whole/metrics.jsonl; then return 1; fi
    # tokens went between ranks in every step
    [ "$(grep -c '"loss".*"\(near\|far\)_bytes": [1-9]' whole/metrics.jsonl)" -eq 400 ]
    grep -q '4 on 2 nodes' whole.log
    grep -q 'sluice-job: done' whole.log
}

@test "checkpoints: kept two, every byte proven, exported, spoken" {
    [ "$(ls whole/checkpoints | grep -c '^step-')" -eq 2 ]
    sluice ckpt verify whole/checkpoints/step-00000400
    sluice ckpt export whole/checkpoints/step-00000400 model
    [ -s model/config.json ]
    run sluice generate --model model --prompt "The " --tokens 8
    [ "$status" -eq 0 ]
}

@test "every rank writes its own extents of the one file" {
    command -v strace >/dev/null || skip "strace is not installed"
    strace -o /dev/null true || skip "this machine does not let strace trace"
    cat >strace.sh <<'EOF'
#!/bin/sh
exec strace -f -y -e trace=pwrite64 -o "pwrite.$SLURM_PROCID" sluice "$@"
EOF
    srun --nodes=2 --ntasks-per-node=2 --mpi=pmix sh strace.sh train run.yaml \
        run.dir=traced train.steps=2
    for rank in 0 1 2 3; do
        # path, offset and length of each write to state.h5
        sed -n 's/.*pwrite64([0-9]*<\([^>]*state.h5\)>.*, \([0-9]*\), \([0-9]*\)) *= .*/\3 \2 '$rank'/p' \
            "pwrite.$rank" >"extents.$rank"
        [ -s "extents.$rank" ]
    done
    # no byte is written by two ranks
    sort -n extents.? | awk '$1 < end && $3 != last { print "overlap at", $1; bad = 1 }
        { if ($1 + $2 > end) { end = $1 + $2; last = $3 } } END { exit bad }'
}

@test "the same sbatch again finds nothing to do" {
    before=$(md5sum whole/checkpoints/step-00000400/*)
    submit whole
    ends_as COMPLETED 0
    [ "$(md5sum whole/checkpoints/step-00000400/*)" = "$before" ]
    [ "$(losses whole | wc -l)" -eq 400 ]
}

@test "USR1: saved at a step boundary, requeued, and the same bits as uninterrupted" {
    submit usr1
    wait_for 60 saved usr1
    scancel --batch --signal=USR1 "$id"
    ends_as COMPLETED 0
    grep -q 'checkpointed before the end.*requeued' usr1.log
    grep -q 'start 2: 4 ranks' usr1.log
    diff <(losses whole) <(losses usr1)
}

@test "a killed rank: cause named, requeued, and the same bits as uninterrupted" {
    submit killed
    wait_for 60 started killed
    wait_for 60 saved killed
    kill -KILL "$pid"
    ends_as COMPLETED 0
    grep -q 'a rank failed (rank 2 on c2.*requeued' killed.log
    diff <(losses whole) <(losses killed)
}

@test "resumed on 2 ranks with ep 2, and on 1" {
    cp -r whole moved
    id=$(sbatch --parsable --output=moved.log --nodes=1 --ntasks-per-node=2 \
        "$top_srcdir/slurm/sluice-train.sbatch" run.yaml run.dir=moved parallel.ep=2 \
        train.steps=403)
    ends_as COMPLETED 0
    sluice train run.yaml run.dir=moved parallel.ep=1 train.steps=406 >moved.1.log
    [ "$(losses moved | wc -l)" -eq 406 ]
    sluice ckpt verify moved/checkpoints/step-00000406
}

@test "a bad run file ends the job with 78 before anything is written" {
    submit bad train.stepz=3
    ends_as FAILED 78
    grep -q 'train.steps' bad.log
    [ ! -e bad ]
}
