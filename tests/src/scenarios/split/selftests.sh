#!/bin/sh
# Runs every test in the directory $1, and says of each how it ended; of one that failed, with its last words.
cd "$1" || exit
count=0
for test in *; do
    # The slowest takes 17 s, and twice that where two vCPUs share an emulator.
    timeout -s KILL 120 "./$test" > /tmp/output 2>&1
    code=$?
    case $code in
        0) verdict="ok" ;;
        4) verdict="skipped" ;;
        *)
            tail -n 5 /tmp/output | sed 's/^/| /'
            verdict="failed($code)"
            ;;
    esac
    echo "selftest $test: $verdict"
    count=$((count + 1))
done
echo "selftests: $count"
