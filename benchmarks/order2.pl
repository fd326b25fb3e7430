#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# order2.pl [--order N] [--validation F] FILE: what counting alone reaches on a text.
# Fits a byte model of order N (default 2: the next byte given the two before it) on the
# first 1 - F of FILE (default F 0.05) and prints its mean loss on the rest, in nats per
# byte. A trained model has learned more than neighbouring bytes only if it is below this.
#
# Each order is smoothed with the one below it by Witten and Bell's rule:
#   p_n(c | ctx) = (count(ctx, c) + t(ctx) p_{n-1}(c | shorter ctx)) / (count(ctx) + t(ctx))
# with t(ctx) the number of different bytes seen after ctx; below order 0 all 256 bytes
# are equally likely.
use strict;
use warnings;

my ($order, $fraction) = (2, 0.05);
while (@ARGV and $ARGV[0] =~ /^--(?:order|validation)$/) {
    my ($option, $value) = (shift, shift);
    die "order2.pl: $option needs a number\n"
        unless defined $value and $value =~ /^[\d.]+$/;
    if ($option eq '--order') { $order = $value } else { $fraction = $value }
}
die "usage: order2.pl [--order N] [--validation F] FILE\n" unless @ARGV == 1;
open my $in, '<:raw', $ARGV[0] or die "order2.pl: $ARGV[0]: $!\n";
my $text = do { local $/; <$in> };
my $cut = int(length($text) * (1 - $fraction));
die "order2.pl: $ARGV[0] is too short\n" if $cut <= $order or $cut >= length $text;

# Count the longest sequences once; shorter ones are sums over them.
my (%longest, @pair, %total, %kinds);
$longest{substr $text, $_, $order + 1}++ for 0 .. $cut - $order - 1;
while (my ($seen, $times) = each %longest) {
    $pair[$_]{substr $seen, $order - $_} += $times for 0 .. $order;
}
for my $n (0 .. $order) {
    while (my ($seen, $times) = each %{$pair[$n]}) {
        $total{substr $seen, 0, $n} += $times;
        $kinds{substr $seen, 0, $n}++;
    }
}
my ($loss, $count, %known) = (0, 0);
for my $i ($cut .. length($text) - 1) {
    my $p = $known{substr $text, $i - $order, $order + 1} //= do {
        my $q = 1 / 256;
        for my $n (0 .. $order) {
            my $seen = substr $text, $i - $n, $n + 1;
            my $ctx = substr $seen, 0, $n;
            next unless $total{$ctx};
            $q = (($pair[$n]{$seen} // 0) + $kinds{$ctx} * $q) / ($total{$ctx} + $kinds{$ctx});
        }
        $q;
    };
    $loss -= log $p;
    $count++;
}
printf "order %d loss %.4f nats per byte, %d bytes fitted, %d bytes scored\n",
    $order, $loss / $count, $cut, $count;
