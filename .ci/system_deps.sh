#!/usr/bin/env bash
# Installs the Debian packages that `make` needs and this machine lacks. Usage: system_deps.sh PYTHON
# Does nothing, and calls no apt, where nothing is missing.
set -euo pipefail
python="${1:-python3}"
packages=()

# Debian ships python3 without ensurepip, and without it `python3 -m venv` can't put pip into the environment.
"$python" -c 'import ensurepip' 2> /dev/null || packages+=(python3-venv)

# A test trains with the clock set a day off.
command -v faketime > /dev/null || packages+=(faketime)

# A test reads the start-up script with it.
command -v shellcheck > /dev/null || packages+=(shellcheck)

# Tests launch on a Slurm of their own; the packages start no service where nothing starts services.
{ command -v slurmctld && command -v slurmd && command -v munged; } > /dev/null || packages+=(slurm-wlm munge)

# Tests go through the web page in a real browser; without a font it would measure nothing but boxes.
command -v chromium > /dev/null || packages+=(chromium fonts-dejavu-core)

[ "${#packages[@]}" -eq 0 ] && exit 0
command -v apt-get > /dev/null || { echo "Please install what your system calls: ${packages[*]}" >&2; exit 1; }
echo "Installing Debian packages: ${packages[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"; } > "$log" 2>&1 \
    || { tail -n 20 "$log" >&2; exit 1; }
