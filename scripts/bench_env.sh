#!/usr/bin/env bash
# Make the environment of scripts/bench_peers.py: this package and its peers. Arguments: the folder, the Python to use.
# Their requirements contradict each other (numpy, torchvision), so their dependencies are listed by name.
set -euo pipefail
folder=$1 python=${2:-python3}

"$python" -m venv --clear "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --constraint constraints.txt --editable . lightning pytest \
  higher==0.2.1 torchopt==0.7.3 parallel-metalearn==0.5.6
pip install --no-deps easyfsl==1.5.0 torchvision==0.28.0  # without pandas, which ProtoNet does not use

# learn2learn 0.2.0 ships C code from a Cython that is too old for Python 3.11: generate it again. It imports gym.
# If any of this fails, the environment is without learn2learn, and the benchmark says so.
learn2learn() {
  local work
  work=$(mktemp -d)
  trap 'rm -rf "$work"' RETURN
  "$python" -m venv "$work/tools" &&
    "$work/tools/bin/pip" install --quiet 'setuptools<81' wheel numpy Cython==0.29.37 &&
    "$work/tools/bin/pip" download --no-deps --no-binary :all: --no-build-isolation -d "$work" learn2learn==0.2.0 &&
    tar xf "$work/learn2learn-0.2.0.tar.gz" -C "$work" &&
    (cd "$work/learn2learn-0.2.0/learn2learn/data" && "$work/tools/bin/cython" -3 ./*.pyx) &&
    "$work/tools/bin/pip" wheel --no-deps --no-build-isolation -w "$work" "$work/learn2learn-0.2.0" &&
    pip install --no-deps gym==0.26.2 gym-notices cloudpickle scipy "$work"/learn2learn-*.whl
}
learn2learn || echo 'warning: learn2learn could not be built; the benchmark continues without it' >&2
