/* The judge: every check is asked about every rank or host, and what it says of several in the same
 * words becomes one finding. */
#include "doctor/exam.h"

#include "base/utf8.h"
#include "cpu/machine.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const char *const lk_verdict_name[] = {"ok", "warning", "error"};

struct lk_exam {
    const json_t *ranks;
    lk_diagnosis *report;
    bool *said; /* [room of findings, ranks]: of whom each finding is said */
    const lk_check *check;
    int first;    /* finding of this check */
    int who;      /* the rank now asked about */
    int *host;    /* [ranks] number of its host, in the order of ranks */
    bool pending; /* `finding` is complete but for its advice */
    lk_finding finding;
    bool memory; /* ended */
};

int lk_exam_ranks(const lk_exam *e) { return e->report->ranks; }
int lk_exam_hosts(const lk_exam *e) { return e->report->hosts; }
bool lk_exam_prod(const lk_exam *e) { return e->report->profile == LK_PROFILE_PROD; }
bool lk_exam_same_host(const lk_exam *e, int a, int b) { return e->host[a] == e->host[b]; }

int lk_exam_host_ranks(const lk_exam *e, int rank)
{
    int n = 0;
    for (int r = 0; r < e->report->ranks; r++) n += e->host[r] == e->host[rank];
    return n;
}

/* ---- facts ----------------------------------------------------------------------------------- */

const json_t *lk_part(const json_t *of, const char *path)
{
    while (of && *path) {
        char key[64];
        size_t n = strcspn(path, ".");
        if (n >= sizeof key) return NULL;
        memcpy(key, path, n);
        key[n] = '\0';
        of = json_object_get(of, key);
        path += path[n] ? n + 1 : n;
    }
    return of;
}

const char *lk_part_text(const json_t *of, const char *path)
{
    const char *text = json_string_value(lk_part(of, path));
    return text ? text : "";
}

double lk_part_number(const json_t *of, const char *path)
{
    const json_t *x = lk_part(of, path);
    return json_is_number(x) ? json_number_value(x) : NAN;
}

bool lk_part_true(const json_t *of, const char *path) { return json_is_true(lk_part(of, path)); }

const json_t *lk_fact(const lk_exam *e, int rank, const char *path)
{
    return lk_part(json_array_get(e->ranks, (size_t)rank), path);
}

const char *lk_fact_text(const lk_exam *e, int rank, const char *path)
{
    return lk_part_text(json_array_get(e->ranks, (size_t)rank), path);
}

double lk_fact_number(const lk_exam *e, int rank, const char *path)
{
    return lk_part_number(json_array_get(e->ranks, (size_t)rank), path);
}

bool lk_fact_true(const lk_exam *e, int rank, const char *path)
{
    return lk_part_true(json_array_get(e->ranks, (size_t)rank), path);
}

/* ---- findings -------------------------------------------------------------------------------- */

static bool *said_row(const lk_exam *e, int finding)
{
    return e->said + (size_t)finding * (size_t)e->report->ranks;
}

static bool make_room(lk_exam *e)
{
    lk_diagnosis *r = e->report;
    if (r->count < r->room) return true;
    int room = r->room ? 2 * r->room : 64;
    lk_finding *finding = realloc(r->finding, (size_t)room * sizeof *finding);
    if (finding) r->finding = finding;
    bool *said = realloc(e->said, (size_t)room * (size_t)r->ranks);
    if (said) e->said = said;
    e->memory |= !finding || !said;
    if (!e->memory) r->room = room;
    return !e->memory;
}

static bool equal(const lk_finding *a, const lk_finding *b)
{
    return strcmp(a->name, b->name) == 0 && strcmp(a->value, b->value) == 0 &&
           strcmp(a->advice, b->advice) == 0 && a->verdict == b->verdict;
}

/* The finding said last is complete: join it to an equal one, or keep it. */
static void settle(lk_exam *e)
{
    lk_diagnosis *r = e->report;
    if (!e->pending) return;
    e->pending = false;
    int i = e->first;
    while (i < r->count && !equal(&r->finding[i], &e->finding)) i++;
    if (i == r->count) {
        if (!make_room(e)) return;
        r->finding[r->count++] = e->finding;
        memset(said_row(e, i), 0, (size_t)r->ranks);
    }
    for (int k = 0; k < r->ranks; k++) /* of a host: all its ranks */
        if (e->check->scope == LK_WHOLE_JOB || k == e->who ||
            (e->check->scope == LK_EACH_HOST && e->host[k] == e->host[e->who]))
            said_row(e, i)[k] = true;
}

void lk_find(lk_exam *e, const char *name, lk_verdict verdict, const char *value, ...)
{
    settle(e);
    e->finding = (lk_finding){.section = e->check->section, .verdict = verdict};
    snprintf(e->finding.name, sizeof e->finding.name, "%s", name);
    va_list args;
    va_start(args, value);
    vsnprintf(e->finding.value, sizeof e->finding.value, value, args);
    va_end(args);
    lk_plain(e->finding.name); /* facts may come from a file */
    lk_plain(e->finding.value);
    e->pending = true;
}

void lk_advise(lk_exam *e, lk_verdict verdict, const char *advice, ...)
{
    lk_finding *f = &e->finding;
    size_t used = strlen(f->advice);
    if (used > 0 && used + 2 < sizeof f->advice) {
        memcpy(f->advice + used, "; ", 3);
        used += 2;
    }
    va_list args;
    va_start(args, advice);
    vsnprintf(f->advice + used, sizeof f->advice - used, advice, args);
    va_end(args);
    lk_plain(f->advice);
    if (verdict > f->verdict) f->verdict = verdict;
}

/* ---- of whom --------------------------------------------------------------------------------- */

static int ranks_of(const lk_exam *e, int finding)
{
    int n = 0;
    for (int r = 0; r < e->report->ranks; r++) n += said_row(e, finding)[r];
    return n;
}

/* Whether a finding is of whole hosts, and more than one host is there. */
static bool of_hosts(const lk_exam *e, int finding)
{
    const bool *said = said_row(e, finding);
    for (int r = 0; r < e->report->ranks; r++)
        for (int k = 0; k < r; k++)
            if (e->host[r] == e->host[k] && said[r] != said[k]) return false;
    return e->report->hosts > 1;
}

enum { HOSTS_NAMED = 3 };

static void name_hosts(const lk_exam *e, int finding, char *where, size_t size)
{
    const bool *said = said_row(e, finding);
    int named = 0, more = 0;
    size_t used = 0;
    for (int r = 0; r < e->report->ranks; r++) {
        bool first = said[r];
        for (int k = 0; k < r; k++) first &= e->host[k] != e->host[r];
        if (!first) continue;
        if (named >= HOSTS_NAMED || used > size - 48) {
            more++;
            continue;
        }
        used += (size_t)snprintf(where + used, size - used, "%s%.32s", named++ ? ", " : "",
                                 lk_fact_text(e, r, "host"));
    }
    if (more) snprintf(where + used, size - used, " and %d more", more);
    lk_plain(where);
}

static void name_where(lk_exam *e, int finding)
{
    lk_finding *f = &e->report->finding[finding];
    int ranks = ranks_of(e, finding);
    if (ranks == e->report->ranks) return;
    if (of_hosts(e, finding)) {
        name_hosts(e, finding, f->where, sizeof f->where);
        return;
    }
    char list[120];
    lk_cores set = {{false}};
    for (int r = 0; r < e->report->ranks && r < LK_CPU_CORES; r++)
        set.in[r] = said_row(e, finding)[r];
    lk_cores_format(&set, list, sizeof list);
    snprintf(f->where, sizeof f->where, "rank%s %s", ranks > 1 ? "s" : "", list);
}

/* What must be the same is not: the fewer are suspected. */
static void mark_difference(lk_exam *e, int i)
{
    lk_diagnosis *r = e->report;
    lk_finding *f = &r->finding[i];
    int all = 0, most = 0, most_common = i;
    for (int k = e->first; k < r->count; k++) {
        if (strcmp(r->finding[k].name, f->name) != 0) continue;
        int n = ranks_of(e, k);
        all += n;
        if (n > most) most_common = k;
        if (n > most) most = n;
    }
    if (most == r->ranks) return;
    f->differs = true;
    bool missing = all < r->ranks; /* elsewhere */
    if (i == most_common && !missing) return;
    if (f->verdict < LK_WARNING) f->verdict = LK_WARNING;
    if (f->advice[0]) return;
    snprintf(f->advice, sizeof f->advice,
             missing ? "the others do not have it: give all ranks the same environment and software"
                     : "differs from the others: give all hosts the same software, hardware and "
                       "environment");
}

static void ask(lk_exam *e, const lk_check *check)
{
    lk_diagnosis *r = e->report;
    e->check = check;
    e->first = r->count;
    for (int rank = 0; rank < r->ranks; rank++) {
        bool first = true;
        for (int k = 0; k < rank && first; k++) first = e->host[k] != e->host[rank];
        if (check->scope == LK_WHOLE_JOB && rank > 0) break;
        if (check->scope == LK_EACH_HOST && !first) continue;
        e->who = rank;
        check->judge(e, rank);
        settle(e);
    }
    for (int i = e->first; i < r->count; i++) {
        if (check->same) mark_difference(e, i);
        name_where(e, i);
    }
}

/* ---- all of it ------------------------------------------------------------------------------- */

static lk_status number_hosts(lk_exam *e)
{
    lk_diagnosis *r = e->report;
    e->host = malloc((size_t)r->ranks * sizeof *e->host);
    if (!e->host) return lk_fail(LK_E_SYSTEM, "out of memory");
    for (int i = 0; i < r->ranks; i++) {
        int k = 0;
        while (k < i && strcmp(lk_fact_text(e, i, "host"), lk_fact_text(e, k, "host")) != 0) k++;
        e->host[i] = k < i ? e->host[k] : r->hosts++;
    }
    return LK_OK;
}

static lk_status judge(lk_exam *e)
{
    lk_diagnosis *r = e->report;
    LK_TRY(number_hosts(e));
    for (const lk_check *c = lk_checks; c->section && !e->memory; c++) ask(e, c);
    if (e->memory) return lk_fail(LK_E_SYSTEM, "out of memory for findings");
    for (int i = 0; i < r->count; i++) {
        r->warnings += r->finding[i].verdict == LK_WARNING;
        r->errors += r->finding[i].verdict == LK_UNFIT;
        if (r->finding[i].verdict > r->verdict) r->verdict = r->finding[i].verdict;
    }
    return LK_OK;
}

lk_status lk_doctor_judge(const json_t *facts, lk_profile profile, lk_diagnosis *report)
{
    const json_t *ranks = json_object_get(facts, "ranks");
    lk_diagnosis r = {.profile = profile, .ranks = (int)json_array_size(ranks)};
    if (lk_part_number(facts, "lockstep.facts") != 1 || r.ranks < 1)
        return lk_fail(LK_E_INPUT,
                       "expected facts of 'lockstep doctor --json', version 1, found "
                       "%s; make them anew with this lockstep",
                       r.ranks < 1 ? "no ranks in it" : "another version");
    for (size_t i = 0; i < (size_t)r.ranks; i++)
        if (!json_is_object(json_array_get(ranks, i)))
            return lk_fail(LK_E_INPUT,
                           "expected facts of 'lockstep doctor --json', found that "
                           "rank %zu is no object; make them anew",
                           i);
    lk_exam e = {.ranks = ranks, .report = &r};
    lk_status status = judge(&e);
    free(e.host);
    free(e.said);
    if (status == LK_OK)
        *report = r;
    else
        lk_diagnosis_clear(&r);
    return status;
}

void lk_diagnosis_clear(lk_diagnosis *r)
{
    free(r->finding);
    r->finding = NULL;
    r->count = r->room = 0;
}
