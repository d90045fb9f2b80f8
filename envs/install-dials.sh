#!/bin/sh
# Install DIALS, an optional engine of hklflow: by apt if apt offers it (Debian, Ubuntu; as root or with
# sudo), else in an environment of conda, mamba or micromamba.
set -eu
cd "$(dirname "$0")"

if command -v dials.version > /dev/null; then
  dials.version
  exit 0
fi

as_root=
if [ "$(id -u)" != 0 ]; then
  as_root="sudo -n"
fi
if command -v apt-get > /dev/null && { [ -z "$as_root" ] || $as_root true 2> /dev/null; }; then
  $as_root apt-get update -q
  if apt-cache show dials > /dev/null 2>&1; then
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends dials
    dials.version
    exit 0
  fi
fi

for conda in conda mamba micromamba; do
  if command -v "$conda" > /dev/null; then
    case "$conda" in
      micromamba) micromamba create -y -f dials.yaml ;;
      *) "$conda" env create -f dials.yaml ;;
    esac
    prefix=$("$conda" run -n hklflow-dials sh -c 'dirname "$(command -v dials.version)"')
    "$prefix/dials.version"
    echo "in config.yaml:"
    echo "dials: {prefix: $prefix}"
    exit 0
  fi
done

echo "DIALS cannot be installed here: neither apt-get (as root or with sudo) knows it, nor is there conda, mamba or micromamba; see docs/dials.md" >&2
exit 1
