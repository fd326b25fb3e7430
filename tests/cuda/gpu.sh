# SPDX-License-Identifier: Apache-2.0
#
# For tests on the GPU: says SKIP with the reason where there is no module or no GPU.
if ! ls "${top_builddir:-.}"/.libs/sluice-cuda.so >/dev/null 2>&1; then
    echo "1..0 # SKIP the GPU module was not built (configure --with-cuda)"
    exit 0
fi
if ! ls /dev/nvidia[0-9]* >/dev/null 2>&1; then
    echo "1..0 # SKIP this machine has no NVIDIA GPU"
    exit 0
fi
SLUICE_MODULE_DIR=$(cd "${top_builddir:-.}/.libs" && pwd)
export SLUICE_MODULE_DIR
