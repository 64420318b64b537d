#!/bin/sh
# Make .venv ready to run, to develop in, or to test with, and build the extensions in place.
#
#   tools/bootstrap.sh run | dev | test
#
# Checks what the machine must have. A missing thing is named with the command that installs it; root on
# Debian or Ubuntu has it installed. What was done is kept in stamps inside .venv (hashes of what it depends
# on), so that a second call is over at once. PYTHON=/path/to/python overrides the choice of interpreter.

set -eu
cd "$(dirname "$0")/.."

mode=${1:-run}
venv=.venv

say() { printf '%s\n' "bootstrap: $*" >&2; }
die() { say "$*"; exit 1; }

case $mode in
    run) extra='' ;;
    dev | test) extra='[dev]' ;;
    *) die "unknown mode '$mode': run, dev or test" ;;
esac
[ "$(uname -s)" = Linux ] || die "fastgw runs on Linux only"

# -- what the machine must have ---------------------------------------------------------------------

# Says "3.11" for an interpreter that is in range and whole (headers, venv); on stderr what it lacks.
examine='
import importlib.util, os, sys, sysconfig
if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    sys.exit("is not 3.11 to 3.14")
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    sys.exit("has no headers")
if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
    sys.exit("has no venv")
'

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        reason=$("$PYTHON" -c "$examine" 2>&1) || die "PYTHON=$PYTHON cannot serve: $reason"
        command -v "$PYTHON"
        return
    fi
    for name in python3.14 python3.13 python3.12 python3.11 python3; do
        if "$name" -c "$examine" >/dev/null 2>&1; then
            command -v "$name"
            return
        fi
    done
    return 1
}

find_initdb() {
    command -v initdb && return
    for directory in /usr/lib/postgresql/*/bin; do
        [ -x "$directory/initdb" ] && echo "$directory/initdb" && return
    done
    return 1
}

# Prints "thing:packages" for all that is missing.
missing() {
    command -v git >/dev/null || echo 'git:git'
    command -v make >/dev/null || echo 'make:make'
    command -v g++ >/dev/null || echo 'g++:g++'
    # The distribution's own python3 is the one whose headers and venv have packages of known names.
    [ -n "${PYTHON:-}" ] || find_python >/dev/null ||
        echo 'Python 3.11 or newer with headers and venv:python3 python3-dev python3-venv'
    if [ "$mode" = test ]; then
        command -v openssl >/dev/null || echo 'openssl:openssl'
        find_initdb >/dev/null || echo 'PostgreSQL:postgresql'
    fi
}

needs=$(missing)
if [ -n "$needs" ]; then
    packages=$(printf '%s\n' "$needs" | cut -d: -f2 | tr '\n' ' ' | sed 's/ $//')
    things=$(printf '%s\n' "$needs" | cut -d: -f1 | paste -sd, | sed 's/,/, /g')
    command -v apt-get >/dev/null ||
        die "missing: $things. Install them with this system's package manager (Debian's names: $packages)"
    [ "$(id -u)" = 0 ] || die "missing: $things. Install with: sudo apt-get install $packages"
    say "missing: $things. Installing: apt-get install $packages"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086  # a list of words
    apt-get install -y --no-install-recommends $packages >&2 || {
        apt-get update >&2
        apt-get install -y --no-install-recommends $packages >&2
    }
    needs=$(missing)
    [ -z "$needs" ] || die "still missing after installing: $(printf '%s\n' "$needs" | cut -d: -f1 | paste -sd,)"
fi

# -- the virtual environment ------------------------------------------------------------------------

python=$(find_python)
hash_of() { cat "$@" | sha256sum | cut -d' ' -f1; }

identity="$("$python" -c 'import sys; print(sys.base_prefix, sys.version)' | tr '\n' ' ')"
if [ "$(cat $venv/stamp-python 2>/dev/null || true)" != "$identity" ] || [ ! -x $venv/bin/python ]; then
    say "making $venv with $python ($("$python" --version))"
    rm -rf $venv
    "$python" -m venv $venv
    printf '%s' "$identity" >$venv/stamp-python
fi

# The C compiler runs on all cores; setuptools reads this file besides its own.
printf '[build_ext]\nparallel = %s\n' "$(nproc)" >$venv/build.cfg
export DIST_EXTRA_CONFIG="$PWD/$venv/build.cfg"
export PIP_DISABLE_PIP_VERSION_CHECK=1

metadata=$(hash_of pyproject.toml)
sources=$(find src -name '*.pyx' -o -name '*.pxd' | LC_ALL=C sort)
# shellcheck disable=SC2086  # a list of words; no path here has a space
compiled="${FASTGW_DEBUG:-0} $(hash_of setup.py $sources)"

installed=$(cat $venv/stamp-installed 2>/dev/null || true)
case "$installed" in
    "$metadata" | "$metadata [dev]") has_metadata=yes ;;
    *) has_metadata=no ;;
esac
if [ $has_metadata = no ] || { [ -n "$extra" ] && [ "$installed" != "$metadata [dev]" ]; }; then
    say "installing fastgw$extra and building its extensions (a minute or two)"
    rm -f $venv/stamp-installed $venv/stamp-compiled
    $venv/bin/python -m pip install -q 'setuptools>=77' 'Cython>=3.2.1,<4'
    $venv/bin/python -m pip install -q --no-build-isolation -e ".$extra"
    printf '%s' "$metadata${extra:+ $extra}" >$venv/stamp-installed
    printf '%s' "$compiled" >$venv/stamp-compiled
elif [ "$(cat $venv/stamp-compiled 2>/dev/null || true)" != "$compiled" ]; then
    say "building the extensions"
    $venv/bin/python setup.py -q build_ext --inplace
    printf '%s' "$compiled" >$venv/stamp-compiled
fi
