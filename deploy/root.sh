#!/bin/sh
# root.sh DIRECTORY: the root of the images: the libraries that the programs name, a static shell, a user.
set -eu
root=$1
mkdir -p "$root/usr/bin" "$root/usr/lib" "$root/lib64" "$root/etc/tessera" "$root/var/lib/tessera" "$root/run" "$root/tmp"
ln -s usr/bin "$root/bin"
ln -s usr/bin "$root/sbin"
ln -s usr/lib "$root/lib"
chmod 1777 "$root/tmp"
for program in /programs/*; do
    ldd "$program" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }'
done | sort -u | while read -r library; do
    mkdir -p "$root/$(dirname "$library")"
    cp -L "$library" "$root/$library"
done
cp "$(command -v busybox)" "$root/usr/bin/busybox"
for applet in sh ash ip cat chmod chown cp awk dd echo env expr fold grep head hostname id install kill ln ls mkdir mv nslookup \
    od ping ps rm sed seq sleep sort tail test touch tr trap true umask wc wget; do
    [ "$applet" = busybox ] || ln -s busybox "$root/usr/bin/$applet"
done
printf 'root:x:0:0:root:/:/bin/sh\ntessera:x:10001:10001:Tessera:/var/lib/tessera:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\ntessera:x:10001:\n' >"$root/etc/group"
mkdir -p "$root/run/key" "$root/run/subscribers"
chown 10001:10001 "$root/var/lib/tessera" "$root/run/key" "$root/run/subscribers"
