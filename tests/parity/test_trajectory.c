/* SPDX-License-Identifier: Apache-2.0 */
/* Twenty training steps against Transformers with torch.optim.AdamW. */
#include <criterion/criterion.h>
#include <math.h>

#include "optim/optim.h"
#include "tests/parity/golden.h"

static struct slc_optim *open_optim(struct golden *g)
{
    struct slc_err e = SLC_ERR_INIT;
    const struct slc_optim_options oo = {
        .beta1 = golden_number(g->c, "hyper", "beta1"),
        .beta2 = golden_number(g->c, "hyper", "beta2"),
        .eps = golden_number(g->c, "hyper", "eps"),
        .weight_decay = golden_number(g->c, "hyper", "weight_decay"),
        .clip = golden_number(g->c, "hyper", "clip_norm"),
    };
    struct slc_optim *optim = slc_optim_create(&g->params, &oo, &e);

    cr_assert_not_null(optim, "%s", e.text);
    cr_assert_eq(slc_optim_adopt_weights(optim, g->q, &e), 0, "%s", e.text);
    return optim;
}

/* c[key][kind][step] */
static double value(const json_t *c, const char *key, const char *kind, size_t step)
{
    const json_t *list = json_object_get(c, key);

    if (kind)
        list = json_object_get(list, kind);
    const json_t *v = json_array_get(list, step);
    cr_assert(json_is_number(v), "%s of step %zu", key, step);
    return json_number_value(v);
}

/* One step on batch `step`; the relative distance of its loss to the double run. */
static double run_step(struct golden *g, struct slc_optim *optim, size_t step)
{
    const json_t *batch = json_array_get(json_object_get(g->c, "batches"), step);
    struct slc_err e = SLC_ERR_INIT;
    struct slc_optim_report report;
    struct slc_model_result out;
    struct slc_loss_weights w;
    struct slc_batch b;

    golden_batch(&b, &w, batch);
    slc_optim_zero_grad(optim, g->q);
    cr_assert_eq(slc_model_forward(g->model, &b, &w, NULL, NULL, &out, &e), 0, "%s",
                 e.text);
    cr_assert_eq(slc_model_backward(g->model, &e), 0, "%s", e.text);
    cr_assert_eq(
        slc_optim_step(optim, g->q, value(g->c, "lr", NULL, step), true, &report, &e),
        0, "%s", e.text);
    golden_batch_free(&b);

    const double loss = out.loss_sum / w.targets + out.aux;
    const double fp32 = value(g->c, "loss", "fp32", step);
    const double fp64 = value(g->c, "loss", "fp64", step);
    const double norm = value(g->c, "grad_norm", "fp64", step);
    cr_assert_leq(fabs(loss - fp32), 1e-5 * fp32, "step %zu: loss %.9g, reference %.9g",
                  step + 1, loss, fp32);
    cr_assert_leq(fabs(report.grad_norm - norm), 1e-4 * norm,
                  "step %zu: norm %.9g, %.9g", step + 1, report.grad_norm, norm);
    return fabs(loss - fp64) / fp64;
}

static void check_trajectory(const char *name, const char *backend, bool recompute)
{
    const struct slc_model_options o = {.recompute = recompute};
    struct golden g;
    double worst = 0;

    golden_open(&g, name, backend, &o);
    struct slc_optim *optim = open_optim(&g);
    const size_t steps = json_array_size(json_object_get(g.c, "batches"));
    cr_assert_eq(steps, 20);
    for (size_t s = 0; s < steps; s++)
        worst = fmax(worst, run_step(&g, optim, s));
    const double reference = golden_number(g.c, "error", "fp32");
    cr_log_info("%s on %s: %.3g from double, Transformers fp32 %.3g", name, backend,
                worst, reference);
    cr_assert_leq(worst, 20 * reference,
                  "%s on %s: %.3g from double, Transformers %.3g", name, backend, worst,
                  reference);
    slc_optim_destroy(optim);
    golden_close(&g);
}

Test(trajectory, ref, .timeout = 120)
{
    check_trajectory("qwen3_moe-trajectory", "ref", false);
}

Test(trajectory, cpu, .timeout = 120)
{
    check_trajectory("qwen3_moe-trajectory", golden_backend(), false);
}

Test(trajectory, aux_ref, .timeout = 120)
{
    check_trajectory("qwen3_moe-trajectory-aux", "ref", false);
}

Test(trajectory, aux_cpu_recompute, .timeout = 120)
{
    check_trajectory("qwen3_moe-trajectory-aux", golden_backend(), true);
}
