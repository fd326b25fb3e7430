/* SPDX-License-Identifier: Apache-2.0 */
/* Checks in programs that tests/launch runs as several ranks: a failed one ends the
 * rank with 1 and says where, and the script that started it reports. */
#ifndef SLC_TESTS_COMM_CHECK_H
#define SLC_TESTS_COMM_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "comm/world.h"

#define CHECK(cond)                                                                    \
    do {                                                                               \
        if (!(cond)) {                                                                 \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #cond);       \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

/* A call of ours that must succeed. */
#define OK(call)                                                                       \
    do {                                                                               \
        if ((call) < 0) {                                                              \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, e.text);     \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

#define NEED(pointer)                                                                  \
    do {                                                                               \
        if (!(pointer)) {                                                              \
            fprintf(stderr, "%s:%d: no %s: %s\n", __FILE__, __LINE__, #pointer,        \
                    e.text);                                                           \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

#endif
