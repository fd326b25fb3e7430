# SPDX-License-Identifier: Apache-2.0
# Criterion: unit tests only.
AC_DEFUN([SLC_CHECK_CRITERION], [
SLC_LIB([CRITERION], [criterion], [criterion], [criterion/criterion.h], [criterion_initialize],
    [-lcriterion], [libcriterion-dev], [libcriterion-devel], [])
SLC_WANT([criterion], [libcriterion-dev], [libcriterion-devel])
])
