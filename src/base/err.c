/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int slc_err_set(struct slc_err *e, int code, const char *file, int line,
                const char *fmt, ...)
{
    int saved = errno;
    va_list ap;

    if (!e)
        return -1;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
    e->code = code;
    e->file = file;
    e->line = line;
    errno = saved;
    return -1;
}

int slc_err_prefix(struct slc_err *e, const char *fmt, ...)
{
    char prefix[256], old[sizeof(((struct slc_err *)0)->text)];
    int saved = errno;
    va_list ap;

    if (!e)
        return -1;
    va_start(ap, fmt);
    vsnprintf(prefix, sizeof(prefix), fmt, ap);
    va_end(ap);
    memcpy(old, e->text, sizeof(old));
    size_t n = strlen(prefix);
    memcpy(e->text, prefix, n);
    snprintf(e->text + n, sizeof(e->text) - n, ": %.*s",
             (int)(sizeof(e->text) - n - 3), old);
    errno = saved;
    return -1;
}

int slc_err_pass(const struct slc_err *kept, struct slc_err *e)
{
    if (kept->code == SLC_EXIT_OK)
        return 0;
    if (e)
        *e = *kept;
    return -1;
}

void slc_bug(const char *file, int line, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "sluice: bug at %s:%d: ", file, line);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nsluice: this is an error in Sluice itself; please report it\n");
    abort();
}
