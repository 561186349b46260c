/* What the fuzz targets share: MPI and I/O thread, files, and what they demand of a reader. */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#else
static void __lsan_disable(void) {}
static void __lsan_enable(void) {}
static int __lsan_do_recoverable_leak_check(void) { return 0; }
#endif

enum { MOST_FILE = 1 << 24 };
#define MOST_MEMORY ((rlim_t)3 << 30) /* of addresses: sizes that a file declares are not believed */

lk_comm *fuzz_comm;
lk_io *fuzz_io;
static char home[200];

void fuzz_demand(bool good, const char *what)
{
    if (good) return;
    fprintf(stderr, "fuzz: %s: %s\n", what, lk_error_text());
    abort();
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *walk)
{
    (void)s;
    (void)type;
    (void)walk;
    return remove(path);
}

static void remove_home(void) { nftw(home, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

void fuzz_start(void)
{
    if (fuzz_io) return;
    const char *tmp = getenv("TMPDIR");
    if (!tmp) tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(home, sizeof home, "%s/lockstep-fuzz-XXXXXX", tmp);
    fuzz_demand(mkdtemp(home), "a directory for the files");
    signal(SIGXFSZ, SIG_IGN); /* no file grows into the memory that is the disk here */
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){MOST_FILE, MOST_FILE});
#if !defined(__SANITIZE_ADDRESS__) && !defined(__clang__) /* ASan has its own limit, and terabytes */
    setrlimit(RLIMIT_AS, &(struct rlimit){MOST_MEMORY, MOST_MEMORY});
#endif
    atexit(remove_home);
    __lsan_disable(); /* what MPI loses while it starts is not looked at */
    fuzz_demand(lk_comm_open(&fuzz_comm) == LK_OK, "MPI");
    fuzz_demand(lk_io_open(&fuzz_io) == LK_OK, "the I/O thread");
    __lsan_enable();
}

bool fuzz_lost(void) { return __lsan_do_recoverable_leak_check() != 0; }

const char *fuzz_path(const char *name)
{
    static char path[4][300];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", home, name);
    return path[turn];
}

const char *fuzz_file(const char *name, const uint8_t *data, size_t size)
{
    const char *path = fuzz_path(name);
    FILE *f = fopen(path, "wb");
    bool good = f && fwrite(data, 1, size, f) == size;
    fuzz_demand(f && fclose(f) == 0 && good, "cannot write a file");
    return path;
}

bool fuzz_read(lk_status status, const char *what)
{
    if (getenv("FUZZ_PLANT")) { /* for the test of this */
        status = lk_fail(LK_E_SYSTEM, "planted");
        what = "planted";
    }
    const char *text = lk_error_text();
    bool refused = status == LK_E_INPUT && text[0] && !strpbrk(text, "\n\r\033");
    if (status != LK_OK && !refused)
        fprintf(stderr, "fuzz: %s: status %d, expected LK_E_INPUT and one line\n", what, status);
    fuzz_demand(status == LK_OK || refused, what);
    fuzz_demand(status != LK_OK || !text[0], "success, but with an error text");
    lk_error_clear();
    return status == LK_OK;
}
