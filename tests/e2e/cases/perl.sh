# needs: perl
# Perl: regular expressions, hashes, files, fork, pipes, sockets of its own kind.
cd "$TMPDIR" || exit 1
perl -we '
use strict; use POSIX ":sys_wait_h"; use List::Util qw(sum max); use Socket; use Time::HiRes qw(time sleep); $| = 1;
my %h = map { $_ => length } qw(apple fig banana); print join(",", map { "$_=$h{$_}" } sort keys %h), "\n";
(my $t = "the cat sat") =~ s/(\w+)/\u$1/g; print "$t\n"; print join("|", "a1b22" =~ /(\d+)/g), "\n";
open(my $f, ">", "file") or die; print $f "line $_\n" for 1 .. 1000; close $f;
open($f, "<", "file") or die; my @l = grep { /7/ } <$f>; print scalar(@l), "\n"; close $f;
my $pid = fork; if (!$pid) { exit 6 } waitpid $pid, 0; print $? >> 8, "\n";
pipe(my $r, my $w); if (!fork) { close $r; print $w "from child\n"; exit } close $w; print scalar <$r>; wait;
socketpair(my $x, my $y, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; syswrite $x, "pair"; sysread $y, my $buf, 10; print "$buf\n";
print `echo backticks`; system("sh", "-c", "exit 3"); print $? >> 8, "\n";
local $SIG{ALRM} = sub { print "alarm\n" }; Time::HiRes::alarm(0.05); select undef, undef, undef, 1;
print sum(1 .. 100), " ", max(3, 9, 2), " ", sprintf("%.4f", atan2(1, 1) * 4), "\n";
printf "%s\n", join " ", sort { $a <=> $b } map { $_ * 7 % 11 } 1 .. 10; print "done\n"; exit 2'
