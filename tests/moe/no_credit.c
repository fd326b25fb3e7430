/* SPDX-License-Identifier: Apache-2.0 */
/* Takes the place of src/moe/credit.c in a program that must fail: never waits until
 * the target has read what will be overwritten. */
#include "moe/dispatch_private.h"

bool slc_dispatch_has_credit(const struct slc_dispatch *d, const struct slc_flight *f,
                             int i, int to)
{
    (void)d;
    (void)f;
    (void)i;
    (void)to;
    return true;
}
