#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The option table as people meet it: what `sluice config` prints, sluice-run(5), --help
# and the completion name the same keys; completion does what it should.
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
PATH=$top_builddir:$PATH
n=0
verdict() { # verdict NAME: of the command before
    if [ $? -eq 0 ]; then set -- ok "$1"; else set -- "not ok" "$1"; fi
    n=$((n + 1))
    [ "$1" = ok ] || sed 's/^/# /' "$work/out"
    echo "$1 $n - $2"
}
echo 1..10

sluice config "$top_srcdir/slurm/examples/quickstart.yaml" |
    awk '/^[a-z]/ { s = substr($1, 1, length($1) - 1) } /^ / { sub(":", "", $1); print s "." $1 }' \
    >"$work/config"
sed -n 's/^\.B \([a-z_]*\.[a-z_0-9]*\)$/\1/p' "$top_builddir/doc/sluice-run.5" >"$work/man"
sluice train --help |
    awk '/^[a-z]+:$/ { s = substr($1, 1, length($1) - 1) }
         /^  [a-z_0-9]+=/ { sub("=.*", "", $1); print s "." $1 }' >"$work/help"
. "$top_builddir/doc/sluice"
printf '%s\n' $_sluice_keys >"$work/keys"
[ "$(wc -l <"$work/config")" -gt 30 ] && ! grep -vqx '[a-z]*\.[a-z_0-9]*' "$work/config"
verdict "sluice config prints keys"
for what in man help keys; do
    diff "$work/config" "$work/$what" >"$work/out" 2>&1
    verdict "the keys of $what are those of sluice config"
done

# complete LINE: the answers for its end, one a line
complete_line() {
    local words=${1//=/ = }
    COMP_LINE=$1 COMP_POINT=${#1}
    read -ra COMP_WORDS <<<"$words"
    case $1 in *' ') COMP_WORDS+=('') ;; esac
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    (cd "$work" && _sluice; printf '%s\n' "${COMPREPLY[@]}") >"$work/out" 2>&1
}
# expect NAME LINE ANSWER...
expect() {
    local name=$1
    complete_line "$2"
    shift 2
    [ "$(sort "$work/out")" = "$(printf '%s\n' "$@" | sort)" ]
    verdict "$name"
}
expect "a command" "sluice tr" train
expect "a key" "sluice train run.yaml optim.be" optim.beta1= optim.beta2=
expect "a choice" "sluice train run.yaml optim.schedule=c" cosine constant
expect "a choice from nothing" "sluice config run.yaml data.shuffle=" true false
expect "a flag" "sluice data build --to" --tokenizer

if ! command -v man >/dev/null; then
    n=$((n + 1))
    echo "ok $n - sluice-run(5) formats without a warning # SKIP no man"
else
    man --warnings -E UTF-8 -l -Tutf8 -Z "$top_builddir/doc/sluice-run.5" \
        2>"$work/out" >/dev/null
    [ ! -s "$work/out" ]
    verdict "sluice-run(5) formats without a warning"
fi
