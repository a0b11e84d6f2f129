#!/bin/sh
# Loads the virtio modules, gives the network interfaces their addresses, then goes on to the root file system that the
# command line names, or to a shell on the console it names.
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

while read -r module; do
    insmod "/lib/modules/$module"
done < /etc/modules

# A console that a module drives is there only now.
exec < /dev/console > /dev/console 2>&1

root= mode=rw init=/sbin/init addresses= console=ttyS0
read -r words < /proc/cmdline
set -f
for word in $words; do
    value=${word#*=}
    case $word in
        root=*) root=$value ;;
        ro | rw) mode=$word ;;
        init=*) init=$value ;;
        bulkhead.ip=*) addresses=$value ;;
        console=*) console=${value%%,*} ;;
    esac
done

# bulkhead.ip=10.0.0.1/24,10.0.1.1/24: the first address is eth0's, the next eth1's.
ip link set lo up
number=0
for address in $(echo "$addresses" | tr , ' '); do
    ip address add "$address" dev "eth$number"
    ip link set "eth$number" up
    number=$((number + 1))
done

if [ -n "$root" ]; then
    if mount -t ext4 -o "$mode" "$root" /disk; then
        mount --move /proc /disk/proc
        mount --move /sys /disk/sys
        mount --move /dev /disk/dev
        exec switch_root /disk "$init"
    fi
    echo "init: cannot mount $root; here is a shell instead"
fi

mount -t tmpfs tmpfs /tmp
hostname guest
cat > /etc/inittab << END
::once:acpid -f -l /dev/null
$console::respawn:/bin/shell
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/sync
END
exec busybox init
