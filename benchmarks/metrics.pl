#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# metrics.pl RUN/metrics.jsonl: the figures of a run in a few lines. Speed is the mean
# without the first step; the smallest load is over the last tenth of the steps, as a
# share of its layer's load (even is 1/E), of the expert that got least.
use strict;
use warnings;
use JSON::PP;

die "usage: metrics.pl RUN/metrics.jsonl\n" unless @ARGV == 1;
open my $in, '<', $ARGV[0] or die "metrics.pl: $ARGV[0]: $!\n";
my (@steps, $validation, %sum, %save);
while (<$in>) {
    my $line = decode_json($_);
    if (exists $line->{val_loss}) { $validation = $line }
    elsif (exists $line->{checkpoint_s}) {
        $save{s} += $line->{checkpoint_s};
        $save{bytes} += $line->{checkpoint_bytes};
    } elsif (exists $line->{loss}) { push @steps, $line }
}
die "metrics.pl: $ARGV[0] has no step\n" unless @steps;
my ($first, $last) = @steps[0, -1];
for my $step (@steps[@steps > 1 ? 1 .. $#steps : 0]) {
    $sum{s} += $step->{step_s};
    $sum{tokens} += $step->{tokens_per_s} * $step->{step_s};
    $sum{exchange_s} += ($step->{time}{exchange} // 0) + ($step->{time}{exchange_wait} // 0);
    $sum{bytes} += $step->{near_bytes} + $step->{far_bytes};
    $sum{dropped} += $step->{dropped};
}
my (@load, $least, $experts);
for my $step (@steps[int(0.9 * @steps) .. $#steps]) {
    for my $l (0 .. $#{$step->{load}}) {
        $load[$l][$_] += $step->{load}[$l][$_] for 0 .. $#{$step->{load}[$l]};
    }
}
for my $layer (@load) {
    my $total = 0;
    $total += $_ for @$layer;
    $experts = @$layer;
    for (@$layer) {
        my $share = $total ? $_ / $total : 0;
        $least = $share if !defined $least or $share < $least;
    }
}
sub row { printf "  %-28s %s\n", @_ }
row 'steps', "$first->{step} to $last->{step}, $last->{tokens} tokens";
row 'loss, first and last step', sprintf '%.4f -> %.4f', $first->{loss}, $last->{loss};
row 'validation loss', sprintf '%.4f nats per byte, %d targets', $validation->{val_loss},
    $validation->{val_targets} if $validation;
row 'tokens/s', sprintf '%.0f', $sum{tokens} / $sum{s};
row 'exchange', sprintf '%.3f GB/s, %.1f MB a step, %d dropped', $sum{bytes} / 1e9 / $sum{exchange_s},
    $sum{bytes} / 1e6 / (@steps > 1 ? @steps - 1 : 1), $sum{dropped} if $sum{exchange_s};
row 'checkpoint', sprintf '%.3f GB/s, %.1f MB written', $save{bytes} / 1e9 / $save{s},
    $save{bytes} / 1e6 if $save{s};
row 'least loaded expert', sprintf '%.4f of its layer (even: %.4f)', $least, 1 / $experts
    if $experts;
