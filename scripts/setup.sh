#!/usr/bin/env bash
# Make the virtual environment of this project: bash scripts/setup.sh [.venv]
#
# Safe to run again at any time: finished steps stay, and interrupted ones are repeated. PYTHON names another interpreter. $VENV/.ready marks an environment that is complete.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${1:-.venv}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
# Source packages are built with the pinned setuptools, not with the newest one. (The first
# name is read by pip up to 25.2, the second by later ones.)
export PIP_CONSTRAINT=$PWD/requirements.lock PIP_BUILD_CONSTRAINT=$PWD/requirements.lock

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

supported() {  # does this interpreter run, with a version that setup.cfg allows?
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" || die "PYTHON=$PYTHON is not a Python of 3.10 to 3.13"
        echo "$PYTHON"
        return
    fi
    local name
    for name in python3 python3.13 python3.12 python3.11 python3.10; do
        if supported "$name"; then echo "$name"; return; fi
    done
    die "no Python of 3.10 to 3.13 found; install one" \
        "($(how "python3 python3-venv" python@3.12 python3.12))," \
        "or name one: make setup PYTHON=/path/to/python3"
}

apt_install() {  # install a Debian package where that needs no password; false where it may not
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || return 1
        apt=(sudo -n "${apt[@]}")
    fi
    say "installing $1 with apt-get"
    "${apt[@]}" update && "${apt[@]}" install --yes --no-install-recommends "$1" >/dev/null
}

how() {  # the command of this system that installs a part, whose Debian package is named first
    if command -v apt-get >/dev/null; then echo "apt-get install $1"
    elif [ -n "$2" ] && command -v brew >/dev/null; then echo "brew install $2"
    elif [ -n "$3" ] && command -v dnf >/dev/null; then echo "dnf install $3"
    else echo "with the packages of your system (on Debian: $1)"; fi
}

make_venv() {
    local python version
    python=$(find_python)
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        apt_install "python$version-venv" || die "Python $version cannot make virtual" \
            "environments here; install the missing part:" \
            "$(how "python$version-venv" "" "")"
    fi
    say "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
}

rm -f "$venv/.ready"
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    make_venv
elif ! supported "$venv/bin/python"; then
    die "$venv is not of Python 3.10 to 3.13; remove it and run this again: rm -rf $venv"
fi
python=$venv/bin/python

# Marks an interrupted install: pip takes a half-written package for a complete one.
force=()
if [ -e "$venv/.installing" ]; then force=(--force-reinstall); fi
touch "$venv/.installing"
say "installing the pinned dependencies (about 3 GB to download at the first time)"
# Progress bars on a terminal, none in a log.
quiet=(--quiet)
if [ -t 1 ]; then quiet=(); fi
# No dependency is resolved here: requirements.lock is complete, and has on purpose no packages that
# conflict (see [tool.uv] in pyproject.toml).
"$python" -m pip install ${quiet[@]+"${quiet[@]}"} ${force[@]+"${force[@]}"} --no-deps --no-compile \
    --use-pep517 -r requirements.lock
"$python" -m pip install --quiet --no-deps --no-build-isolation --editable .
# Earlier versions installed the stand-in for Detectron2 as a distribution of that name.
old='import importlib.metadata as m; raise SystemExit("+subset" not in m.version("detectron2"))'
if "$python" -c "$old" 2>/dev/null; then
    say "removing the stand-in that was installed as detectron2"
    "$python" -m pip uninstall --quiet --yes detectron2
fi
rm -f "$venv/.installing"

status=0
"$python" - 2>/dev/null <<'PYTHON' || status=$?
from detclip2.utils.errors import UserError
from detclip2.data.emojiscenes.sprites import find_emoji_font
try:
    find_emoji_font()
except UserError:
    raise SystemExit(3)
PYTHON
if [ "$status" -eq 3 ]; then
    apt_install fonts-noto-color-emoji || say "no colour emoji font found; EmojiScenes needs one;" \
        "install it:" \
        "$(how fonts-noto-color-emoji "--cask font-noto-color-emoji" google-noto-color-emoji-fonts)" \
        "(or give the path of NotoColorEmoji.ttf in DETCLIP2_EMOJI_FONT)"
fi

# Two tests of detclip2 concepts need WordNet, and are skipped without it.
if [ ! -e /usr/share/wordnet/data.noun ]; then
    apt_install wordnet-base || say "WordNet is not installed; two tests need it and are skipped." \
        "To run them: $(how wordnet-base wordnet wordnet)"
fi

# One test opens the page of `detclip2 web` in a browser, and is skipped without one.
if ! "$python" -c 'from tests.helpers.browser import program; raise SystemExit(not program())'; then
    apt_install chromium-headless-shell || say "there is no Chromium or Chrome; a test of the web" \
        "page needs one and is skipped. To run it: $(how chromium "--cask chromium" chromium)"
fi

pwd -P >"$venv/.ready"
say "done; in each shell: source $venv/bin/activate"
