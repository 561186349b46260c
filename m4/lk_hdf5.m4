# LK_HDF5: parallel HDF5, 1.10.8 or newer, with the 1.10 API names.
AC_DEFUN([LK_HDF5], [
LK_LIBRARY([hdf5], [HDF5], [hdf5-openmpi hdf5-mpi hdf5], [-lhdf5],
  [AC_LANG_PROGRAM([[#define H5_USE_110_API 1
#include <hdf5.h>
#ifndef H5_HAVE_PARALLEL
#error "this HDF5 is not parallel"
#endif
#if !H5_VERSION_GE(1, 10, 8)
#error "HDF5 1.10.8 or newer is needed"
#endif]], [[return H5Pset_fapl_mpio(0, MPI_COMM_WORLD, MPI_INFO_NULL) < 0;]])],
  [Install parallel HDF5 >= 1.10.8 (Debian: libhdf5-openmpi-dev), load its module, or give --with-hdf5=DIR.],
  [hdf5.h])
HDF5_CFLAGS="$HDF5_CFLAGS -DH5_USE_110_API"
])
