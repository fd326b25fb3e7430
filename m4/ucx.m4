# SPDX-License-Identifier: Apache-2.0
# UCX: all traffic between ranks on hosts.
AC_DEFUN([SLC_CHECK_UCX], [
SLC_LIB([UCX], [ucx], [ucx], [ucp/api/ucp.h], [ucp_get_version_string],
    [-lucp -luct -lucs], [libucx-dev], [ucx-devel], [])
SLC_NEED([ucx], [libucx-dev], [ucx-devel])
])
