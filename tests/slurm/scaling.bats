# SPDX-License-Identifier: Apache-2.0
# The scaling benchmarks as an operator uses them: a copy of the installed folder, one file
# edited, submitted once; 1, 2 and 4 ranks.
load testbed
setup_file() {
    testbed_start
    cd "$TB"
    cp -r "$top_srcdir/benchmarks/scaling" scaling
    chmod -R u+w scaling
    cat >scaling/model.json <<'EOT'
{"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 256,
 "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
 "num_key_value_heads": 1, "head_dim": 16, "intermediate_size": 64,
 "moe_intermediate_size": 32, "num_experts": 6, "num_experts_per_tok": 2,
 "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
 "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 512,
 "tie_word_embeddings": false, "router_aux_loss_coef": 0.01}
EOT
    # set NAME VALUE: in the one file
    sed -i 's/^sequence=[0-9]*/sequence=32/; s/^steps=[0-9]*/steps=3/; s/^warmup=[0-9]*/warmup=1/
        s/^repeats=[0-9]*/repeats=2/; s/^global_batch=[0-9]*/global_batch=8/
        s/^rank_batch=[0-9]*/rank_batch=4/; s/^micro_batch=[0-9]*/micro_batch=2/' scaling/scaling.conf
}
teardown_file() { testbed_stop; }
setup() { cd "$TB"; }

column() { # column NAME CSV: its values, a line each
    awk -F, -v name="$1" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) at = i; next }
        { print $at }' "$2"
}
words() { echo $*; }

@test "strong: every size in one job, one CSV; the rows of a step stay the same" {
    sbatch --wait scaling/strong.sbatch || { cat scaling-strong-*.log >&2; return 1; }
    csv=$(echo scaling-strong-*/scaling.csv)
    [ "$(words $(column ranks $csv))" = "1 2 4" ]
    [ "$(words $(column nodes $csv))" = "1 1 2" ]
    [ "$(words $(column ep $csv))" = "1 2 4" ] # the experts need not be a multiple
    [ "$(words $(column global_batch $csv))" = "8 8 8" ]
    [ "$(words $(column micro_batch $csv))" = "2 2 2" ]
    [ "$(words $(column repeats $csv))" = "2 2 2" ]
}

@test "the figures agree with each other and with metrics.jsonl" {
    csv=$(echo scaling-strong-*/scaling.csv)
    # every phase that metrics.jsonl knows is a column
    one=$(echo scaling-strong-*/runs/2x2.1.jsonl)
    for phase in $(grep -o '"time": {[^}]*}' $one | head -n 1 | grep -o '"[a-z_]*": [0-9]' |
        sed 's/"\(.*\)".*/\1/'); do
        column "time_${phase}_s" $csv | grep -q '^[0-9.]'
    done
    perl -MJSON::PP -e '
        my $csv = shift;
        open my $f, "<", $csv or die; chomp(my @l = <$f>);
        my @name = split /,/, shift @l;
        my @row = map { my %r; @r{@name} = split /,/; \%r } @l;
        for my $r (@row) {
            my @rate;
            for my $repeat (1, 2) {
                my ($tokens, $s, $seen) = (0, 0, 0);
                my $size = "$r->{nodes}x" . $r->{ranks} / $r->{nodes};
                (my $run = $csv) =~ s{scaling.csv}{runs/$size.$repeat.jsonl};
                open my $m, "<", $run or die "$run: $!\n";
                for (map { decode_json($_) } <$m>) {
                    next if !exists $_->{loss} or $seen++ < 1;
                    $tokens += $_->{tokens_per_s} * $_->{step_s};
                    $s += $_->{step_s};
                }
                $seen == 4 or die "$run has $seen steps\n";
                push @rate, $tokens / $s;
            }
            @rate = sort { $a <=> $b } @rate;
            my $near = sub { abs($_[0] - $_[1]) <= 1e-3 * abs($_[1]) or die "$_[2]: $_[0], not $_[1]\n" };
            $near->($r->{tokens_per_s}, ($rate[0] + $rate[1]) / 2, "median");
            $near->($r->{tokens_per_s_min}, $rate[0], "least");
            $near->($r->{tokens_per_s_max}, $rate[1], "most");
            $near->($r->{ideal_tokens_per_s}, $row[0]{tokens_per_s} * $r->{ranks}, "ideal");
            $near->($r->{efficiency}, $r->{tokens_per_s} / $r->{ideal_tokens_per_s}, "efficiency");
            ($r->{exchange_gb_per_s} > 0) == ($r->{ep} > 1) or die "exchange at ep $r->{ep}\n";
        }' "$csv"
}

@test "the plot has the ideal line; without gnuplot it is said, and the CSV stands" {
    dir=$(echo scaling-strong-*/)
    mkdir -p few
    for tool in bash awk sed sort mktemp rm ls tee dirname; do ln -sf "$(command -v $tool)" few; done
    cp -r "$dir" again
    rm -f again/scaling.csv again/scaling.svg
    PATH=$TB/few run scaling/report strong again 1
    [ "$status" -eq 0 ]
    [[ $output == *"gnuplot is missing (apt-get install gnuplot-nox"* ]]
    cmp again/scaling.csv "$dir/scaling.csv"
    command -v gnuplot >/dev/null || skip "gnuplot is not installed"
    grep -q '<svg' "$dir/scaling.svg"
    grep -q 'ideal' "$dir/scaling.svg"
}

@test "weak: tokens of a rank stay the same" {
    sbatch --wait scaling/weak.sbatch || { cat scaling-weak-*.log >&2; return 1; }
    csv=$(echo scaling-weak-*/scaling.csv)
    [ "$(words $(column ranks $csv))" = "1 2 4" ]
    [ "$(words $(column global_batch $csv))" = "4 8 16" ]
    grep -q 'tokens/s' scaling-weak-*.log
}

@test "a size that fails is named with its cause, the others run; sluice comes from a module" {
    mkdir -p modulebin
    cat >modulebin/sluice <<EOT
#!/bin/bash
[ "\$1" = train ] && [ "\${SLURM_STEP_NUM_TASKS:-}" = 2 ] && { echo "sluice: no luck today" >&2; exit 82; }
exec $(command -v sluice) "\$@"
EOT
    chmod +x modulebin/sluice
    sed 's/^sizes=.*/sizes="1x1 1x2 2x2 1x3"/; s/^repeats=.*/repeats=1/; s/^sbatch_flags=.*/sbatch_flags="--time=5"/' \
        scaling/scaling.conf >scaling/other.conf
    module() { [ "$1 $2" = "load sluice" ] && PATH=$TB/modulebin:$PATH; }
    export -f module
    mkdir -p other && cd other
    # too small for 1x3 and without a time limit of its own: it submits itself once more
    PATH=${PATH#"$top_builddir":} run sbatch --wait "$TB/scaling/strong.sbatch" "$TB/scaling/other.conf"
    [ "$status" -eq 0 ]
    id=$(sed -n 's/.*submitted as job \([0-9]*\) on 2 nodes, 3 ranks each.*/\1/p' scaling-strong-*.log)
    wait_for 60 job_is "$id" FAILED COMPLETED
    job_is "$id" FAILED
    log=scaling-strong-$id.log
    grep -q '1x2 failed: exit code 82: sluice: no luck today' $log
    grep -q '1x3 failed: global_batch 8 cannot be shared evenly by 3 ranks' $log
    [ "$(words $(column ranks scaling-strong-$id/scaling.csv))" = "1 4" ]
}

@test "wrong settings are refused by name" {
    sed 's/^sizes=.*/sizes="2by2"/' scaling/scaling.conf >scaling/bad.conf
    run scaling/strong.sbatch "$TB/scaling/bad.conf"
    [ "$status" -eq 78 ]
    [[ $output == *"sizes: 2by2 is not NODESxRANKS_PER_NODE"* ]]
    sed 's/^model=.*/model=none.json/' scaling/scaling.conf >scaling/bad.conf
    run scaling/strong.sbatch "$TB/scaling/bad.conf"
    [ "$status" -eq 78 ]
    [[ $output == *"none.json: no such file"* ]]
}
