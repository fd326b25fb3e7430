#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs into a temporary prefix and loads the module with both tools, and the script
# for sites that have neither. Lmod is looked for in $SLC_LMOD, default lmod/ in the
# build tree (tests/modules/get-lmod puts it there).
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
lmod=${SLC_LMOD:-$top_builddir/lmod}/lmod
tcl=/usr/share/modules/init/bash
PATH=/usr/local/bin:/usr/bin:/bin
unset MODULEPATH LOADEDMODULES _LMFILES_ MANPATH
n=0
result() { # result CODE NAME: the last command's output is in $work/out
    n=$((n + 1))
    if [ "$1" -eq 0 ]; then echo "ok $n - $2"; else
        echo "not ok $n - $2"
        sed 's/^/# /' "$work/out"
    fi
}
skip() { n=$((n + 1)); echo "ok $n - $1 # SKIP $2"; }

# What the user types, then the same checks for each tool.
checks='
set -e
here=$(command -v sluice)
[ "$here" = "$prefix/bin/sluice" ]
sluice --version
[ "$SLUICE_ROOT" = "$prefix" ]
man -w man >/dev/null 2>&1 || ! command -v man >/dev/null'
unloaded='
if command -v sluice; then exit 1; fi
if [ -n "$SLUICE_ROOT" ]; then exit 1; fi'

echo 1..6
env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -s -C "$top_builddir" install-exec \
    install-modules prefix="$work/inst" exec_prefix="$work/inst" >"$work/out" 2>&1
result $? "make install into another prefix"
export prefix=$work/inst
files=$prefix/share/sluice/modulefiles

bash -ec ". $prefix/bin/sluice-env.sh; $checks" >"$work/out" 2>&1
result $? "sluice-env.sh"

if [ -r $tcl ]; then
    bash -c ". $tcl; module use $files; module load sluice || exit; $checks" \
        >"$work/out" 2>&1
    result $? "Environment Modules: module load sluice && sluice --version"
    bash -c ". $tcl; module use $files; module load sluice; module unload sluice; $unloaded" \
        >"$work/out" 2>&1
    result $? "Environment Modules: module unload leaves nothing"
else
    skip "Environment Modules: load" "not installed (apt-get install environment-modules)"
    skip "Environment Modules: unload" "not installed"
fi

if [ -x "$lmod" ]; then
    # Without the Tcl file beside it: the Lua one is what is tested.
    rm -f "$files"/sluice/*[0-9]
    module="module() { eval \"\$($lmod bash \"\$@\")\"; }; module use $files"
    bash -c "$module; module load sluice || exit; $checks" >"$work/out" 2>&1
    result $? "Lmod: module load sluice && sluice --version"
    bash -c "$module; module load sluice; module unload sluice; $unloaded" \
        >"$work/out" 2>&1
    result $? "Lmod: module unload leaves nothing"
else
    skip "Lmod: load" "not here; tests/modules/get-lmod build/lmod unpacks it"
    skip "Lmod: unload" "not here"
fi
