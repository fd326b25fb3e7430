#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What people read agrees with the code: exit codes of base/exit.h and commands of
# src/cmd/main.c against sluice(1).
top=${top_srcdir:-.}
man=$top/doc/sluice.1
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
echo 1..3

sed -n 's/^ *SLC_EXIT_[A-Z]* = \([0-9]*\),.*/\1/p' "$top/src/base/exit.h" | sort -n >"$tmp/code"
sed -n 's/^\([0-9][0-9]*\);.*/\1/p' "$man" | sort -n >"$tmp/page"
if [ -s "$tmp/code" ] && diff "$tmp/code" "$tmp/page" >"$tmp/diff"; then
    echo "ok 1 - exit codes of exit.h and of sluice(1) are the same"
else
    sed 's/^/# /' "$tmp/diff"
    echo "not ok 1 - exit codes of exit.h and of sluice(1) are the same"
fi

sed -n 's/^    {"\([a-z]*\)", "[^"]*", [a-z_]*},$/\1/p' "$top/src/cmd/main.c" |
    grep -vx -e version -e help | sort >"$tmp/code"
sed -n 's/^\.B sluice \([a-z][a-z]*\).*/\1/p' "$man" | sort -u >"$tmp/page"
if [ -s "$tmp/code" ] && diff "$tmp/code" "$tmp/page" >"$tmp/diff"; then
    echo "ok 2 - commands of main.c and of sluice(1) are the same"
else
    sed 's/^/# /' "$tmp/diff"
    echo "not ok 2 - commands of main.c and of sluice(1) are the same"
fi

if ! command -v man >/dev/null; then
    echo "ok 3 - sluice(1) formats without a warning # SKIP no man"
elif man --warnings -E UTF-8 -l -Tutf8 -Z "$man" 2>&1 >/dev/null | grep . >"$tmp/warnings"; then
    sed 's/^/# /' "$tmp/warnings"
    echo "not ok 3 - sluice(1) formats without a warning"
else
    echo "ok 3 - sluice(1) formats without a warning"
fi
