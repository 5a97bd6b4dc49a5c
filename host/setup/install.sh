#!/bin/sh
# Installs what is missing and says each step in one line: install.sh SECTION...   (sections of apt.txt)
# Works as root without systemd and as a user with sudo; a second call finds everything there and does nothing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
venv="$top/.venv"
log="$top/build/setup.log"
mkdir -p "$top/build"

say() { printf '%s\n' "setup: $*"; }
fail() { printf '%s\n' "setup: $1 failed; the last lines of $log:" >&2; tail -n 15 "$log" >&2; exit 1; }
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else say "root rights are needed for: $*"; return 1; fi
}
quietly() { what=$1; shift; "$@" >>"$log" 2>&1 </dev/null || fail "$what"; }

wanted() { # the packages of the sections named
    for section in "$@"; do
        sed -n "/^\[$section\]/,/^\[/{/^[a-z]/p}" "$here/apt.txt"
    done
}
missing() {
    for package in "$@"; do
        case "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)" in
            "install ok installed") ;;
            *) printf '%s ' "$package" ;;
        esac
    done
}
packages() {
    need=$(missing $(wanted "$@"))
    [ -n "$need" ] || { say "Debian packages for $*: all there"; return; }
    say "installing Debian packages for $*: $need"
    quietly "apt-get update" as_root apt-get update -q
    # shellcheck disable=SC2086
    quietly "apt-get install" as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $need
}
python_env() { # $1: extras of pyproject.toml
    stamp="$venv/.installed-$(cat "$top/pyproject.toml" "$here/install.sh" | sha256sum | cut -c1-16)-$1"
    [ ! -e "$stamp" ] || { say "Python environment .venv ($1): up to date"; return; }
    say "installing the Python environment .venv ($1)"
    [ -x "$venv/bin/python" ] || quietly "python3 -m venv" python3 -m venv "$venv"
    quietly "pip install" "$venv/bin/pip" install --disable-pip-version-check -e "$top[$1]"
    touch "$stamp"
}
guest_helper() {
    helper="$venv/lib/vmm/vmm-guest"
    if [ "$helper" -nt "$top/guest/vmm-guest.c" ]; then say "guest helper: up to date"; return; fi
    say "compiling the guest helper"
    mkdir -p "$venv/lib/vmm"
    quietly "gcc" gcc -static -O2 -Wall -Wextra -Werror -o "$helper.new" "$top/guest/vmm-guest.c"
    mv "$helper.new" "$helper"
}
bytecode() { # an editable install compiles nothing, and where nobody may write, each start would compile anew
    (cd "$top" && "$venv/bin/python" -m compileall -q cli instances vmm containers images bench reports host)
}

packages "$@"
case " $* " in
    " peers ") exit 0 ;;
    *" test "*) python_env libvirt,cluster,dev ;;
    *) python_env libvirt,cluster ;;
esac
guest_helper
bytecode
