# LK_XXHASH: xxHash 0.8 or newer (XXH3 with a stable format), for digests.
AC_DEFUN([LK_XXHASH], [
LK_LIBRARY([xxhash], [XXHASH], [libxxhash], [-lxxhash],
  [AC_LANG_PROGRAM([[#include <xxhash.h>
#if XXH_VERSION_NUMBER < 800
#error "xxHash 0.8 or newer is needed"
#endif]], [[return (int)XXH3_128bits("", 0).low64;]])],
  [Install xxHash >= 0.8 (Debian: libxxhash-dev), or give --with-xxhash=DIR.],
  [xxhash.h])
])
