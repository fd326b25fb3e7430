#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes ./configure from configure.ac. Needed once after a clone; releases have it.
set -e
cd "$(dirname "$0")"
for tool in autoreconf automake libtoolize pkg-config; do
    if ! command -v $tool >/dev/null 2>&1; then
        echo "autogen.sh: $tool is missing; install it:" >&2
        echo "  Debian, Ubuntu: apt-get install autoconf automake libtool pkg-config" >&2
        echo "  RHEL, Fedora:   dnf install autoconf automake libtool pkgconf-pkg-config" >&2
        exit 1
    fi
done
exec autoreconf --install --warnings=all
