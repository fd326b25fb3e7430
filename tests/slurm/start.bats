# SPDX-License-Identifier: Apache-2.0
# A job of many more ranks than cores starts, trains and ends, and says where the time of its
# start went.
load testbed
setup_file() {
    testbed_start --nodes 2 --cpus 8 # more than there are: Slurm believes it
    export PATH=$top_srcdir/slurm:$PATH
    cd "$TB"
    cat "$top_srcdir"/doc/*.md >text.txt
    sluice data build --tokenizer bytes --out corpus.h5 text.txt >data.log
    cat >model.json <<'EOT'
{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 256,
 "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
 "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 64,
 "moe_intermediate_size": 32, "num_experts": 16, "num_experts_per_tok": 2,
 "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
 "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 512,
 "tie_word_embeddings": false, "router_aux_loss_coef": 0.01}
EOT
    cat >run.yaml <<'EOT'
model: {config: model.json}
data: {corpus: corpus.h5, sequence: 32}
run: {dir: run}
train: {steps: 2, global_batch: 16, micro_batch: 1}
parallel: {ep: 16}
EOT
}
teardown_file() { testbed_stop; }
setup() { cd "$TB"; }

# start_line RUN: the object about the start, of the last start
start_line() { grep '"start_s"' "$1/metrics.jsonl" | tail -n 1; }

@test "16 ranks on 2 nodes, experts over all of them: from sbatch to the end" {
    sbatch --wait --output=run.log --nodes=2 --ntasks-per-node=8 --time=5 \
        "$top_srcdir/slurm/sluice-train.sbatch" run.yaml || { cat run.log >&2; return 1; }
    grep -q '16 on 2 nodes' run.log
    grep -q 'sluice-job: done' run.log
    [ "$(grep -c '"loss"' run/metrics.jsonl)" -eq 2 ]
}

@test "the job says where the time from srun to its first step went" {
    grep -q '^first step done [0-9.]* s after srun: launch ' run.log
    start_line run | perl -MJSON::PP -e '
        my $line = decode_json(<STDIN>);
        my ($sum, %phase) = (0, %{$line->{start}});
        $sum += $_ for values %phase;
        abs($sum - $line->{start_s}) < 1e-4 or die "phases add up to $sum, not $line->{start_s}\n";
        $_ >= 0 or die "a phase went backwards\n" for values %phase;
        exists $phase{$_} or die "no phase $_\n"
            for "launch", "pmix", "connect", "data", "model", "weights", "first step";
        $line->{start_from} eq "srun" or die "counted from $line->{start_from}\n";
        $line->{start_s} > 0.05 && $line->{start_s} < 60 or die "$line->{start_s} s\n";
        $line->{start_cpu_s} > 0.05 or die "CPU time $line->{start_cpu_s}\n";'
}

@test "resumed, and without a Slurm: counted from the process, once a start" {
    OMP_NUM_THREADS=1 sluice train run.yaml parallel.ep=1 train.micro_batch=8 train.steps=4 >alone.log
    grep -q '^first step done [0-9.]* s after the first process began: ' alone.log
    [ "$(grep -c '"start_s"' run/metrics.jsonl)" -eq 2 ]
    start_line run | grep -q '^{"step": 3, .*"start_from": "process"'
    [ "$(grep -c '"loss"' run/metrics.jsonl)" -eq 4 ]
}

@test "an old SLUICE_SRUN_AT is not believed" {
    SLUICE_SRUN_AT=1000.5 OMP_NUM_THREADS=1 sluice train run.yaml parallel.ep=1 \
        train.micro_batch=8 train.steps=1 run.dir=old >old.log
    start_line old | grep -q '"start_from": "process"'
}
