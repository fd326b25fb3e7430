# SPDX-License-Identifier: Apache-2.0
#
# SLC_LIB(VAR, NAME, PKG-CONFIG MODULES, HEADER, FUNCTION, LIBRARIES,
#         DEBIAN PACKAGE, RHEL PACKAGE, PROGRAM LINE)
# ---------------------------------------------------------------------------
# Finds one library. --with-NAME=DIR looks only there; otherwise pkg-config is asked
# for each module in turn, then the compiler's own paths are tried. What was found must
# compile and link a program that includes HEADER and takes the address of FUNCTION.
# Sets VAR_CFLAGS, VAR_LIBS, slc_have_NAME (yes or no) and slc_from_NAME (for the
# report). It does not fail by itself: SLC_NEED decides, so that all that is missing is
# named at once.
#
# The rule for --with-NAME: "guess" (nothing said) takes what is there; "yes" or a
# directory must be met; "no" leaves it out.
AC_DEFUN([SLC_LIB], [
AC_ARG_WITH([$2], [AS_HELP_STRING([--with-$2=DIR],
    [where $2 is installed @<:@default: pkg-config, then the compiler's paths@:>@])],
    [slc_with_$2=$withval], [slc_with_$2=guess])
slc_have_$2=no
slc_from_$2=
AS_CASE([$slc_with_$2],
    [no], [],
    [yes|guess], [
        for slc_module in $3; do
            AS_IF([test $slc_have_$2 = yes], [break])
            AS_IF([$PKG_CONFIG --exists $slc_module 2>/dev/null], [
                slc_from_$2=`$PKG_CONFIG --modversion $slc_module`
                SLC_LIB_TRY([$1], [$2],
                    [`$PKG_CONFIG --cflags $slc_module`],
                    [`$PKG_CONFIG --libs $slc_module`],
                    [$4], [$5], [$9], [pkg-config $slc_module])
            ])
        done
        AS_IF([test $slc_have_$2 = no], [
            slc_from_$2="compiler's paths"
            SLC_LIB_TRY([$1], [$2], [], [$6], [$4], [$5], [$9], [$6])
        ])
    ],
    [
        slc_from_$2=$slc_with_$2
        for slc_libdir in lib lib64; do
            AS_IF([test $slc_have_$2 = yes], [break])
            SLC_LIB_TRY([$1], [$2],
                [-I$slc_with_$2/include],
                [-L$slc_with_$2/$slc_libdir -Wl,-rpath,$slc_with_$2/$slc_libdir $6],
                [$4], [$5], [$9], [$slc_with_$2/$slc_libdir])
        done
    ])
AS_IF([test $slc_have_$2 = no], [
    $1_CFLAGS=
    $1_LIBS=
    slc_from_$2="missing: Debian $7, RHEL $8"
])
AC_SUBST([$1_CFLAGS])
AC_SUBST([$1_LIBS])
])

# SLC_LIB_TRY(VAR, NAME, CFLAGS, LIBS, HEADER, FUNCTION, PROGRAM LINE, WHERE)
AC_DEFUN([SLC_LIB_TRY], [
$1_CFLAGS="$3"
$1_LIBS="$4"
slc_save_CPPFLAGS=$CPPFLAGS
slc_save_LIBS=$LIBS
CPPFLAGS="$CPPFLAGS $[]$1_CFLAGS"
LIBS="$[]$1_LIBS $LIBS"
AC_MSG_CHECKING([for $2 ($8)])
AC_LINK_IFELSE([AC_LANG_SOURCE([[
#include <$5>
$7
int main(int argc, char **argv)
{
    void *volatile p = (void *)&$6;
    (void)argv;
    return argc > 1000 && p == (void *)0;
}
]])], [slc_have_$2=yes])
AC_MSG_RESULT([$slc_have_$2])
CPPFLAGS=$slc_save_CPPFLAGS
LIBS=$slc_save_LIBS
])

# SLC_NEED(NAME, DEBIAN PACKAGE, RHEL PACKAGE)
# Notes that a required library is missing. SLC_NEED_REPORT ends configure if any is.
AC_DEFUN([SLC_NEED], [
AS_IF([test $slc_have_$1 = no], [
    slc_missing="$slc_missing $1"
    slc_missing_deb="$slc_missing_deb $2"
    slc_missing_rpm="$slc_missing_rpm $3"
])])

# SLC_WANT(NAME, DEBIAN PACKAGE, RHEL PACKAGE)
# The same for an optional library: missing is an error only if it was asked for.
AC_DEFUN([SLC_WANT], [
AS_CASE([$slc_with_$1],
    [no|guess], [],
    [SLC_NEED([$1], [$2], [$3])])
])

AC_DEFUN([SLC_NEED_REPORT], [
AS_IF([test -n "$slc_missing"], [
    AC_MSG_ERROR([these libraries are required and were not found:$slc_missing

  Debian, Ubuntu:  apt-get install$slc_missing_deb
  RHEL, Fedora:    dnf install$slc_missing_rpm

or name the place of an installation with --with-NAME=DIR (see ./configure --help).
config.log has the compiler's message for each.])
])])
