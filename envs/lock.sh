#!/bin/sh
# Remake the hashed locks from pyproject.toml; run by `make lock`. One lock serves Python 3.11 to
# 3.13: versions are chosen for the oldest, markers keep what differs.
set -eu
cd "$(dirname "$0")/.."
python -m pip install --quiet --disable-pip-version-check "uv>=0.5"
uv pip compile pyproject.toml envs/build.in --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --quiet -o envs/requirements.lock
uv pip compile pyproject.toml envs/build.in --extra test --extra lint --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-header --quiet -c envs/requirements.lock \
  -o envs/requirements-dev.lock
