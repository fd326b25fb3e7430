# SPDX-License-Identifier: Apache-2.0
#
# SLC_CHECK_CUDA: the compiler of the CUDA module (kernels/cuda). Only the module is
# built with it; the sluice program itself never links a CUDA library.
# Sets NVCC, CUDA_CPPFLAGS, CUDA_LDFLAGS, NVCC_FLAGS and the conditional HAVE_CUDA.
AC_DEFUN([SLC_CHECK_CUDA], [
AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda=DIR],
    [build the GPU module with this CUDA toolkit @<:@default: nvcc in PATH, then
     /usr/local/cuda@:>@])],
    [slc_with_cuda=$withval], [slc_with_cuda=guess])
AC_ARG_VAR([NVCC], [CUDA compiler])
AC_ARG_VAR([NVCC_FLAGS], [CUDA compiler flags @<:@-O3 -lineinfo@:>@])
AC_ARG_VAR([CUDA_ARCH_FLAGS], [GPU architectures to compile for])
slc_have_cuda=no
AS_CASE([$slc_with_cuda],
    [no], [],
    [yes|guess], [AC_PATH_PROG([NVCC], [nvcc], [],
        [$PATH$PATH_SEPARATOR/usr/local/cuda/bin])],
    [AC_PATH_PROG([NVCC], [nvcc], [], [$slc_with_cuda/bin])])
AS_IF([test $slc_with_cuda != no && test -n "$NVCC"], [
    slc_cuda_home=`AS_DIRNAME(["$NVCC"])`/..
    slc_cuda_home=`cd "$slc_cuda_home" && pwd`
    AC_MSG_CHECKING([whether $NVCC compiles a kernel])
    AS_VAR_SET_IF([NVCC_FLAGS], [], [NVCC_FLAGS="-O3 -lineinfo"])
    # Hopper's own instructions need sm_90a; the compute_80 text serves every later one.
    AS_VAR_SET_IF([CUDA_ARCH_FLAGS], [], [CUDA_ARCH_FLAGS="\
-gencode=arch=compute_90a,code=sm_90a \
-gencode=arch=compute_80,code=@<:@sm_80,compute_80@:>@"])
    cat > conftest.cu <<_ACEOF
__global__ void slc_conf(float *x) { x[[threadIdx.x]] = 0.0f; }
_ACEOF
    AS_IF([AC_TRY_COMMAND([$NVCC $CUDA_ARCH_FLAGS -c -o conftest.o conftest.cu >&AS_MESSAGE_LOG_FD 2>&1])],
        [slc_have_cuda=yes])
    AC_MSG_RESULT([$slc_have_cuda])
    rm -f conftest.cu conftest.o
])
AS_CASE([$slc_with_cuda:$slc_have_cuda],
    [no:*|guess:*|*:yes], [],
    [AC_MSG_ERROR([--with-cuda=$slc_with_cuda was asked for, but no working nvcc was found.
  Debian, Ubuntu:  apt-get install cuda-toolkit-13-0   (NVIDIA's repository)
  RHEL, Fedora:    dnf install cuda-toolkit-13-0       (NVIDIA's repository)
or leave --with-cuda out to build for CPU only])])
AS_IF([test $slc_have_cuda = yes], [
    slc_from_cuda=$NVCC
    CUDA_CPPFLAGS="-I$slc_cuda_home/include"
    CUDA_LDFLAGS="-L$slc_cuda_home/lib64"
], [slc_from_cuda="no nvcc: Debian, RHEL cuda-toolkit-13-0"])
slc_from_cudnn="no"
slc_from_nccl="no"
CUDNN_LIBS=
AS_IF([test $slc_have_cuda = yes], [
    slc_save_cppflags=$CPPFLAGS slc_save_ldflags=$LDFLAGS slc_save_libs=$LIBS
    CPPFLAGS="$CPPFLAGS $CUDA_CPPFLAGS" LDFLAGS="$LDFLAGS $CUDA_LDFLAGS"
    slc_from_cudnn="no cuDNN 9: attention on the plain kernels; Debian, RHEL cudnn9-cuda-13"
    AC_CHECK_HEADER([cudnn.h], [AC_CHECK_LIB([cudnn], [cudnnBackendExecute], [
        CUDNN_LIBS=-lcudnn
        CUDA_CPPFLAGS="$CUDA_CPPFLAGS -DSLC_HAVE_CUDNN"
        slc_from_cudnn=yes])])
    dnl NCCL is loaded at run time, where several ranks have GPUs: only its header here.
    AC_CHECK_HEADER([nccl.h], [CUDA_CPPFLAGS="$CUDA_CPPFLAGS -DSLC_HAVE_NCCL"
        slc_from_nccl=yes], [slc_from_nccl="no nccl.h: gradients through host memory; Debian, RHEL libnccl-dev"])
    CPPFLAGS=$slc_save_cppflags LDFLAGS=$slc_save_ldflags LIBS=$slc_save_libs
])
AC_SUBST([CUDNN_LIBS])
AC_SUBST([CUDA_CPPFLAGS])
AC_SUBST([CUDA_LDFLAGS])
AM_CONDITIONAL([HAVE_CUDA], [test $slc_have_cuda = yes])
])
