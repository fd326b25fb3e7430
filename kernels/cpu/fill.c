/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/cpu.h"

void SLC_CPU(fill)(struct slc_ops *ops);

void SLC_CPU(fill)(struct slc_ops *ops)
{
#define SLC_CPU_ENTRY(op) ops->op = SLC_CPU(op);
    SLC_OPS(SLC_CPU_ENTRY)
#undef SLC_CPU_ENTRY
}
