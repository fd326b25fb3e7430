# SPDX-License-Identifier: Apache-2.0
#
# SLC_SANITIZER: --enable-sanitizer=address|undefined|thread, --enable-coverage.
# Sets SANITIZER_CFLAGS (also needed when linking).
AC_DEFUN([SLC_SANITIZER], [
AC_ARG_ENABLE([sanitizer], [AS_HELP_STRING([--enable-sanitizer=NAME],
    [build with a sanitizer: address, undefined or thread; several with commas])],
    [], [enable_sanitizer=no])
AC_ARG_ENABLE([coverage], [AS_HELP_STRING([--enable-coverage],
    [count which lines the tests reach (gcov)])], [], [enable_coverage=no])
SANITIZER_CFLAGS=
AS_CASE([$enable_sanitizer],
    [no], [],
    [yes], [enable_sanitizer=address
        SANITIZER_CFLAGS="-fsanitize=address -fno-omit-frame-pointer"],
    [SANITIZER_CFLAGS="-fsanitize=$enable_sanitizer -fno-omit-frame-pointer"])
AS_CASE([$enable_sanitizer], [*undefined*],
    [SANITIZER_CFLAGS="$SANITIZER_CFLAGS -fno-sanitize-recover=undefined"])
AS_IF([test $enable_coverage != no],
    [SANITIZER_CFLAGS="$SANITIZER_CFLAGS --coverage -O0"])
AS_IF([test -n "$SANITIZER_CFLAGS"], [
    slc_save_CFLAGS=$CFLAGS
    CFLAGS="$CFLAGS $SANITIZER_CFLAGS"
    AC_MSG_CHECKING([whether $CC accepts $SANITIZER_CFLAGS])
    AC_LINK_IFELSE([AC_LANG_PROGRAM([], [])], [AC_MSG_RESULT([yes])], [
        AC_MSG_RESULT([no])
        AC_MSG_ERROR([--enable-sanitizer=$enable_sanitizer: $CC cannot link with it;
  known names are address, undefined and thread (gcc 12 or later has all three)])])
    CFLAGS=$slc_save_CFLAGS
])
AC_SUBST([SANITIZER_CFLAGS])
])
