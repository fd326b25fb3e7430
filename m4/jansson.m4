# SPDX-License-Identifier: Apache-2.0
# jansson: config.json, safetensors headers, manifests.
AC_DEFUN([SLC_CHECK_JANSSON], [
SLC_LIB([JANSSON], [jansson], [jansson], [jansson.h], [json_loadb],
    [-ljansson], [libjansson-dev], [jansson-devel], [])
SLC_NEED([jansson], [libjansson-dev], [jansson-devel])
])
