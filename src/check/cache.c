/* What was found about data, kept so that the next run on it need not look again. */
#include "check/check.h"
#include "base/replace.h"
#include "check/json.h"
#include "version.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { VERSION = 2, MOST_WARNINGS = 10 };

typedef struct memory {
    const lk_dataset *d;
    char *beside, *within; /* paths */
    json_t *json;          /* what is known; NULL: nothing */
} memory;

/* ---- the file -------------------------------------------------------------------------------- */

static lk_status name_files(memory *m, const char *directory)
{
    if (asprintf(&m->beside, "%s.check.json", m->d->path) < 0) m->beside = NULL;
    if (asprintf(&m->within, "%s/check.json", directory) < 0) m->within = NULL;
    return m->beside && m->within ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
}

/* What tells whether the file is still the one that was looked at. */
static json_t *identity(const lk_dataset *d)
{
    struct stat s;
    if (stat(d->path, &s) != 0) return NULL;
    return json_pack("{s:i, s:s, s:s, s:I, s:I}", "version", VERSION, "code", LK_CODE_VERSION,
                     "digest", d->digest, "bytes", (json_int_t)s.st_size, "time_ns",
                     (json_int_t)s.st_mtim.tv_sec * 1000000000 + (json_int_t)s.st_mtim.tv_nsec);
}

/* A file that cannot be read or is something else is none: then the data is looked at. */
static json_t *read_memory(const char *path, const json_t *expected)
{
    const char *key;
    json_t *value, *found = json_load_file(path, 0, NULL);
    bool same = json_is_object(found) && json_is_array(json_object_get(found, "warnings"));
    json_object_foreach((json_t *)expected, key, value)
        same = same && json_equal(value, json_object_get(found, key));
    if (same) return found;
    json_decref(found);
    return NULL;
}

/* Runs that begin at the same time may write the same file at the same time: what they write is the
 * same too. */
static bool write_memory(const char *path, const char *text)
{
    lk_replace out;
    bool good = lk_replace_open(&out, path, "what was found", NULL) == LK_OK;
    if (good) {
        fprintf(out.file, "%s\n", text);
        good = lk_replace_close(&out, false) == LK_OK;
    }
    if (!good) lk_error_clear();
    return good;
}

/* ---- rank 0 ---------------------------------------------------------------------------------- */

static json_t *drift_json(const lk_drift_report *d)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < d->features; i++) {
        const lk_drift *x = &d->feature[i].drift;
        json_array_append_new(list, json_pack("{s:o, s:f, s:f, s:f}", "name",
                                              lk_check_json(d->feature[i].name), "psi",
                                              x->psi, "kl", x->kl, "noise", x->noise));
    }
    return json_pack("{s:f, s:o}", "threshold", d->threshold, "features", list);
}

/* What is written is what was read: a list that is not one of ours is none. */
static lk_status read_drift(const memory *m, lk_drift_report *out)
{
    const json_t *o = json_object_get(m->json, "drift"), *list = json_object_get(o, "features");
    double threshold = json_number_value(json_object_get(o, "threshold"));
    lk_drift_report d = {.worst = -1, .threshold = threshold};
    lk_status status = LK_OK;
    for (size_t i = 0; i < json_array_size(list) && status == LK_OK; i++) {
        const json_t *f = json_array_get(list, i);
        const char *name = json_string_value(json_object_get(f, "name"));
        lk_drift x = {json_number_value(json_object_get(f, "psi")),
                      json_number_value(json_object_get(f, "kl")),
                      json_number_value(json_object_get(f, "noise"))};
        if (name) status = lk_drift_report_add(&d, name, &x);
    }
    if (status == LK_OK) *out = d;
    else lk_drift_report_clear(&d);
    return status;
}

static void remember(memory *m, const lk_check_report *r)
{
    json_t *warnings = json_array();
    for (int64_t i = 0; i < r->findings && i < MOST_WARNINGS; i++)
        if (r->finding[i].severity == LK_WARNING)
            json_array_append_new(warnings, lk_check_json(r->finding[i].text));
    m->json = identity(m->d);
    json_t *drift = drift_json(&r->drift[LK_VALIDATION]);
    if (m->json && (json_object_set(m->json, "warnings", warnings) != 0 ||
                    json_object_set(m->json, "drift", drift) != 0)) {
        json_decref(m->json);
        m->json = NULL;
    }
    json_decref(warnings);
    json_decref(drift);
}

static void say_warnings(const memory *m, void (*say)(void *context, const char *line),
                         void *context)
{
    const json_t *list = json_object_get(m->json, "warnings");
    for (size_t i = 0; i < json_array_size(list); i++) {
        char line[1024];
        const char *text = json_string_value(json_array_get(list, i));
        snprintf(line, sizeof line, "warning: data: %.900s", text ? text : "");
        if (say) say(context, line);
    }
}

static void look_up(memory *m)
{
    json_t *expected = identity(m->d);
    if (expected) m->json = read_memory(m->beside, expected);
    if (expected && !m->json) m->json = read_memory(m->within, expected);
    json_decref(expected);
}

/* A directory for temporary files: where the data lies, or where the run will: there is room. */
static const char *temporary(const memory *m, char place[4096])
{
    const char *path[] = {m->beside, m->within};
    for (int i = 0; i < 2; i++) {
        snprintf(place, 4096, "%s", path[i]);
        char *slash = strrchr(place, '/');
        if (i == 1 && slash) { /* the run directory itself may not be there yet */
            *slash = '\0';
            slash = strrchr(place, '/');
        }
        if (slash && slash != place) *slash = '\0';
        else snprintf(place, 4096, slash ? "/" : ".");
        if (access(place, W_OK | X_OK) == 0) return place;
    }
    return "/tmp";
}

/* ---- all ranks ------------------------------------------------------------------------------- */

static lk_status look(memory *m, lk_comm *comm, lk_io *io, lk_dataset *d)
{
    char place[4096];
    lk_check_job job = lk_check_defaults();
    lk_check_report r;
    job.level = 1;
    job.temporary = temporary(m, place);
    LK_TRY(lk_check_dataset(comm, io, d, &job, &r));
    lk_status status = LK_OK;
    int64_t unfit = 0;
    for (int64_t i = 0; i < r.findings; i++) unfit += r.finding[i].severity == LK_UNFIT;
    if (unfit > 0)
        status = lk_fail(LK_E_INPUT, "%s: expected data fit for training, found %lld fault%s: "
                         "%.400s; see 'lockstep check', repair the data, or train anyway with "
                         "data.check: off", d->path, (long long)unfit, unfit == 1 ? "" : "s",
                         r.finding[0].text);
    else if (comm->rank == 0)
        remember(m, &r);
    lk_check_report_clear(&r);
    return lk_comm_agree(comm, status);
}

static lk_status check(memory *m, lk_comm *comm, lk_io *io, lk_dataset *d, bool *fresh)
{
    int64_t known = 0;
    if (comm->rank == 0) look_up(m);
    known = m->json != NULL;
    LK_TRY(lk_comm_sum_counts(comm, &known, 1)); /* rank 0 decides */
    *fresh = known == 0;
    return known ? LK_OK : look(m, comm, io, d);
}

/* On rank 0: say and hand on what is known; what is new is written beside the data, or left in
 * *unkept. */
static lk_status hand_on(const memory *m, bool fresh, void (*say)(void *context, const char *line),
                         void *context, char **unkept, lk_drift_report *drift)
{
    if (!m->json) return LK_OK;
    say_warnings(m, say, context);
    LK_TRY(read_drift(m, drift));
    char *text = fresh ? json_dumps(m->json, JSON_INDENT(1)) : NULL;
    if (text && write_memory(m->beside, text)) free(text);
    else *unkept = text;
    return LK_OK;
}

lk_status lk_check_unseen(lk_comm *comm, lk_io *io, lk_dataset *d, const char *directory,
                          void (*say)(void *context, const char *line), void *context,
                          char **unkept, lk_drift_report *drift)
{
    memory m = {.d = d};
    bool fresh = false;
    lk_status status = lk_comm_agree(comm, name_files(&m, directory));
    if (status == LK_OK) status = check(&m, comm, io, d, &fresh);
    if (status == LK_OK)
        status = lk_comm_agree(comm, hand_on(&m, fresh, say, context, unkept, drift));
    json_decref(m.json);
    free(m.beside);
    free(m.within);
    return status;
}

void lk_check_keep(const char *directory, const char *text)
{
    char *path = NULL;
    if (!text || asprintf(&path, "%s/check.json", directory) < 0) return;
    write_memory(path, text);
    free(path);
}
