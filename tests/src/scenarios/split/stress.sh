#!/bin/sh
# Runs `stress` with these arguments, and meanwhile loads and unloads modules; says how often.
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

rm -f /tmp/enough
modules &
stress "$@"
code=$?
touch /tmp/enough
wait
echo "stressed: $code"
