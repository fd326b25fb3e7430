/* SPDX-License-Identifier: Apache-2.0 */
#include "config/options.h"
#include "config/options_private.h"

/* The type of an entry is that of its member: the two cannot disagree. */
#define TYPE_OF(member)                                                                \
    _Generic(((struct slc_options *)0)->member, char *                                 \
             : SLC_OPT_STR, int64_t                                                    \
             : SLC_OPT_INT, double                                                     \
             : SLC_OPT_REAL, bool                                                      \
             : SLC_OPT_BOOL)
#define ENTRY(section_, key_, def_, doc_, choices_, min_, max_)                        \
    {                                                                                  \
        .section = #section_, .key = #key_, .type = TYPE_OF(section_.key_),            \
        .def = def_, .doc = doc_, .choices = choices_, .min = min_, .max = max_,       \
        .offset = offsetof(struct slc_options, section_.key_)                          \
    }
#define WORD(section, key, def, doc) ENTRY(section, key, def, doc, NULL, 0, 0)
#define CHOICE(section, key, def, choices, doc) ENTRY(section, key, def, doc, choices, 0, 0)
#define FLAG(section, key, def, doc) ENTRY(section, key, def, doc, NULL, 0, 0)
#define NUMBER(section, key, def, min, max, doc)                                       \
    ENTRY(section, key, def, doc, NULL, min, max)

/* Every integer up to here is a double too, so that ranges need one type only. */
#define BIG 9007199254740992.0

const struct slc_option slc_option_table[] = {
    WORD(model, config, NULL,
         "The model: a Hugging Face config.json, or a folder that holds one. Families "
         "(its model_type): mixtral, olmoe, qwen3_moe. What a family or Sluice does not "
         "have (attention_bias, rope_scaling, ...) is refused by name."),
    WORD(model, weights, "",
         "Hugging Face folder with the safetensors to start from. Empty: random weights."),
    NUMBER(model, seed, "0", 0, BIG,
           "Seed of the random weights. The same seed gives the same weights on any number "
           "of ranks."),

    WORD(data, corpus, NULL, "Corpus file made by sluice data build."),
    NUMBER(data, sequence, "512", 2, 16777216,
           "Tokens in one packed row: the longest context a token can see."),
    NUMBER(data, seed, "0", 0, BIG, "Seed of the order of the rows."),
    FLAG(data, shuffle, "true",
         "Take the rows of each epoch in a new random order. False: in the order of the "
         "file."),

    WORD(run, dir, NULL,
         "Run folder: metrics, checkpoints and reason.json go here. A second start with the "
         "same folder resumes."),
    CHOICE(run, device, "cpu", "cpu|cuda|ref|strict",
           "What computes. cpu: all cores of the rank; cuda: one GPU a rank; ref and strict: "
           "slow, for tests."),
    NUMBER(run, threads, "0", 0, 4096,
           "CPU threads of a rank. 0: as many as Slurm granted to the task."),
    NUMBER(run, attention_mib, "2048", 1, 1e6,
           "GPU memory in MiB for scores that the deterministic backward of bf16 attention "
           "keeps: 2 S^2 bytes a head of a row of S tokens; less memory, fewer heads at once. "
           "What takes more for one head is refused."),
    CHOICE(run, dtype, "fp32", "fp32|bf16|auto",
           "Type of weights and activations in the computation. Master weights and moments "
           "are fp32 unless optim.states says otherwise. auto: bf16 where the CPUs or GPUs of "
           "all ranks have instructions for it, else fp32; the start says which."),

    NUMBER(train, steps, NULL, 0, 1e12, "Optimizer steps of the whole run, resumes included."),
    NUMBER(train, global_batch, "32", 1, 1e9,
           "Rows in one optimizer step, over all ranks. A multiple of ranks times "
           "train.micro_batch."),
    NUMBER(train, micro_batch, "1", 1, 1e6,
           "Rows of one rank in one forward and backward; the rest of the step accumulates."),
    FLAG(train, recompute, "false",
         "Keep only the input of each layer and compute the layer again in backward: less "
         "memory, about a third more time."),
    FLAG(train, timing, "false",
         "Wait for the device at the end of each phase of a step, so that the times by phase in "
         "metrics.jsonl are those of the work and not of its launch. Slower."),
    NUMBER(train, validate_every, "0", 0, 1e12,
           "Steps between two validations. 0: none."),
    NUMBER(train, validate_rows, "0", 0, 1e12,
           "Rows of a validation. 0: the whole held-out part."),
    NUMBER(train, max_bad_steps, "10", 1, 1e9,
           "Steps in a row that may be skipped because a loss or gradient was not finite; "
           "one more ends the run."),
    NUMBER(train, log_every, "1", 1, 1e9, "Steps between two progress lines."),
    NUMBER(train, max_time, "0", 0, 1e9,
           "Seconds after which the run saves a checkpoint and leaves with code 75, to be "
           "submitted again. 0: no limit."),

    NUMBER(parallel, ep, "1", 1, 1e6,
           "Expert parallel size: ranks that share one copy of the experts. Divides the "
           "number of ranks and is no larger than the number of experts."),
    FLAG(parallel, allow_tcp, "false",
         "Allow TCP between ranks of one node, where shared memory is expected. Without it "
         "such a start is refused."),

    CHOICE(parallel, collectives, "auto", "auto|host",
           "How ranks with GPUs sum gradients and gather weights. auto: by NCCL, in the "
           "memory of the GPUs; host: through host memory, as ranks on CPUs do."),

    CHOICE(moe, aux_scope, "micro", "micro|sequence|none",
           "Tokens over which the load balancing loss is taken: micro: those of one "
           "micro-batch on all ranks, as Transformers does; sequence: each document alone; "
           "none: no such loss."),
    NUMBER(moe, aux_coef, "-1", -1, 1e6,
           "Weight of the load balancing loss. Negative: router_aux_loss_coef of the model."),
    NUMBER(moe, z_coef, "0", 0, 1e6,
           "Weight of the router z-loss (mean square of the log-sum-exp of the logits)."),
    NUMBER(moe, window_factor, "1.25", 0.01, 1000,
           "Rows of a dispatch window over the rows that even routing needs. More than fit "
           "travel in further rounds; none is dropped."),
    NUMBER(moe, window_rows, "0", 0, 2147483647,
           "Exactly so many rows in a dispatch window, whatever moe.window_factor says. 0: "
           "off."),
    CHOICE(moe, path, "auto", "auto|far",
           "How tokens travel between ranks of one node. auto: through shared memory where "
           "it is; far: always by network puts."),

    NUMBER(optim, lr, "3e-4", 0, 1e6, "Peak learning rate of AdamW."),
    NUMBER(optim, min_lr_ratio, "0.1", 0, 1,
           "Learning rate at the end of the schedule as a share of the peak."),
    NUMBER(optim, beta1, "0.9", 0, 0.999999999, "Decay of the first moment."),
    NUMBER(optim, beta2, "0.95", 0, 0.999999999, "Decay of the second moment."),
    NUMBER(optim, eps, "1e-8", 1e-30, 1, "Added to the root of the second moment."),
    NUMBER(optim, weight_decay, "0.1", 0, 1e3,
           "Decoupled weight decay. Norm weights are never decayed."),
    NUMBER(optim, clip, "1", 0, 1e9,
           "Largest global norm of the gradient; a larger one is scaled down to it. 0: no "
           "clipping."),
    CHOICE(optim, schedule, "cosine", "cosine|linear|constant|wsd",
           "Learning rate after the warm-up. wsd: constant, then linear over the last "
           "optim.decay steps."),
    CHOICE(optim, states, "fp32", "fp32|bf16",
           "What the optimizer keeps for each weight. fp32: master weight and both moments, 12 "
           "bytes. bf16 (with run.dtype bf16): the weight of the computation is the only one "
           "and the moments are bf16, 4 bytes more; each update is rounded at random, by a "
           "function of model.seed, weight and update, so that runs repeat to the bit; the "
           "gradients of a step of one micro-batch on one rank are bf16 too. Checkpoints hold "
           "fp32 either way."),
    NUMBER(optim, warmup, "0", 0, 1e12, "Steps of linear warm-up."),
    NUMBER(optim, decay, "0", 0, 1e12, "Steps of the last phase of the wsd schedule."),

    NUMBER(checkpoint, every, "0", 0, 1e12,
           "Steps between two checkpoints. 0: only at the end and on signals."),
    FLAG(checkpoint, at_end, "true",
         "Save one when the run ends with its last step. False: for measurements."),
    NUMBER(checkpoint, keep, "2", 1, 1e6,
           "Checkpoints to keep; older ones are removed once a newer one is proven."),
    WORD(checkpoint, from, "",
           "Checkpoint folder (step-NNNNNNNN) of another run to go on from when this run's "
           "folder has none: weights, optimizer and counters. Empty: none."),
};

enum { COUNT = sizeof(slc_option_table) / sizeof(slc_option_table[0]) };
_Static_assert(COUNT <= SLC_OPTION_MAX, "raise SLC_OPTION_MAX");
const int slc_option_count = COUNT;
