/* A look at a run, as text. */
#ifndef LK_TRAIN_WATCH_H
#define LK_TRAIN_WATCH_H

#include "train/history.h"

#include <stdio.h>

/* Draw the state of a run in lines of at most `columns` characters (at least 40): progress,
 * figures, the curve of the loss, the last warnings. `unicode`: the curve in Braille patterns, else
 * in ASCII. `now`: seconds since 1970. Returns the number of lines written. */
int lk_watch_draw(FILE *out, const lk_history *h, int columns, bool unicode, double now);
/* The same in one line. */
void lk_watch_line(FILE *out, const lk_history *h, double now);

#endif
