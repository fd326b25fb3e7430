# SPDX-License-Identifier: Apache-2.0
# hwloc: binding of ranks to cores.
AC_DEFUN([SLC_CHECK_HWLOC], [
SLC_LIB([HWLOC], [hwloc], [hwloc], [hwloc.h], [hwloc_topology_init],
    [-lhwloc], [libhwloc-dev], [hwloc-devel], [])
SLC_NEED([hwloc], [libhwloc-dev], [hwloc-devel])
])
