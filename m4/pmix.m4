# SPDX-License-Identifier: Apache-2.0
# PMIx: how ranks started by Slurm find each other.
AC_DEFUN([SLC_CHECK_PMIX], [
SLC_LIB([PMIX], [pmix], [pmix], [pmix.h], [PMIx_Init],
    [-lpmix], [libpmix-dev], [pmix-devel], [])
SLC_NEED([pmix], [libpmix-dev], [pmix-devel])
])
