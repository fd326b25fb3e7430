/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/backend.h"

#include <stdio.h>

#include <oneapi/dnnl/dnnl.h>

void slc_ops_cpu(struct slc_ops *ops)
{
    slc_ops_ref(ops);
}

int slc_cpu_prepare(enum slc_op op, const void *args, struct slc_err *e)
{
    (void)op;
    (void)args;
    (void)e;
    return 0;
}

void slc_cpu_release(void)
{
}

void slc_cpu_describe(char *text, size_t len)
{
    const dnnl_version_t *v = dnnl_version();

    snprintf(text, len, "oneDNN %d.%d", v->major, v->minor);
}
