/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "moe/balance.h"

Test(moe_balance, imbalance)
{
    const int64_t load[] = {6, 2, 0, 4}, none[] = {0, 0};

    cr_expect_float_eq(slc_load_imbalance(load, 4), 2.0, 1e-12);
    cr_expect_float_eq(slc_load_imbalance(none, 2), 0, 0);
}

/*
 * Expected numbers: load_balancing_loss_func of Transformers 5.23.0 on two layers of
 * three tokens, E = 4, K = 2; logits {0.5 -1 0.25 2} {1.5 0 -0.5 0.75}
 * {-0.25 0.125 1 -2} and {0 1 -1 0.5} {2 -2 1.5 0.25} {0.75 0.5 -0.125 1.25}, its
 * gradient by one probability from autograd.
 */
Test(moe_balance, micro_is_transformers)
{
    const double count[] = {4, 2, 2, 4};
    const double prob[] = {1.854330003271, 1.080821847598, 1.274240559333,
                           1.790607589798};
    const double grad[] = {4.0 / 9, 2.0 / 9, 2.0 / 9, 4.0 / 9};
    float slope[4];

    cr_expect_float_eq(slc_aux_micro(4, count, prob, 6, 1, 1, slope), 2.143319465126,
                       1e-9);
    for (int e = 0; e < 4; e++)
        cr_expect_float_eq(slope[e], grad[e], 1e-7);
    cr_expect_float_eq(slc_aux_micro(4, count, prob, 6, 0.02, 0.25, slope),
                       2.143319465126 * 0.005, 1e-9);
    cr_expect_float_eq(slope[1], 2.0 / 9 * 0.005, 1e-9);
}

/* Shares of two ranks add up to the whole. */
Test(moe_balance, micro_is_shared_by_ranks)
{
    const double count[] = {5, 9, 2}, a[] = {1, 2.5, 0.5}, b[] = {2, 1, 1};
    const double both[] = {3, 3.5, 1.5};
    float s[3], t[3];
    double whole = slc_aux_micro(3, count, both, 8, 0.1, 1, s);

    cr_expect_float_eq(slc_aux_micro(3, count, a, 8, 0.1, 1, t) +
                           slc_aux_micro(3, count, b, 8, 0.1, 1, t),
                       whole, 1e-12);
    cr_expect_float_eq(slc_aux_micro(3, count, both, 0, 0.1, 1, s), 0, 0);
}

/* Two documents of 3 and 2 tokens and an empty one; 5 documents in the step; the sum
 * was taken term by term from E/(K T) c * p/T by a script. */
Test(moe_balance, sequence_is_deepseek)
{
    const int32_t count[] = {3, 1, 2, 0, 0, 0, 0, 0, 1, 2, 0, 1};
    const float prob[] = {1.2f, 0.5f, 0.8f, 0.5f, 0, 0, 0, 0, 0.7f, 0.6f, 0.3f, 0.4f};
    float slope[12];

    cr_expect_float_eq(slc_aux_sequence(4, 2, 3, count, prob, 0.01, 5, slope),
                       0.004833333333, 1e-9);
    cr_expect_float_eq(slope[0], 0.001333333333, 1e-9);
    cr_expect_float_eq(slope[5], 0, 0);
    cr_expect_float_eq(slope[9], 0.01 / 5 * 4 / (2 * 2) * 2 / 2, 1e-9);
}

Test(moe_balance, z_loss)
{
    float c;

    cr_expect_float_eq(slc_z_loss(12.5, 0.001, 50, &c), 0.00025, 1e-12);
    cr_expect_float_eq(c, 0.00002, 1e-10);
    cr_expect_float_eq(slc_z_loss(0, 0.001, 0, &c), 0, 0);
    cr_expect_float_eq(c, 0, 0);
}
