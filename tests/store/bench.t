#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# sluice bench checkpoint: its figures, alone and on two ranks, and that nothing stays behind.
set -u
sluice=$top_builddir/sluice
launch=$top_builddir/tests/launch/launch
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
n=0
ok() { # ok STATUS TEXT
    n=$((n + 1))
    [ "$1" -eq 0 ] && echo "ok $n - $2" || { echo "not ok $n - $2"; sed 's/^/# /' "$dir"/*.txt; }
}
# figures FILE RANKS: three lines, each rate the bytes over a time, each share of a rate beside it
figures() {
    perl -MJSON::PP -e '
        my ($file, $ranks) = @ARGV;
        open my $f, "<", $file or die;
        my @line = map { decode_json($_) } grep { /^\{/ } <$f>;
        join(" ", map { $_->{what} } @line) eq "save load verify" or die "lines\n";
        for (@line) {
            $_->{ranks} == $ranks && $_->{mib} == 16 or die "size\n";
            for my $key ("gb_per_s", "plain_gb_per_s", "memcpy_gb_per_s") {
                $_->{$key} > 0 or die "$key is $_->{$key}\n";
            }
            $_->{gb_per_s_min} <= $_->{gb_per_s} && $_->{gb_per_s} <= $_->{gb_per_s_max} or die "order\n";
            my $limit = $_->{plain_gb_per_s};
            $limit = $_->{direct_gb_per_s} if ($_->{direct_gb_per_s} // 0) > $limit;
            # printed with three digits after the point
            my $share = 100 * $_->{gb_per_s} / $limit;
            abs($share - $_->{percent_of_plain}) <= 0.05 + $share * (0.0006 / $limit + 0.0006 / $_->{gb_per_s})
                or die "percent $_->{percent_of_plain}, not $share\n";
        }' "$1" "$2"
}

mkdir "$dir/fs"
"$sluice" bench checkpoint --dir "$dir/fs" --mib 16 --rounds 2 >"$dir/one.txt" 2>&1 && figures "$dir/one.txt" 1
ok $? "save, load and verify beside plain transfers"
"$launch" -n 2 "$sluice" bench checkpoint --dir "$dir/fs" --mib 16 --rounds 2 >"$dir/two.txt" 2>&1 &&
    figures "$dir/two.txt" 2
ok $? "the same on two ranks"
[ -z "$(ls -A "$dir/fs")" ]
ok $? "nothing stays behind"

"$sluice" bench checkpoint --dir "$dir/fs" --mib 64 --rounds 60 >"$dir/ended.txt" 2>&1 &
pid=$!
for _ in $(seq 100); do
    [ -z "$(ls -A "$dir/fs")" ] || break
    sleep 0.1
done
kill -TERM $pid
wait $pid
[ $? -ne 0 ] && grep -q 'ended by signal 15' "$dir/ended.txt" && [ -z "$(ls -A "$dir/fs")" ]
ok $? "ended by a signal: said so, and nothing stays behind"

"$sluice" bench checkpoint --dir "$dir/none" >"$dir/none.txt" 2>&1
[ $? -eq 82 ] && grep -q 'cannot make a folder in .*/none: No such file' "$dir/none.txt"
ok $? "a folder that is not there is named"
echo "1..$n"
