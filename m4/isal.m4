# SPDX-License-Identifier: Apache-2.0
# ISA-L: CRC-32C at memory speed.
AC_DEFUN([SLC_CHECK_ISAL], [
SLC_LIB([ISAL], [isal], [libisal], [isa-l.h], [crc32_iscsi],
    [-lisal], [libisal-dev], [isa-l-devel], [])
SLC_NEED([isal], [libisal-dev], [isa-l-devel])
])
