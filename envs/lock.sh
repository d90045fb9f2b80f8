#!/bin/sh
# Make the hashed lock files from pyproject.toml again; run by `make lock`. One lock file is for Python 3.11
# to 3.13: versions are chosen for the oldest Python, markers hold the differences. The later lock files
# contain all packages of the first one, at the same versions.
set -eu
cd "$(dirname "$0")/.."
python -m pip install --quiet --disable-pip-version-check "uv>=0.5"
lock() {
  output=$1
  shift
  uv pip compile pyproject.toml envs/build.in --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-header --quiet -o "$output" "$@"
}
lock envs/requirements.lock
lock envs/requirements-slurm.lock --extra slurm -c envs/requirements.lock
lock envs/requirements-xfel.lock --extra slurm --extra xfel -c envs/requirements-slurm.lock
lock envs/requirements-view.lock --extra view -c envs/requirements.lock
lock envs/requirements-dev.lock --extra test --extra lint --extra docs --extra slurm --extra xfel --extra view -c envs/requirements-xfel.lock \
  -c envs/requirements-view.lock
