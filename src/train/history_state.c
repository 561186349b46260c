/* How a run stands, by what its files say. */
#include "train/history.h"

#include "base/digits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SILENT 30.0 /* seconds without a line, and */
#define PACES 20.0  /* the time of so many steps: the run says nothing */
#define DEAD 3.0    /* seconds, when nobody holds its lock any more */

double lk_history_number(const json_t *o, const char *name)
{
    const json_t *v = json_object_get(o, name);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

double lk_history_last(const lk_table *t, int column)
{
    return t->rows ? t->column[column][t->rows - 1] : NAN;
}

const json_t *lk_history_start(const lk_history *h)
{
    return json_array_get(h->starts, json_array_size(h->starts) - 1);
}

/* ---- starts and ends ------------------------------------------------------------------------- */

/* When the last start began, whether it keeps a run log or not; NAN: not known. */
static double begun(const lk_history *h)
{
    double logged = lk_history_number(lk_history_start(h), "time"), listed = NAN;
    const json_t *last = json_array_get(h->hosts, json_array_size(h->hosts) - 1);
    const char *text = json_string_value(json_object_get(last, "time"));
    struct tm utc = {0};
    if (text && strptime(text, "%Y-%m-%dT%H:%M:%SZ", &utc)) listed = (double)timegm(&utc);
    return fmax(logged, listed); /* that which is known, if one is not */
}

/* How the last start ended, NULL: it has not, or without a word. */
static const json_t *end_of(const lk_history *h)
{
    const json_t *end = json_array_get(h->ends, json_array_size(h->ends) - 1);
    return begun(h) > lk_history_number(end, "time") ? NULL : end;
}

void lk_history_find_end(lk_history *h)
{
    char path[4200];
    const char *how = json_string_value(json_object_get(end_of(h), "how"));
    snprintf(path, sizeof path, "%s/DONE", h->directory);
    h->done = access(path, F_OK) == 0 || (how && strcmp(how, "done") == 0);
    h->failed = !h->done && how && strcmp(how, "failed") == 0;
}

/* Of a start before the next: what its end says, or the time until its last record that counts. */
static double worked_in(const lk_history *h, size_t start)
{
    double from = lk_history_number(json_array_get(h->starts, start), "time"), last = from;
    double next = lk_history_number(json_array_get(h->starts, start + 1), "time");
    for (size_t i = 0; i < json_array_size(h->ends); i++) {
        const json_t *end = json_array_get(h->ends, i);
        double time = lk_history_number(end, "time");
        if (time >= from && !(time > next)) return lk_history_number(end, "seconds");
    }
    for (int64_t i = 0; i < h->record.rows; i++) {
        double time = h->record.column[LK_RECORD_TIME][i];
        if (time >= from && !(time > next)) last = fmax(last, time);
    }
    return last - from;
}

double lk_history_worked(const lk_history *h)
{
    double sum = 0;
    for (size_t i = 0; i < json_array_size(h->starts); i++) {
        double seconds = worked_in(h, i);
        if (seconds > 0) sum += seconds;
    }
    return sum;
}

/* ---- the state ------------------------------------------------------------------------------- */

/* Whether a process of this host holds the lock of the directory (rundir.c), without taking it;
 * true also where that cannot be known. Numbers of devices differ between what the kernel lists and
 * what stat() says on some file systems: the file's own has to do. */
static bool may_be_locked(const lk_history *h)
{
    char path[4200], line[256], host[64] = "";
    const char *theirs = json_string_value(json_object_get(lk_history_start(h), "host"));
    struct stat at;
    snprintf(path, sizeof path, "%s/lock", h->directory);
    if (gethostname(host, sizeof host - 1) != 0 || !theirs || strcmp(host, theirs) != 0)
        return true;
    FILE *f = stat(path, &at) == 0 ? fopen("/proc/locks", "r") : NULL;
    bool held = f == NULL;
    while (f && !held && fgets(line, sizeof line, f)) {
        unsigned long inode;
        held = sscanf(line, "%*d: %*s %*s %*s %*d %*x:%*x:%lu", &inode) == 1 &&
               inode == (unsigned long)at.st_ino;
    }
    if (f) fclose(f);
    return held;
}

static bool makes_no_sense(const lk_history *h)
{
    return h->unreadable > 0 && h->loss.rows + h->validation.rows + h->record.rows == 0 &&
           !lk_history_start(h) && json_array_size(h->ends) == 0;
}

lk_run_state lk_history_state(const lk_history *h, double now, char text[LK_HISTORY_TEXT])
{
    const json_t *end = end_of(h);
    const char *how = json_string_value(json_object_get(end, "how"));
    const char *why = json_string_value(json_object_get(end, "why"));
    double age = now - h->changed, pace = 1e-3 * lk_history_last(&h->record, LK_RECORD_P99);
    bool dead = age > DEAD && !may_be_locked(h), silent = age > SILENT && !(age < PACES * pace);
    char duration[32];
    if (h->done) {
        snprintf(text, LK_HISTORY_TEXT, "done");
        return LK_RUN_DONE;
    }
    if (how) {
        snprintf(text, LK_HISTORY_TEXT, "%.20s%s%.1100s", how, why ? ": " : "", why ? why : "");
        return h->failed ? LK_RUN_FAILED : LK_RUN_STOPPED;
    }
    if (makes_no_sense(h)) {
        snprintf(text, LK_HISTORY_TEXT, "unreadable: no line of its logs makes sense");
        return LK_RUN_UNREADABLE;
    }
    if (dead || silent) {
        snprintf(text, LK_HISTORY_TEXT, "silent for %s%s%s", lk_digits_duration(age, duration),
                 dead ? ", it was killed: no process works on it" : "",
                 h->any_log ? "" : ", no log yet");
        return LK_RUN_SILENT;
    }
    snprintf(text, LK_HISTORY_TEXT, h->any_log ? "running" : "starting, no log yet");
    return LK_RUN_RUNNING;
}

/* A number of a log, which may be damaged, as a whole one from 0. */
static int64_t whole(double x) { return x >= 0 && x < 0x1p62 ? (int64_t)x : 0; }

int64_t lk_history_total(const lk_history *h)
{
    if (h->has_run) return h->run.train.steps; /* each start writes it anew */
    return whole(lk_history_number(lk_history_start(h), "steps"));
}

int64_t lk_history_done(const lk_history *h)
{
    return whole(lk_history_last(&h->loss, LK_LOSS_STEP));
}

double lk_history_best(const lk_history *h, int64_t *step)
{
    double best = NAN;
    for (int64_t i = 0; i < h->validation.rows; i++) {
        double loss = h->validation.column[LK_VALID_LOSS][i];
        if (!(isnan(best) || loss < best)) continue;
        best = loss;
        if (step) *step = whole(h->validation.column[LK_VALID_STEP][i]);
    }
    return best;
}

void lk_history_loss_range(const lk_history *h, double *low, double *high)
{
    for (int64_t i = 0; i < h->loss.rows; i++) {
        double y = h->loss.column[LK_LOSS][i];
        if (!isfinite(y)) continue;
        *low = fmin(*low, y);
        *high = fmax(*high, y);
    }
}

bool lk_history_logarithmic(double low, double high) { return low > 0 && high > 4 * low; }
