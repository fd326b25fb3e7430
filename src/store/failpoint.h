/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLC_STORE_FAILPOINT_H
#define SLC_STORE_FAILPOINT_H

/*
 * A named place where a test may kill or fail the process. Nothing at all in the
 * library; tests/fault compiles the files of this folder again with SLC_FAILPOINTS and
 * brings slc_failpoint_hit.
 */
#ifdef SLC_FAILPOINTS
void slc_failpoint_hit(const char *name);
#define slc_failpoint(name) slc_failpoint_hit(name)
#else
#define slc_failpoint(name) ((void)0)
#endif

#endif
