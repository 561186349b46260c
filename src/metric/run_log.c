#include "metric/run_log.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct lk_run_log {
    FILE *file;
    char *path;
};

static lk_status cannot(const lk_run_log *log)
{
    return lk_fail(lk_status_of_errno(errno), "%s: cannot write the run log: %s; %s, or "
                   "log.run_log: false", log->path, strerror(errno),
                   lk_advice_of_errno(errno, "see what has that name"));
}

/* Whether a line belongs to what is kept. */
static bool kept(const char *line, size_t length, uint64_t step)
{
    json_t *o = json_loadb(line, length, 0, NULL);
    json_t *at = json_object_get(o, "step");
    bool keep = json_is_integer(at) && (uint64_t)json_integer_value(at) <= step;
    json_decref(o);
    return keep;
}

static lk_status cut(lk_run_log *log, uint64_t step)
{
    char *line = NULL;
    size_t size = 0;
    ssize_t n;
    off_t keep = 0;
    rewind(log->file);
    while ((n = getline(&line, &size, log->file)) > 0 && line[n - 1] == '\n' &&
           kept(line, (size_t)n, step))
        keep += n;
    free(line);
    if (ferror(log->file) || ftruncate(fileno(log->file), keep) != 0 ||
        fseek(log->file, 0, SEEK_END) != 0)
        return cannot(log);
    return LK_OK;
}

lk_status lk_run_log_open(const char *path, uint64_t step, lk_run_log **out)
{
    lk_run_log *log = calloc(1, sizeof *log);
    if (log) log->path = strdup(path);
    if (!log || !log->path) {
        free(log);
        return lk_fail(LK_E_SYSTEM, "out of memory");
    }
    log->file = fopen(path, "a+");
    lk_status status = log->file ? cut(log, step) : cannot(log);
    if (status != LK_OK) {
        lk_run_log_close(log);
        return status;
    }
    *out = log;
    return LK_OK;
}

lk_status lk_run_log_write(lk_run_log *log, const char *event, double time, uint64_t step,
                           json_t *more)
{
    json_t *o = json_pack("{s:s, s:f, s:I}", "event", event, "time", round(1e3 * time) / 1e3,
                          "step", (json_int_t)step);
    bool good = o && more && json_object_update(o, more) == 0;
    /* in one piece, so that buffers are flushed between lines where they can be */
    char *text = good ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(13)) : NULL;
    json_decref(o);
    json_decref(more);
    if (!text) return lk_fail(LK_E_SYSTEM, "%s: out of memory", log->path);
    good = fprintf(log->file, "%s\n", text) > 0;
    free(text);
    return good ? LK_OK : cannot(log);
}

lk_status lk_run_log_flush(lk_run_log *log)
{
    return fflush(log->file) == 0 ? LK_OK : cannot(log);
}

void lk_run_log_close(lk_run_log *log)
{
    if (!log) return;
    if (log->file) fclose(log->file);
    free(log->path);
    free(log);
}

json_t *lk_run_log_real(double x)
{
    if (!isfinite(x)) return json_null();
    if (x == 0) return json_real(0);
    double scale = pow(10, 6 - floor(log10(fabs(x))));
    return json_real(isfinite(scale) && scale > 0 ? round(x * scale) / scale : x);
}
