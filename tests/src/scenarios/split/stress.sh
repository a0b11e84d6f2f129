#!/bin/sh
# Runs `stress` with these arguments, and meanwhile loads and unloads modules, and takes the second CPU off and on where there is one; says how often.
second=/sys/devices/system/cpu/cpu1/online

modules() {
    loads=0
    while [ ! -e /tmp/enough ]; do
        for module in virtio_net virtio_blk net_failover failover; do
            rmmod "$module" || exit 1
        done
        for module in failover net_failover virtio_net virtio_blk; do
            insmod "/lib/modules/$module.ko" || exit 1
        done
        loads=$((loads + 4))
    done
    echo "modules: $loads"
}

processors() {
    moves=0
    while [ -e "$second" ] && [ ! -e /tmp/enough ]; do
        sleep 2
        echo 0 > "$second" || exit 1
        sleep 1
        echo 1 > "$second" || exit 1
        moves=$((moves + 1))
    done
    echo "processors: $moves"
}

# Only warnings and worse: what the kernel says of a CPU that comes and goes would be in the middle of other lines.
dmesg -n 5
rm -f /tmp/enough
modules &
processors &
stress "$@"
code=$?
touch /tmp/enough
wait
echo "stressed: $code"
