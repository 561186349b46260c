#include "io/small_file.h"
#include "io/hdf5_driver.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static lk_status cannot(const char *path, const char *what)
{
    int error = lk_h5_driver_error();
    lk_h5_driver_reset();
    return lk_fail(lk_status_of_errno(error), "%s: cannot read %s: %s; %s", path, what,
                   strerror(error), lk_advice_of_errno(error, "check the path"));
}

lk_status lk_small_file(const char *path, const char *what, size_t most, char **text, size_t *size)
{
    struct stat s;
    int fd = lk_h5_driver_file(path, &s);
    if (fd < 0) return cannot(path, what);
    *text = NULL;
    *size = 0;
    lk_status status = LK_OK;
    if (S_ISREG(s.st_mode) && s.st_size > 0 && (size_t)s.st_size <= most) {
        char *bytes = malloc((size_t)s.st_size + 1);
        if (!bytes) status = lk_fail(LK_E_SYSTEM, "out of memory");
        else if (!lk_h5_driver_read(fd, path, bytes, (size_t)s.st_size, 0, size))
            status = cannot(path, what);
        if (status == LK_OK) {
            bytes[*size] = '\0';
            *text = bytes;
        } else {
            free(bytes);
        }
    }
    close(fd);
    return status;
}
