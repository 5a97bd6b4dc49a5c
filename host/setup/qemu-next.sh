#!/bin/sh
# Newer QEMUs beside the host's own, for tests and trials: qemu-next.sh SUITE...   (default: both that we test with)
# Each is a suite's QEMU with all its libraries, down to libc, in build/qemu/SUITE; build/qemu/SUITE/bin in front of
# PATH is all that its use takes. Nothing is installed. The archive is the host's own, whichever its apt names.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
log="$top/build/qemu-next.log"
mkdir -p "$top/build/qemu"

say() { printf '%s\n' "qemu-next: $*"; }
fail() { printf '%s\n' "qemu-next: $1; the last lines of $log:" >&2; tail -n 5 "$log" >&2; exit 1; }

sources() { # $1: a suite: the host's main archive with that suite, and with the release that it belongs to
    cd "$top" # images/ is a module from here
    /usr/bin/python3 - "$1" <<'END'
import dataclasses, sys
from images import aptsources
main = next(one for one in aptsources.of_host() if one.suite == aptsources.codename())
for suite in dict.fromkeys((sys.argv[1], sys.argv[1].removesuffix("-backports"))):
    print(dataclasses.replace(main, suite=suite).line())
END
}
apt() { # apt-get with a state of its own, empty: no package is installed, so all that QEMU needs is fetched
    apt-get -qq -o Dir::State="$new/apt" -o Dir::State::status="$new/apt/status" -o Dir::Cache="$new/apt" \
        -o Dir::Etc::SourceList="$new/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Acquire::Languages=none -o APT::Sandbox::User=root -o APT::Get::List-Cleanup=false "$@" >>"$log" 2>&1
}
wrapper() { # $1: a program: the suite's own loader starts it; beside the program, as QEMU looks for its files from there
    libraries=$(find "$made/lib" "$made/usr/lib" -maxdepth 1 -name "*-linux-gnu" 2>/dev/null | paste -sd:)
    printf '%s\n' "#!/bin/sh" "exec '$made/usr/bin/ld.so' --library-path '$libraries' '$made/usr/bin/$1' \"\$@\"" \
        >"$made/bin/$1"
    chmod 755 "$made/bin/$1"
}
one() { # $1: a suite
    made="$top/build/qemu/$1" new="$top/build/qemu/.$1.new"
    stamp="$made/.made-$(cksum <"$0" | cut -d' ' -f1)"
    if [ -e "$stamp" ]; then say "QEMU of $1: up to date"; return; fi
    say "fetching QEMU of $1"
    rm -rf "$new" && mkdir -p "$new/apt/lists/partial" "$new/apt/archives/partial" "$new/bin"
    touch "$new/apt/status"
    sources "$1" >"$new/apt/sources.list" 2>>"$log" || fail "the host's apt names no Debian archive"
    apt update || fail "the host's Debian archive does not serve $1"
    apt --download-only --no-install-recommends -y -t "$1" install qemu-system-x86 qemu-utils || fail "cannot fetch QEMU of $1"
    for package in "$new"/apt/archives/*.deb; do dpkg-deb -x "$package" "$new" >>"$log" 2>&1 || fail "cannot unpack $package"; done
    cp "$(find "$new/lib/" "$new/usr/lib/" -name 'ld-linux-*.so.*' 2>/dev/null | head -n 1)" "$new/usr/bin/ld.so"
    rm -rf "$new/apt" "$made" && mv "$new" "$made"
    wrapper qemu-system-x86_64
    wrapper qemu-img
    said=$("$made/bin/qemu-system-x86_64" --version 2>>"$log") || fail "QEMU of $1 does not start"
    touch "$stamp"
    say "$made/bin: $(printf '%s' "$said" | head -n 1)"
}

for suite in ${*:-bookworm-backports trixie-backports}; do one "$suite"; done
