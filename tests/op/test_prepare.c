/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/op/op.h"

/* What kernels/cpu cannot compute is refused at set-up, with what to do instead. */
Test(prepare, refuses_what_it_cannot_do)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_backend *b = slc_backend_open("cpu", NULL, &e);

    cr_assert(b, "%s", e.text);
    cr_assert_eq(
        SLC_PREPARE(b, attention_forward, &e, .T = 4, .NQ = 1, .NK = 1, .D = 512), -1);
    cr_assert(e.code == SLC_EXIT_UNSUPPORTED && strstr(e.text, "head width 512"), "%s",
              e.text);
    cr_assert_eq(
        SLC_PREPARE(b, attention_backward, &e, .T = 4, .NQ = 1, .NK = 1, .D = 7), -1);
    cr_assert_eq(
        SLC_PREPARE(b, qkv_rope_forward, &e, .T = 4, .NQ = 1, .NK = 1, .D = 258), -1);
    cr_assert_eq(SLC_PREPARE(b, expert_index, &e, .El = 5000, .M = 1), -1);
    cr_assert(strstr(e.text, "larger ep"), "%s", e.text);
    cr_assert_eq(
        SLC_PREPARE(b, attention_forward, &e, .T = 4, .NQ = 1, .NK = 1, .D = 256), 0);
    cr_assert_eq(SLC_PREPARE(b, matmul, &e, .M = 4, .N = 4, .K = 4, .dtype = SLC_BF16,
                             .c_dtype = SLC_BF16, .acc = true),
                 0, "%s", e.text);
    slc_backend_close(b);
}

/* An op that was not prepared and cannot be computed leaves its error in the queue. */
Test(prepare, an_op_refuses_too)
{
    struct slc_err e = SLC_ERR_INIT;
    struct slc_backend *b = slc_backend_open("cpu", NULL, &e);
    struct slc_queue *q = slc_queue_create(b, &e);
    float x[512] = {0};
    int32_t seg[2] = {0, 1};

    SLC_RUN(q, attention_forward, .o = x, .lse = x, .q = x, .k = x, .v = x, .seg = seg,
            .T = 1, .NQ = 1, .NK = 1, .D = 512, .n_seg = 1, .max_len = 1, .scale = 1);
    cr_assert_eq(slc_queue_sync(q, &e), -1);
    cr_assert(e.code == SLC_EXIT_UNSUPPORTED, "%s", e.text);
    slc_queue_destroy(q);
    slc_backend_close(b);
}
