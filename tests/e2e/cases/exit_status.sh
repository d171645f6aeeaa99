# An exit status passes through.
echo before
exit 37
