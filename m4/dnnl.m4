# SPDX-License-Identifier: Apache-2.0
# oneDNN: matrix products on CPU. Version 2.6 has no pkg-config file.
AC_DEFUN([SLC_CHECK_DNNL], [
SLC_LIB([DNNL], [dnnl], [dnnl], [oneapi/dnnl/dnnl.h], [dnnl_version],
    [-ldnnl], [libdnnl-dev], [onednn-devel], [])
SLC_NEED([dnnl], [libdnnl-dev], [onednn-devel])
])
