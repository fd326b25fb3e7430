# SPDX-License-Identifier: Apache-2.0
# HDF5: checkpoint and corpus files. The serial build: a parallel one would bring MPI
# into the process. Debian keeps both and puts the serial headers in hdf5/serial.
AC_DEFUN([SLC_CHECK_HDF5], [
SLC_LIB([HDF5], [hdf5], [hdf5-serial hdf5], [hdf5.h], [H5Fcreate],
    [-lhdf5], [libhdf5-dev], [hdf5-devel],
    [
#ifdef H5_HAVE_PARALLEL
#error "this HDF5 is built for MPI; the serial build is needed"
#endif])
AS_IF([test $slc_have_hdf5 = no && test "$slc_with_hdf5" = guess], [
    slc_from_hdf5=/usr/include/hdf5/serial
    SLC_LIB_TRY([HDF5], [hdf5], [-I/usr/include/hdf5/serial], [-lhdf5_serial],
        [hdf5.h], [H5Fcreate], [], [/usr/include/hdf5/serial])
])
SLC_NEED([hdf5], [libhdf5-dev], [hdf5-devel])
])
