/* SPDX-License-Identifier: Apache-2.0 */
#include "moe/dispatch_private.h"

bool slc_dispatch_has_credit(const struct slc_dispatch *d, const struct slc_flight *f,
                             int i, int to)
{
    uint64_t before = f->base + (uint64_t)i - 2;

    if (i < 2)
        return slc_line_reached(d, f, SLC_LINE_ROW, f->n, to, f->n);
    return slc_line_reached(d, f, SLC_LINE_CREDIT, before, to, before + 1);
}
