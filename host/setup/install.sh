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
    # Debian's own: it starts quicker than what a version manager puts before it, and apt.txt has its headers.
    [ -x "$venv/bin/python" ] || quietly "python3 -m venv" /usr/bin/python3 -m venv "$venv"
    quietly "pip install" "$venv/bin/pip" install --disable-pip-version-check -e "$top[$1]"
    touch "$stamp"
}
guest_helper() { # $1: the compiler, $2: what its machine is called behind the helper's name
    helper="$venv/lib/vmm/vmm-guest$2"
    if [ -z "$(find "$top/guest" -name '*.[ch]' -newer "$helper" 2>&1)" ]; then say "guest helper$2: up to date"; return; fi
    say "compiling the guest helper$2"
    mkdir -p "$venv/lib/vmm"
    quietly "$1" "$1" -static -O2 -Wall -Wextra -Werror -o "$helper.new" "$top"/guest/*.c
    mv "$helper.new" "$helper"
}
bytecode() { # an editable install compiles nothing, and where nobody may write, each start would compile anew
    (cd "$top" && "$venv/bin/python" -m compileall -q cli instances vmm containers images bench reports host)
}
front_door() { # $1: a command, $2: its module, $3: its function. pip's own script has site read every .pth: 8 ms
    if [ ${#venv} -gt 100 ] || [ "${venv#* }" != "$venv" ]; then return; fi # the kernel reads no such #! line
    library=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    cat >"$venv/bin/$1.new" <<END
#!$venv/bin/python3 -IS
import sys
sys.prefix = sys.exec_prefix = "$venv"
sys.path += ["$top", "$library"]
from $2 import $3
sys.exit($3())
END
    chmod 755 "$venv/bin/$1.new"
    mv "$venv/bin/$1.new" "$venv/bin/$1"
}
axe_core() { # the accessibility checker that a test runs in the browser; only where npm can fetch it
    axe="$venv/lib/vmm/axe.min.js"
    if [ -e "$axe" ]; then say "axe-core: up to date"; return; fi
    command -v npm >/dev/null || { say "axe-core: npm is not here, its test will be skipped"; return; }
    say "fetching axe-core"
    fetched=$(cd "$top/build" && npm pack --silent axe-core@4 2>>"$log") || fail "npm pack axe-core"
    mkdir -p "$venv/lib/vmm"
    tar -xzOf "$top/build/$fetched" package/axe.min.js >"$axe.new"
    mv "$axe.new" "$axe"
    rm "$top/build/$fetched"
}

packages "$@"
case " $* " in
    " peers ") exit 0 ;;
    *" test "*) python_env libvirt,cluster,dev ;;
    *) python_env libvirt,cluster ;;
esac
front_door vmm cli.main entry
front_door vmm-oci containers.oci.main main
guest_helper gcc ""
for cross in aarch64 x86_64; do # machines of other architectures, where their compiler is installed
    compiler="$(printf %s "$cross" | tr _ -)-linux-gnu-gcc"
    [ "$(uname -m)" = "$cross" ] || ! command -v "$compiler" >/dev/null || guest_helper "$compiler" "-$cross"
done
bytecode
case " $* " in *" test "*) axe_core ;; esac
