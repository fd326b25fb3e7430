/* SPDX-License-Identifier: Apache-2.0 */
#include "store/hf.h"

#include <stdlib.h>
#include <string.h>

#include "store/hf_map.h"

#define PIECE (1 << 18) /* elements moved at a time */

/* fp32 to bf16 in place. */
static void narrow(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t low = slc_f32_to_bf16(x[i]);
        memcpy((char *)x + 2 * i, &low, 2);
    }
}

static int load_param(struct slc_hf_map *m, struct slc_params *ps, int i, float *buf,
                      struct slc_queue *q, struct slc_err *e)
{
    const struct slc_param *p = &ps->p[i];
    size_t size = slc_dtype_size(ps->dtype);
    char *w = (char *)slc_param_acquire(ps, i, q);
    int rc = 0;

    for (int64_t at = 0; at < p->local && rc == 0; at += PIECE) {
        int64_t n = p->local - at < PIECE ? p->local - at : PIECE;
        rc = slc_hf_map_read(m, i, p->start + at, n, buf, e);
        if (rc < 0)
            break;
        if (ps->dtype == SLC_BF16)
            narrow(buf, n);
        slc_upload(q, w + (size_t)at * size, buf, (size_t)n * size);
    }
    slc_param_release(ps, i, q);
    return rc;
}

int slc_hf_load(const char *dir, struct slc_params *ps, const struct slc_spec *s,
                struct slc_queue *q, struct slc_err *e)
{
    struct slc_hf_map m;
    int rc = 0;

    SLC_ASSERT(ps->dtype == SLC_F32 || ps->dtype == SLC_BF16);
    if (slc_hf_map_open(&m, dir, s, ps, e) < 0)
        return -1;
    float *buf = malloc(PIECE * sizeof(float));
    if (!buf)
        rc = slc_errf(e, SLC_EXIT_SYSTEM, "no memory to load %s", dir);
    for (int i = 0; i < ps->n && rc == 0; i++)
        rc = load_param(&m, ps, i, buf, q, e);
    free(buf);
    slc_hf_map_close(&m);
    return rc < 0 ? -1 : slc_queue_sync(q, e);
}
