/* Files that are there whole or not at all: what is written goes to PATH.part, which then takes the
 * place of PATH. Whoever reads PATH meanwhile sees the old one. */
#ifndef LK_BASE_REPLACE_H
#define LK_BASE_REPLACE_H

#include "base/status.h"

#include <stdbool.h>
#include <stdio.h>

/* What the files begin with that lockstep makes for people and other programs. */
#define LK_BEGINS_PAGE "<!DOCTYPE html>"
#define LK_BEGINS_METRICS "# HELP lockstep_"
#define LK_BEGINS_TRACE "{\"displayTimeUnit\":"

/* Whether a file can be made or replaced at `path`, before the work whose result it will hold.
 * LK_E_INPUT: it is a directory, a file that is not empty and does not begin with `begins` (NULL:
 * any may be replaced), or what it would lie in cannot be written into; LK_E_SYSTEM: the latter for
 * a reason of the disk's (lk_status_of_errno). */
lk_status lk_replace_check(const char *path, const char *begins);
/* PATH.part, malloc'ed. */
lk_status lk_replace_part(const char *path, char **part);
/* Make `part` if it is not there and keep others from writing it until *lock, a file descriptor, is
 * closed: after it was published or removed. LK_E_INPUT: another process writes it, or it is no
 * file. A file system without locks is believed. */
lk_status lk_replace_lock(const char *part, int *lock);
/* Make `part`, which is closed, `path`: both survive a loss of power from then on. LK_E_SYSTEM. */
lk_status lk_replace_publish(const char *part, const char *path);
/* The same where `path` must not be there yet, not even as a link to nothing: LK_E_INPUT. */
lk_status lk_replace_publish_new(const char *part, const char *path);
/* fsync() of a file or a directory. LK_E_SYSTEM. */
lk_status lk_replace_sync(const char *path);

/* A file of text. */
typedef struct lk_replace {
    FILE *file;        /* to write to; NULL: closed */
    char *path, *part;
    const char *what;  /* for messages: "the page" */
} lk_replace;
/* `begins` as for lk_replace_check(). LK_E_INPUT: cannot be made there, or another file is there;
 * LK_E_SYSTEM: no room, or the disk. Both name `what`. */
lk_status lk_replace_open(lk_replace *r, const char *path, const char *what, const char *begins);
/* Put it in place. Whatever happens r is closed, and after a failure nothing is left of it.
 * `durable`: as lk_replace_publish(). */
lk_status lk_replace_close(lk_replace *r, bool durable);
void lk_replace_discard(lk_replace *r); /* takes one that is closed, or zeroed */

#endif
