#include "train/steplog.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOSS = LK_CHECKPOINT_LOSS, VALIDATION = LK_CHECKPOINT_VALIDATION };

const lk_steplog_form lk_steplogs[] = {
    [LOSS] = {"loss.log", "step loss rate scale norm skipped", 5, 5, true},
    [VALIDATION] = {"validation.log", "step loss", 1, 4, false},
};

/* ---- lines ----------------------------------------------------------------------------------- */

void lk_steplog_write_loss(const lk_step_state *s, char line[LK_STEPLOG_LINE])
{
    snprintf(line, LK_STEPLOG_LINE, "%llu %.9g %.9g %.9g %.9g %llu\n",
             (unsigned long long)s->step, (double)s->loss, (double)s->lr, (double)s->loss_scale,
             (double)s->grad_norm, (unsigned long long)s->skipped);
}

void lk_steplog_write_validation(uint64_t step, const lk_validation *v, char line[LK_STEPLOG_LINE])
{
    const double more[] = {v->accuracy, v->ema_loss, v->ema_accuracy};
    size_t n = (size_t)snprintf(line, LK_STEPLOG_LINE, "%llu %.17g", (unsigned long long)step,
                                v->loss);
    for (int i = 0; i < 3; i++)
        if (!isnan(more[i]))
            n += (size_t)snprintf(line + n, LK_STEPLOG_LINE - n, " %.17g", more[i]);
    snprintf(line + n, LK_STEPLOG_LINE - n, "\n");
}

typedef struct line {
    uint64_t step;
    int numbers;
    double number[LK_LOSS_COLUMNS - 1]; /* after the step; the most of both forms */
} line;

/* Is this a whole line of the form? */
static bool parse(const char *text, const lk_steplog_form *form, line *l)
{
    char *rest;
    if (!isdigit((unsigned char)text[0])) return false;
    l->step = strtoull(text, &rest, 10);
    for (l->numbers = 0; *rest == ' ' && l->numbers < form->most; l->numbers++) {
        const char *begin = rest + 1;
        if (isspace((unsigned char)*begin)) return false;
        l->number[l->numbers] = strtod(begin, &rest);
        if (rest == begin) return false;
    }
    return rest[0] == '\n' && l->numbers >= form->least;
}

bool lk_steplog_read_loss(const char *text, double column[LK_LOSS_COLUMNS])
{
    line l;
    if (!parse(text, &lk_steplogs[LOSS], &l)) return false;
    column[LK_LOSS_STEP] = (double)l.step;
    memcpy(column + 1, l.number, sizeof l.number);
    return true;
}

bool lk_steplog_read_validation(const char *text, const lk_run *run,
                                double column[LK_VALID_COLUMNS])
{
    line l;
    int at = 1;
    if (!parse(text, &lk_steplogs[VALIDATION], &l)) return false;
    bool images = run ? lk_run_images(run) : l.numbers == lk_steplogs[VALIDATION].most;
    for (int i = 0; i < LK_VALID_COLUMNS; i++) column[i] = NAN;
    column[LK_VALID_STEP] = (double)l.step;
    column[LK_VALID_LOSS] = l.number[0];
    if (images && at < l.numbers) column[LK_VALID_ACCURACY] = l.number[at++];
    if (at < l.numbers) column[LK_VALID_EMA_LOSS] = l.number[at++];
    if (at < l.numbers) column[LK_VALID_EMA_ACCURACY] = l.number[at];
    return true;
}

/* ---- files ----------------------------------------------------------------------------------- */

static lk_status cannot(const char *what, const char *path)
{
    return lk_fail(lk_status_of_errno(errno), "%s: cannot %s: %s; %s", path, what, strerror(errno),
                   lk_advice_of_errno(errno, "move it away, or put back what it was"));
}

/* After an open() that set errno. What a lost link leads to may come back with its disk. */
static lk_status cannot_open(const char *path)
{
    int error = errno;
    struct stat s;
    bool link = lstat(path, &s) == 0 && S_ISLNK(s.st_mode);
    errno = error;
    if (!link || lk_status_of_errno(error) != LK_E_INPUT || error == EISDIR)
        return cannot("open", path);
    return lk_fail(LK_E_INPUT, "%s: expected the log of a run, found a link that cannot be "
                   "followed: %s; mount what it leads to, or remove the link, then a new log is "
                   "begun", path, strerror(error));
}

/* A pipe of this name must not hold up the start: it is looked at before anything waits for it. */
static lk_status open_file(const char *path, int flags, const char *mode, FILE **file)
{
    struct stat s;
    int fd = open(path, flags | O_NONBLOCK | O_CLOEXEC, 0666);
    if (fd < 0) return cannot_open(path);
    lk_status status = LK_OK;
    if (fstat(fd, &s) != 0) status = cannot("look at", path);
    else if (!S_ISREG(s.st_mode))
        status = lk_fail(LK_E_INPUT, "%s: expected the log of a run, found something that is not a "
                         "file; move it away", path);
    else if (!(*file = fdopen(fd, mode))) status = cannot("open", path);
    if (status != LK_OK) close(fd);
    return status;
}

/* What is read of a log. */
typedef struct reading {
    long end;             /* of the last line that stays */
    uint64_t lines, last; /* that stay; step of the last one */
    double lowest, final; /* first number: the least, INFINITY without lines; that of the last */
    bool bad;             /* then comes what is no line of the form, or not in order */
    bool later;           /* then comes one after the step */
} reading;

static reading read_lines(FILE *f, const lk_steplog_form *form, uint64_t step, lk_digest *digest)
{
    char text[512];
    line l;
    reading r = {.lowest = (double)INFINITY};
    while (fgets(text, sizeof text, f)) {
        bool good = parse(text, form, &l);
        if (good && r.lines > 0)
            good = form->all_steps ? l.step == r.last + 1 : l.step > r.last;
        r.bad = !good;
        r.later = good && l.step > step;
        if (r.bad || r.later) break;
        if (l.number[0] < r.lowest) r.lowest = l.number[0];
        r.final = l.number[0];
        r.last = l.step;
        r.lines++;
        r.end = ftell(f);
        lk_digest_update(digest, text, strlen(text));
    }
    return r;
}

static lk_status too_short(const char *path, const lk_steplog_form *form, const reading *r,
                           uint64_t step, uint64_t last)
{
    char found[200];
    unsigned long long lines = r->lines, known = r->last, until = last, from = step;
    if (r->bad)
        snprintf(found, sizeof found, "line %llu, which is not '%s' or not in order", lines + 1,
                 form->columns);
    else
        snprintf(found, sizeof found, "its end after %llu lines", lines);
    return lk_fail(LK_E_INPUT, "%s: expected the lines up to step %llu, for the checkpoint to go "
                   "on from is of step %llu, found %s; put back a copy of the log; or move the "
                   "checkpoints after step %llu away, to have the steps after it computed and "
                   "logged again; or move the log away, then a new one begins with step %llu", path,
                   last == LK_STEPLOG_ANY ? from : until, from, found, known, from + 1);
}

/* Logs have every digit of a float. */
static bool is_number(double logged, float value)
{
    return isnan(value) ? isnan(logged) : (float)logged == value;
}

static lk_status of_another(const char *path, const reading *r, float first)
{
    unsigned long long n = r->last;
    return lk_fail(LK_E_INPUT, "%s: expected %.9g in the line of step %llu, as in the checkpoint "
                   "to go on from, found %.9g, so one of the two is of another run; put back the "
                   "log of this one, or its checkpoints; or move the log away, then a new one "
                   "begins with step %llu", path, (double)first, n, r->final, n + 1);
}

lk_status lk_steplog_check(const char *path, const lk_steplog_form *form, uint64_t step,
                           uint64_t last, const float *first, lk_digest *digest, uint64_t *bytes,
                           bool *none)
{
    FILE *f = NULL;
    struct stat s;
    if (lstat(path, &s) != 0 && errno == ENOENT) {
        *none = true;
        return LK_OK;
    }
    LK_TRY(open_file(path, O_RDONLY, "r", &f));
    reading r = read_lines(f, form, step, digest);
    bool failed = ferror(f) != 0;
    fclose(f);
    if (failed)
        return lk_fail(LK_E_SYSTEM,
                       "%s: cannot read the log of the run; check the disk "
                       "it lies on",
                       path);
    bool begins = r.lines == 0 && r.later; /* it was begun anew */
    bool short_of = last == LK_STEPLOG_ANY ? r.bad : r.last != last;
    if (short_of && !begins) return too_short(path, form, &r, step, last);
    if (first && !begins && !is_number(r.final, *first)) return of_another(path, &r, *first);
    *none = begins;
    *bytes = (uint64_t)r.end;
    return LK_OK;
}

lk_status lk_steplog_open(const char *path, const lk_steplog_form *form, uint64_t step,
                          double *lowest, lk_digest *digest, uint64_t *bytes, FILE **file)
{
    FILE *f = NULL;
    LK_TRY(open_file(path, O_RDWR | O_APPEND | O_CREAT, "a+", &f));
    rewind(f);
    reading r = read_lines(f, form, step, digest);
    if (fflush(f) != 0 || ftruncate(fileno(f), r.end) != 0 || fseek(f, 0, SEEK_END) != 0) {
        lk_status status = cannot("write", path);
        fclose(f);
        return status;
    }
    setvbuf(f, NULL, _IOLBF, 0); /* for those who look on */
    if (lowest && r.lowest < *lowest) *lowest = r.lowest;
    *bytes = (uint64_t)r.end;
    *file = f;
    return LK_OK;
}
