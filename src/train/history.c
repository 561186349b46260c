#include "train/history.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- tables ---------------------------------------------------------------------------------- */

static lk_status table_add(lk_table *t, int columns, const double *value)
{
    if (!t->column) {
        t->column = calloc((size_t)columns, sizeof *t->column);
        if (!t->column) return lk_fail(LK_E_SYSTEM, "out of memory");
        t->columns = columns;
    }
    if (t->rows == t->room) {
        int64_t room = t->room ? 2 * t->room : 256;
        for (int i = 0; i < columns; i++) {
            double *more = realloc(t->column[i], (size_t)room * sizeof *more);
            if (!more) return lk_fail(LK_E_SYSTEM, "out of memory for the history of a run");
            t->column[i] = more;
        }
        t->room = room;
    }
    for (int i = 0; i < columns; i++) t->column[i][t->rows] = value[i];
    t->rows++;
    return LK_OK;
}

static void table_clear(lk_table *t)
{
    for (int i = 0; i < t->columns && t->column; i++) free(t->column[i]);
    free(t->column);
    *t = (lk_table){.columns = 0};
}

/* ---- lines ----------------------------------------------------------------------------------- */

static lk_status loss_line(lk_history *h, const char *line)
{
    double v[LK_LOSS_COLUMNS];
    if (lk_steplog_read_loss(line, v)) return table_add(&h->loss, LK_LOSS_COLUMNS, v);
    h->unreadable++;
    return LK_OK;
}

static lk_status validation_line(lk_history *h, const char *line)
{
    double v[LK_VALID_COLUMNS];
    if (lk_steplog_read_validation(line, h->has_run ? &h->run : NULL, v))
        return table_add(&h->validation, LK_VALID_COLUMNS, v);
    h->unreadable++;
    return LK_OK;
}

static lk_status record_line(lk_history *h, const json_t *o)
{
    const json_t *times = json_object_get(o, "step_ms"), *memory = json_object_get(o, "memory");
    double v[LK_RECORD_COLUMNS] = {
        [LK_RECORD_STEP] = lk_history_number(o, "step"),
        [LK_RECORD_TIME] = lk_history_number(o, "time"),
        [LK_RECORD_RATE] = lk_history_number(o, "samples_per_second"),
        [LK_RECORD_MEAN] = lk_history_number(times, "mean"),
        [LK_RECORD_P50] = lk_history_number(times, "p50"),
        [LK_RECORD_P95] = lk_history_number(times, "p95"),
        [LK_RECORD_P99] = lk_history_number(times, "p99"),
        [LK_RECORD_WAIT] = lk_history_number(o, "data_wait_ms"),
        [LK_RECORD_HOST] = lk_history_number(memory, "host_peak"),
        [LK_RECORD_DEVICE] = lk_history_number(memory, "device"),
    };
    return table_add(&h->record, LK_RECORD_COLUMNS, v);
}

static lk_status event_line(lk_history *h, const char *line)
{
    json_t *o = json_loads(line, 0, NULL);
    const char *event = json_string_value(json_object_get(o, "event"));
    lk_status status = LK_OK;
    const struct {
        const char *name;
        json_t *list;
    } kept[] = {{"start", h->starts},
                {"save", h->saves},
                {"warning", h->warnings},
                {"end", h->ends},
                {"ranks", h->ranks}};
    if (!event || isnan(lk_history_number(o, "step"))) h->unreadable++;
    else if (strcmp(event, "step") == 0) status = record_line(h, o);
    for (size_t i = 0; i < sizeof kept / sizeof *kept && event; i++)
        if (strcmp(event, kept[i].name) == 0 && json_array_append(kept[i].list, o) != 0)
            status = lk_fail(LK_E_SYSTEM, "out of memory for the history of a run");
    json_decref(o);
    return status;
}

static lk_status host_line(lk_history *h, const char *line)
{
    json_t *o = json_loads(line, 0, NULL);
    if (!json_is_object(o)) h->unreadable++;
    else json_array_append(h->hosts, o);
    json_decref(o);
    return LK_OK;
}

/* ---- files that grow ------------------------------------------------------------------------- */

enum { MARK = 64 }; /* bytes before the place reached, to know whether the file is still the same */

enum { LOSS, VALIDATION, EVENTS, STARTS, LOGS };
static const struct {
    const char *name;
    lk_status (*line)(lk_history *h, const char *line);
} logs[] = {[LOSS] = {"loss.log", loss_line},
            [VALIDATION] = {"validation.log", validation_line},
            [EVENTS] = {"run.jsonl", event_line},
            [STARTS] = {"starts.jsonl", host_line}};

struct lk_history_file {
    long reached; /* bytes read, up to the end of a line */
    char mark[MARK];
    int marked;
};

static FILE *open_in(const lk_history *h, const char *name)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", h->directory, name);
    return fopen(path, "r");
}

static bool same_so_far(FILE *f, const lk_history_file *p)
{
    char now[MARK];
    struct stat st;
    if (fstat(fileno(f), &st) != 0 || st.st_size < p->reached) return false;
    if (fseek(f, p->reached - p->marked, SEEK_SET) != 0) return false;
    return fread(now, 1, (size_t)p->marked, f) == (size_t)p->marked &&
           memcmp(now, p->mark, (size_t)p->marked) == 0;
}

/* Read whole lines from where it was left. *cut: what was read before is no longer there. */
static lk_status read_on(lk_history *h, int which, bool *cut)
{
    lk_history_file *p = &h->file[which];
    FILE *f = open_in(h, logs[which].name);
    if (!f) {
        *cut = p->reached > 0;
        return LK_OK;
    }
    char *line = NULL;
    size_t size = 0;
    ssize_t n = 0;
    lk_status status = LK_OK;
    *cut = !same_so_far(f, p);
    h->any_log = true;
    if (which == EVENTS) h->log_exists = true;
    while (!*cut && status == LK_OK && (n = getline(&line, &size, f)) > 0 && line[n - 1] == '\n') {
        status = logs[which].line(h, line);
        p->reached += n;
        int fresh = n < MARK ? (int)n : MARK, old = p->marked;
        if (old + fresh > MARK) old = MARK - fresh;
        memmove(p->mark, p->mark + p->marked - old, (size_t)old);
        memcpy(p->mark + old, line + n - fresh, (size_t)fresh);
        p->marked = old + fresh;
    }
    free(line);
    fclose(f);
    return status;
}

/* ---- the directory --------------------------------------------------------------------------- */

static void forget(lk_history *h)
{
    json_t *const list[] = {h->starts, h->saves, h->warnings, h->ends, h->ranks, h->hosts};
    table_clear(&h->loss);
    table_clear(&h->validation);
    table_clear(&h->record);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) json_array_clear(list[i]);
    for (int i = 0; i < LOGS; i++) h->file[i] = (lk_history_file){.reached = 0};
    h->unreadable = 0;
    h->log_exists = h->any_log = false;
}

/* What a run writes from its first moment on: the lock before its run file, then the logs. */
static void find_changed(lk_history *h)
{
    static const char *const other[] = {"lock", "run.yaml"};
    char path[PATH_MAX + 64];
    struct stat st;
    for (int i = 0; i < LOGS + 2; i++) {
        const char *name = i < LOGS ? logs[i].name : other[i - LOGS];
        snprintf(path, sizeof path, "%s/%s", h->directory, name);
        if (stat(path, &st) == 0) h->changed = fmax(h->changed, (double)st.st_mtime);
    }
}

static lk_status read_run_file(lk_history *h)
{
    FILE *f = open_in(h, "run.yaml");
    char *text = NULL;
    size_t size = 0;
    if (!f) return LK_OK;
    free(h->run_text);
    h->run_text = NULL;
    if (getdelim(&text, &size, '\0', f) > 0) h->run_text = text;
    else free(text);
    fclose(f);
    if (h->has_run) lk_run_clear(&h->run);
    h->has_run = false;
    free(h->run_problem);
    h->run_problem = NULL;
    if (!h->run_text) return LK_OK;
    char name[600];
    snprintf(name, sizeof name, "%s/run.yaml", h->directory);
    lk_status status = lk_run_parse(name, h->run_text, 0, NULL, &h->run);
    h->has_run = status == LK_OK;
    if (status != LK_E_INPUT) return status;
    h->run_problem = strdup(lk_error_text()); /* by another version: shown, not needed */
    lk_error_clear();
    return h->run_problem ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
}

lk_status lk_history_follow(lk_history *h)
{
    bool again = false;
    struct stat st;
    if (stat(h->directory, &st) != 0 && errno == ENOENT)
        return lk_fail(LK_E_INPUT, "%s: the directory is no longer there; if the run was moved, "
                       "give its new place", h->directory);
    LK_TRY(read_run_file(h));
    for (int pass = 0; pass < 2; pass++) {
        bool cut = false;
        for (int i = 0; i < LOGS && !cut; i++) LK_TRY(read_on(h, i, &cut));
        again = cut;
        if (!again) break;
        forget(h);
    }
    find_changed(h);
    lk_history_find_end(h);
    return LK_OK;
}

static lk_status expect_run(const char *directory)
{
    static const char *const sign[] = {"run.yaml", "loss.log", "run.jsonl", "lock"};
    struct stat st;
    if (stat(directory, &st) != 0)
        return lk_fail(LK_E_INPUT,
                       "%s: expected a run directory of 'lockstep train': %s; check "
                       "the path and its permissions",
                       directory, strerror(errno));
    lk_history h = {.directory = (char *)directory};
    for (size_t i = 0; i < sizeof sign / sizeof *sign && S_ISDIR(st.st_mode); i++) {
        FILE *f = open_in(&h, sign[i]);
        if (!f) continue;
        fclose(f);
        return LK_OK;
    }
    return lk_fail(LK_E_INPUT,
                   "%s: expected a run directory of 'lockstep train' (with run.yaml and "
                   "loss.log), found %s; give the 'directory' of the run file",
                   directory, S_ISDIR(st.st_mode) ? "a directory without them" : "a file");
}

lk_status lk_history_open(const char *directory, lk_history **out)
{
    LK_TRY(expect_run(directory));
    lk_history *h = calloc(1, sizeof *h);
    if (!h) return lk_fail(LK_E_SYSTEM, "out of memory");
    json_t **list[] = {&h->starts, &h->saves, &h->warnings, &h->ends, &h->ranks, &h->hosts};
    h->directory = strdup(directory);
    h->file = calloc(LOGS, sizeof *h->file);
    bool good = h->directory && h->file;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) good &= !!(*list[i] = json_array());
    lk_status status = good ? lk_history_follow(h) : lk_fail(LK_E_SYSTEM, "out of memory");
    if (status != LK_OK) {
        lk_history_close(h);
        return status;
    }
    *out = h;
    return LK_OK;
}

void lk_history_close(lk_history *h)
{
    if (!h) return;
    if (h->file) forget(h);
    json_decref(h->starts);
    json_decref(h->saves);
    json_decref(h->warnings);
    json_decref(h->ends);
    json_decref(h->ranks);
    json_decref(h->hosts);
    if (h->has_run) lk_run_clear(&h->run);
    free(h->run_text);
    free(h->run_problem);
    free(h->directory);
    free(h->file);
    free(h);
}
