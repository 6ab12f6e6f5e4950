#!/usr/bin/env bash
# Installs flashboot and happycache into a root tree or the running system.
#
#   install.sh --libs SITE_PACKAGES [--root DIR] [--source DIR] [--python PYTHON]
#
# --libs    where pip put the third-party libraries (a virtual environment's site-packages)
# --root    the tree to install into (default: /, the running system)
# --source  the checkout that holds flashboot/ and happycache/ (default: the one this script lies in)
# --python  an interpreter of the same minor version as the tree's, to compile with
#           (default: /usr/bin/python3)
#
# Everything goes to /usr/lib/flashboot, apart from the distribution's own Python packages: neither can
# break the other. Running it again replaces what was there; /etc/flashboot is only ever added to.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$(dirname "$here") root=/ libs="" python=/usr/bin/python3
while (($#)); do
  case $1 in
    --libs) libs=$2 ;;
    --root) root=$2 ;;
    --source) source=$2 ;;
    --python) python=$2 ;;
    *) echo "install.sh: unknown option $1; see the top of the script" >&2; exit 2 ;;
  esac
  shift 2
done
root=${root%/}
[ -d "$libs/botocore" ] || { echo "install.sh: --libs must name a site-packages directory with botocore in it" >&2; exit 2; }
[ -d "$source/flashboot" ] || { echo "install.sh: no flashboot/ in --source $source" >&2; exit 2; }

# A .pyc fits one minor version only, and so do the compiled libraries.
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
tree=$(readlink -f "$root/usr/bin/python3" | sed 's/.*python//')
[ "$version" = "$tree" ] || { echo "install.sh: $python is Python $version but the tree has $tree; name another with --python" >&2; exit 1; }
compgen -G "$libs/zstandard/backend_c.cpython-${version/./}-*.so" >/dev/null \
  || { echo "install.sh: the libraries in $libs are not for Python $version" >&2; exit 1; }

new=$root/usr/lib/flashboot.new
rm -rf "$new"
mkdir -p "$new"

# What the node's verbs import; the rest only if a module of ours asks for it.
wanted=(botocore urllib3 jmespath dateutil six.py zstandard)
imports() { grep -rqE "^\s*(import|from) $1\b" "$source/flashboot" "$source/happycache" --include='*.py'; }
imports boto3 && wanted+=(boto3 s3transfer)
imports psutil && wanted+=(psutil)
imports requests && wanted+=(requests certifi idna charset_normalizer '*__mypyc*.so')
imports cryptography && wanted+=(cryptography cffi '_cffi_backend*.so')

(cd "$source" && tar -c --exclude=__pycache__ flashboot happycache) | tar -x --no-same-owner -C "$new"
# Without cffi's second copy of zstd, type stubs and the data of services that nobody calls here (31 MB).
# shellcheck disable=SC2068  # the patterns are meant to expand, in the directory of the libraries
(cd "$libs" && tar -c --exclude=__pycache__ --exclude='zstandard/_cffi*' --exclude='*.pyi' --exclude='psutil/tests' \
  --exclude='botocore/data/*/*' --exclude='boto3/data/*' --exclude='boto3/examples' ${wanted[@]}) | tar -x --no-same-owner -C "$new"
find "$new/botocore/data" -mindepth 1 -maxdepth 1 -type d -empty -delete
for service in s3 ec2 sts ssm ebs; do
  # Of several versions of an API botocore takes the newest.
  newest=$(cd "$libs/botocore/data" && printf '%s\n' "$service"/* | sort | tail -n 1)
  mkdir -p "$new/botocore/data/$newest"
  cp "$libs/botocore/data/$newest"/* "$new/botocore/data/$newest/"
done
if command -v strip >/dev/null; then find "$new" -name '*.so' -exec strip --strip-unneeded {} +; fi

# Compiled now, and never compared with the sources' times later: imports are four times faster.
"$python" -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$new" -p /usr/lib/flashboot "$new"
chmod -R u=rwX,go=rX "$new"
rm -rf "$root/usr/lib/flashboot"
mv "$new" "$root/usr/lib/flashboot"

install -D -m 755 -t "$root/usr/bin" "$here/node/flashboot" "$here/node/happycache"
install -D -m 644 -t "$root/usr/lib/systemd/system" "$here/node/flashboot-arrive.service"
install -D -m 644 -t "$root/etc/flashboot/hooks.d" "$here/node/hooks.d/README"
mkdir -p "$root"/etc/flashboot/hooks.d/{before-flash,after-abort,after-arrive}
# The same link that `systemctl enable` makes, which needs no running systemd.
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sfn /usr/lib/systemd/system/flashboot-arrive.service "$root/etc/systemd/system/multi-user.target.wants/flashboot-arrive.service"

# Debian's kexec-tools would turn every `reboot` into a kexec; a flash ends with a real restart.
if [ -e "$root/etc/default/kexec" ]; then sed -i 's/^LOAD_KEXEC=.*/LOAD_KEXEC=false/' "$root/etc/default/kexec"; fi
