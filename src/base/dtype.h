/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_DTYPE_H
#define SLC_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum slc_dtype { SLC_F32, SLC_BF16, SLC_F64, SLC_I32, SLC_I64, SLC_U8 };

static inline size_t slc_dtype_size(enum slc_dtype t)
{
    switch (t) {
    case SLC_F32:
    case SLC_I32:
        return 4;
    case SLC_BF16:
        return 2;
    case SLC_F64:
    case SLC_I64:
        return 8;
    case SLC_U8:
        return 1;
    }
    return 0;
}

static inline const char *slc_dtype_name(enum slc_dtype t)
{
    static const char *const names[] = {"fp32", "bf16", "fp64", "int32", "int64", "uint8"};

    return names[t];
}

/* bf16 is the upper half of an fp32; conversion down rounds to nearest even. */
static inline float slc_bf16_to_f32(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;

    memcpy(&f, &bits, 4);
    return f;
}

static inline uint16_t slc_f32_to_bf16(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u); /* keep NaN quiet */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#endif
