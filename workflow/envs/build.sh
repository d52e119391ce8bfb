#!/bin/sh
# Build a virtual environment from a lock file: build.sh PYTHON FOLDER LOCK GIGABYTES [cpu]. Whatever is missing is said in one
# message. With `cpu` the CUDA libraries are left out, for a build of torch that does not need them (docs/containers.md).
set -u
python=$1 folder=$2 lock=$3 room=$4 torch=${5:-cuda}

stop() {
    echo "make: $*" >&2
    exit 1
}

command -v "$python" > /dev/null ||
    stop "there is no '$python' here: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11 ..."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    stop "'$python' is $("$python" --version 2>&1), lavish needs Python 3.11 or newer: make PYTHON=python3.11 ..."
"$python" -c 'import venv, ensurepip' 2> /dev/null ||
    stop "'$python' has no module venv: install it (on Debian: apt-get install python3-venv), or name another Python"
free=$("$python" -c 'import shutil; print(shutil.disk_usage(".").free // 10**9)')
[ "$free" -ge "$room" ] ||
    stop "$folder needs $room GB and $free GB are free in $PWD: make room, or clone to another disk"

echo "Building $folder from $lock: fetches and installs up to $room GB, which takes minutes (the next call does not)."
rm -rf "$folder"
"$python" -m venv "$folder" || stop "$folder could not be made: see above"
wanted=$folder/wanted.txt
if [ "$torch" = cpu ]; then
    sed -E '/^(nvidia-|cuda-|triton=)/d' "$lock" > "$wanted"
else
    cp "$lock" "$wanted"
fi

# The first package, a small one, shows whether packages can be fetched at all.
uv=$(grep '^uv==' requirements.lock)
log=$folder/pip.log
if ! "$folder/bin/python" -m pip install --retries 1 --no-deps "$uv" > "$log" 2>&1; then
    case $(cat "$log") in
        *[Pp]roxy*) why="the proxy (HTTPS_PROXY is '${HTTPS_PROXY:-${https_proxy:-}}') does not let pip through" ;;
        *"No space left"*) why="the disk is full" ;;
        *) why="no network, or a network that needs a proxy or a mirror" ;;
    esac
    cp "$log" pip.log
    stop "packages cannot be fetched: $why. Behind a proxy: export HTTPS_PROXY=http://HOST:PORT. With a mirror:" \
        "pip config set global.index-url ADDRESS. Then call make again; what pip said is in pip.log."
fi

# uv takes a tenth of the time; pip knows of mirrors and proxies that only it was told of. Bytecode is made here, as pip
# does, because every step of a table would else compile a thousand modules where Python may not write any.
quiet=--quiet
[ -t 2 ] && quiet=
"$folder/bin/uv" pip install $quiet --python "$folder/bin/python" --no-deps --compile-bytecode --requirement "$wanted" ||
    "$folder/bin/python" -m pip install $quiet --no-deps --requirement "$wanted" ||
    stop "the packages of $lock could not be installed (see above): call make again, it begins anew"
