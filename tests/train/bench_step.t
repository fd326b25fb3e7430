#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# sluice bench step trains as the loop does: the same first loss on every backend and number
# of threads, a loss that falls, every op of a step in the table.
. "${top_srcdir:-.}/tests/train/functions.sh"
echo 1..7

step() { # step KEY FLAG...: the value of KEY in the first line of output
    local key=$1
    shift
    timeout 100 "$sluice" bench step "$here/tiny.json" --rows 2 --sequence 48 --steps 2 \
        --warm 1 "$@" >out 2>log || return
    sed -n '1s/.*"'"$key"'": \([-0-9.e+]*\).*/\1/p' out
}
near() { awk -v a="$1" -v b="$2" -v d="$3" 'BEGIN { exit !(a != "" && b != "" && (a - b) ^ 2 <= d ^ 2) }'; }

one=$(step loss --threads 1) two=$(step loss --threads 2)
[ -n "$one" ] && [ "$one" = "$two" ]
result "one and two threads have the same first loss ($one)"
norm=$(step grad_norm --threads 1)
[ -n "$norm" ] && [ "$norm" = "$(step grad_norm --threads 2)" ]
result "and the same norm of the gradient ($norm)"
near "$one" "$(step loss --device ref)" 1e-5
result "the reference kernels agree"
near "$one" "$(step loss --dtype bf16)" 1e-2
result "bf16 is near"
[ "$(step loss --threads 1 --document 7)" != "$one" ]
result "shorter documents see less"
step loss --threads 1 --ops >/dev/null && awk '
    /"op"/ { n++; sub(/.*"share": /, ""); share += $1 + 0 }
    /"phase_ms"/ { phases = 1 }
    /"of_limit"/ && /"step_ms"/ { whole = 1 }
    END { exit !(n >= 20 && share > 0.5 && share <= 1.01 && phases && whole) }' out
result "--ops has all ops, whose shares make up the step, and its phases"
"$sluice" bench step "$here/tiny.json" --dtype fp8 >log 2>&1
[ $? -eq 78 ] && grep -q "fp32 or bf16" log
result "an unknown type is refused"
