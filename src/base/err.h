/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_BASE_ERR_H
#define SLC_BASE_ERR_H

#include "base/exit.h"

/*
 * Errors travel up as `int` 0 / -1 and a filled `struct slc_err`. The text is
 * one line: what is wrong, where (file and line, tensor, rank), what to do.
 * Whoever first knows of an error fills it; callers just return -1.
 */
struct slc_err {
    int code;         /* enum slc_exit; SLC_EXIT_OK when nothing happened */
    int rank;         /* rank whose error it is, -1 when not known yet */
    int line;         /* source line, for bug reports */
    const char *file; /* source file, static storage */
    char text[512];
};

#define SLC_ERR_INIT {.code = SLC_EXIT_OK, .rank = -1}

/*
 * Fill `e` (may be NULL) with a formatted line and return -1. errno is kept.
 * A second call on a filled `e` replaces it: add context with slc_err_prefix.
 */
#define slc_errf(e, code, ...) slc_err_set((e), (code), __FILE__, __LINE__, __VA_ARGS__)
int slc_err_set(struct slc_err *e, int code, const char *file, int line,
                const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* Put "prefix: " before the text of a filled error; returns -1. */
int slc_err_prefix(struct slc_err *e, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* 0, or -1 with an error that was kept copied to e (may be NULL). */
int slc_err_pass(const struct slc_err *kept, struct slc_err *e);

/* An invariant of ours is broken: print where and abort. Never for user input. */
#define SLC_BUG(...) slc_bug(__FILE__, __LINE__, __VA_ARGS__)
void slc_bug(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), noreturn));
#define SLC_ASSERT(cond)                                                               \
    do {                                                                               \
        if (!(cond))                                                                   \
            SLC_BUG("assertion failed: %s", #cond);                                    \
    } while (0)

#endif
