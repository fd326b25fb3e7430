/* SPDX-License-Identifier: Apache-2.0 */
#include "moe/shape.h"

#include <math.h>

#include "moe/moe.h"

#define ROW_ALIGN 64

double slc_expert_hit(int64_t E, int64_t El, int64_t K)
{
    double miss = 1;

    for (int64_t i = 0; i < K; i++)
        miss *= E - El - i > 0 ? (double)(E - El - i) / (double)(E - i) : 0;
    return 1 - miss;
}

static int check(const struct slc_moe_shape *s, const struct slc_moe_options *o,
                 struct slc_err *e)
{
    if (o->T < 1 || o->H < 1 || o->E < 1 || o->F < 1 || o->pools < 1)
        return slc_errf(e, SLC_EXIT_CONFIG, "MoE layer: sizes must be at least 1");
    if (o->K < 1 || o->K > o->E)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "MoE layer: %lld experts per token of %lld experts; it must be "
                        "between 1 and the number of experts",
                        (long long)o->K, (long long)o->E);
    if (s->R > o->E)
        return slc_errf(e, SLC_EXIT_CONFIG,
                        "ep = %d is more than the model's %lld experts: set ep to at "
                        "most %lld",
                        s->R, (long long)o->E, (long long)o->E);
    if (o->slots < 1 || o->slots > 2)
        return slc_errf(e, SLC_EXIT_CONFIG, "MoE layer: slots must be 1 or 2");
    if (s->R > 1 && !o->backend->host_readable && !o->backend->calls.host_map)
        return slc_errf(e, SLC_EXIT_UNSUPPORTED,
                        "not supported: ep > 1 on backend %s, whose memory the "
                        "exchange cannot reach; run with ep = 1",
                        o->backend->name);
    return 0;
}

/* Rows of a window: what uniform routing sends there, times the factor; never more
 * than all tokens of all members. */
static int64_t window_rows(const struct slc_moe_shape *s,
                           const struct slc_moe_options *o)
{
    double most = (double)s->R * (double)s->T;
    double rows = o->window_factor * most * slc_expert_hit(s->E, s->El_max, s->K);

    if (s->R == 1)
        return s->T;
    if (o->window_rows > 0)
        return o->window_rows;
    rows = ceil(rows);
    return (int64_t)(rows < 1 ? 1 : rows > most ? most : rows);
}

int slc_moe_shape_init(struct slc_moe_shape *s, const struct slc_moe_options *o,
                       struct slc_err *e)
{
    *s = (struct slc_moe_shape){
        .T = o->T, .H = o->H, .E = o->E, .K = o->K, .F = o->F, .dtype = o->dtype};
    s->R = o->group ? slc_group_size(o->group) : 1;
    s->me = o->group ? slc_group_index(o->group) : 0;
    if (check(s, o, e) < 0)
        return -1;
    s->first = slc_expert_first(s->E, s->R, s->me);
    s->El = slc_expert_first(s->E, s->R, s->me + 1) - s->first;
    for (int r = 0; r < s->R; r++) {
        int64_t n =
            slc_expert_first(s->E, s->R, r + 1) - slc_expert_first(s->E, s->R, r);

        s->El_max = n > s->El_max ? n : s->El_max;
    }
    s->M = s->K < s->El_max ? s->K : s->El_max;
    s->S = s->K < s->R ? s->K : s->R;
    s->align = o->backend->row_align;
    s->cap = window_rows(s, o);
    s->rows_cap = s->cap * s->M + s->El_max * (s->align - 1);
    s->rows_cap = (s->rows_cap + s->align - 1) / s->align * s->align;
    if (s->rows_cap > INT32_MAX || s->T * s->R > INT32_MAX || s->T * s->K > INT32_MAX)
        return slc_errf(
            e, SLC_EXIT_UNSUPPORTED,
            "not supported: %lld tokens with %lld experts each in one "
            "micro-batch (row numbers are 32 bit); use smaller micro-batches",
            (long long)s->T, (long long)s->K);
    s->row_bytes = (size_t)s->H * slc_dtype_size(s->dtype);
    s->stride = (s->row_bytes + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    s->meta_x = (size_t)s->M * 8;
    s->meta_s = (size_t)s->M * 4;
    return 0;
}
