#!/bin/sh
# Makes the freshly installed tree $1 into the system of debian-12.img: a guest that boots fast to a login prompt.
# Called by mmdebstrap as its last step, outside the tree. $MODULES is the directory of the modules of kernel $RELEASE.
set -eu
umask 022
root=$1

# The kernel comes from outside; so do its modules.
mkdir -p "$root/usr/lib/modules"
cp -R "$MODULES" "$root/usr/lib/modules/$RELEASE"
chroot "$root" depmod "$RELEASE"

# Who the machine is; mmdebstrap copied these two from the machine it runs on. An empty machine-id is filled in at
# boot, so that two guests of one image differ.
rm -f "$root/etc/hostname" "$root/etc/resolv.conf"
echo bulkhead > "$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 bulkhead\n::1 localhost\n' > "$root/etc/hosts"
: > "$root/etc/machine-id"
chroot "$root" passwd --quiet --delete root

# The RAM disk mounts the root file system and sets up the network before systemd starts.
: > "$root/etc/fstab"
ln -s /dev/null "$root/etc/systemd/network/99-default.link"

# The journal stays in memory: the disk's changes are kept in the host's memory, and end with the guest.
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=4M\n' > "$root/etc/systemd/journald.conf.d/volatile.conf"

# Nothing waits for a screen, a keyboard's console, or another package's sake; nothing runs by the clock.
for unit in \
    getty@.service autovt@.service systemd-vconsole-setup.service \
    systemd-ask-password-console.path systemd-ask-password-wall.path \
    dpkg-db-backup.timer fstrim.timer systemd-tmpfiles-clean.timer \
    dev-hugepages.mount dev-mqueue.mount proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount modprobe@.service \
    systemd-binfmt.service systemd-journal-flush.service systemd-machine-id-commit.service systemd-pstore.service \
    systemd-random-seed.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    e2scrub_all.timer e2scrub_reap.service
do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# Nothing is encrypted, partitioned, hibernated or started by scripts; each generator would be a process at boot.
mkdir -p "$root/etc/systemd/system-generators"
for generator in cryptsetup gpt-auto hibernate-resume integritysetup rc-local system-update sysv veritysetup; do
    ln -s /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done
ln -s /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"

# What no program of this system reads at run time: documents, translations, other character sets, the hardware's
# names, and Perl, which only the packages' installation scripts are written in.
rm -rf "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/info "$root"/usr/share/locale \
    "$root"/usr/share/lintian "$root"/usr/share/bash-completion "$root"/usr/share/zsh \
    "$root"/usr/share/i18n "$root"/usr/lib/x86_64-linux-gnu/gconv \
    "$root"/usr/lib/udev/hwdb.d "$root"/usr/lib/udev/hwdb.bin "$root"/usr/lib/systemd/catalog "$root"/var/lib/systemd/catalog \
    "$root"/usr/share/perl "$root"/usr/share/perl5 "$root"/usr/bin/perl* "$root"/usr/lib/x86_64-linux-gnu/perl* \
    "$root"/usr/lib/x86_64-linux-gnu/libperl* \
    "$root"/var/cache/* "$root"/var/lib/apt "$root"/var/log/* "$root"/var/backups/* \
    "$root"/etc/motd "$root"/etc/update-motd.d/*

# Says that what an update of /usr calls for was done; otherwise the first boot would do it.
touch "$root/etc/.updated" "$root/var/.updated"
