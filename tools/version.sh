#!/bin/sh
# Print the version, which include/manyhands/base.h alone declares.
cd "$(dirname "$0")/.." || exit 1
awk '/^#define MH_VERSION_(MAJOR|MINOR|PATCH) / { v = v dot $3; dot = "." } END { print v }' include/manyhands/base.h
