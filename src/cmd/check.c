/* lockstep check DATA [--level N] [--against REF] [--json] [--html FILE] ... */
#include "base/replace.h"
#include "check/check.h"
#include "cmd/cmd.h"
#include "metric/drift_prometheus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct options {
    lk_check_job job;
    bool json, tmp_given;
    const char *html, *prometheus;
    bool utf8; /* the terminal shows blocks */
    lk_severity verdict;
} options;

enum { MIN_SAMPLES = 1000, MIN_SHARE, CORRELATION, LEAK, PSI, TMP, JSON, HTML, PROMETHEUS };

static const struct argp_option table[] = {
    {"level", 'l', "N", 0, "1: integrity, 2: and labels, 3: and features (default)", 0},
    {"against", 'a', "FILE", 0,
     "Compare with a dataset, a checkpoint or the newest one of a run directory: drift", 0},
    {"json", JSON, NULL, 0, "Print the whole report as JSON", 0},
    {"html", HTML, "FILE", 0, "Write the report as a page that stands alone, with charts", 0},
    {"prometheus", PROMETHEUS, "FILE", 0,
     "With --against: write the drift for node_exporter's textfile collector (.prom)", 0},
    {"min-samples", MIN_SAMPLES, "N", 0,
     "Fewer training samples (tokens) are unfit (default: fewer than 1000 are a warning)", 0},
    {"min-share", MIN_SHARE, "X", 0,
     "A class below this part of an equal share is rare (default: 0.1)", 0},
    {"correlation", CORRELATION, "R", 0, "Features above this |r| are a warning (default: 0.9)", 0},
    {"leak", LEAK, "X", 0,
     "A feature that alone tells this share of the label's entropy is a warning (default: 0.9)", 0},
    {"psi", PSI, "X", 0, "A population stability index above this is drift (default: 0.2)", 0},
    {"tmp", TMP, "DIR", 0,
     "For temporary files: 24 bytes a sample, of millions (default: TMPDIR or /tmp)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'l': o->job.level = (int)lk_cmd_number(state, "--level", arg, 1, 3); break;
    case 'a': o->job.against = arg; break;
    case PROMETHEUS: o->prometheus = arg; break;
    case HTML: o->html = arg; break;
    case JSON: o->json = true; break;
    case MIN_SAMPLES:
        o->job.min_samples = lk_cmd_number(state, "--min-samples", arg, 0, LK_CMD_MANY);
        o->job.demanded = true;
        break;
    case MIN_SHARE: o->job.min_share = lk_cmd_real(state, "--min-share", arg, 0, 1); break;
    case CORRELATION: o->job.correlation = lk_cmd_real(state, "--correlation", arg, 0, 1); break;
    case LEAK: o->job.leak = lk_cmd_real(state, "--leak", arg, 0, 1); break;
    case PSI: o->job.psi = lk_cmd_real(state, "--psi", arg, 0, 1e6); break;
    case TMP:
        o->job.temporary = arg;
        o->tmp_given = true;
        break;
    case ARGP_KEY_ARG:
        if (o->job.data)
            argp_error(state, "too many arguments at '%s'%s", arg,
                       o->json ? "; --json takes none: the report goes to the standard output"
                               : "");
        o->job.data = arg;
        break;
    case ARGP_KEY_END:
        if (!o->job.data) argp_error(state, "DATA is missing");
        if (o->prometheus && !o->job.against) argp_error(state, "--prometheus needs --against");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- the command ----------------------------------------------------------------------------- */

/* Where results and temporary files go: before the data is looked at, which may take hours. */
static lk_status check_places(const options *o)
{
    struct stat s;
    const char *tmp = o->job.temporary;
    if (o->html) LK_TRY(lk_replace_check(o->html, LK_BEGINS_PAGE));
    if (o->prometheus) LK_TRY(lk_replace_check(o->prometheus, LK_BEGINS_METRICS));
    if (!o->tmp_given) return LK_OK; /* the standard one is not always needed */
    if (stat(tmp, &s) == 0 && !S_ISDIR(s.st_mode)) errno = ENOTDIR;
    else if (access(tmp, W_OK | X_OK) == 0) return LK_OK;
    return lk_fail(LK_E_INPUT,
                   "--tmp %s: expected a directory that can be written to: %s; name "
                   "another one",
                   tmp, strerror(errno));
}

static lk_status write_drift(const options *o, const lk_check_report *r)
{
    lk_drift_part part[2] = {{"train", &r->drift[LK_TRAIN]},
                             {"validation", &r->drift[LK_VALIDATION]}};
    return lk_drift_prometheus_write(part, 2, r->path, o->prometheus);
}

/* Of rank 0. */
static lk_status tell(options *o, const lk_check_report *r)
{
    char *json = NULL;
    o->verdict = r->verdict;
    if (o->json) LK_TRY(lk_check_format(r, &json));
    lk_status status = o->html ? lk_check_page(r, o->html) : LK_OK;
    if (o->prometheus && status == LK_OK) status = write_drift(o, r);
    if (json) puts(json);
    else lk_check_print(r, o->utf8, stdout);
    free(json);
    fflush(stdout);
    return status;
}

static lk_status job(const lk_world *w, void *context)
{
    options *o = context;
    lk_check_report r;
    bool first = w->comm->rank == 0;
    LK_TRY(lk_comm_agree(w->comm, first ? check_places(o) : LK_OK));
    LK_TRY(lk_check(w->comm, w->io, &o->job, &r));
    /* mpirun ends all when one rank ends with a status: the others must not be before rank 0 */
    lk_status status = first ? tell(o, &r) : LK_OK;
    lk_check_report_clear(&r);
    return lk_comm_agree(w->comm, status);
}

static bool utf8_here(void)
{
    const char *name[] = {"LC_ALL", "LC_CTYPE", "LANG"}, *value = NULL;
    for (int i = 0; i < 3 && !(value && value[0]); i++) value = getenv(name[i]);
    return value && (strcasestr(value, "utf-8") || strcasestr(value, "utf8"));
}

int lk_cmd_check(int argc, char **argv)
{
    static const struct argp argp = {
        table,
        parse,
        "DATA",
        "Is a dataset fit for training? Damage, values that are none, constant, duplicate and "
        "leaked samples; labels; distributions, correlations, leakage and drift."
        "\vOn several ranks: mpirun -np N lockstep check DATA; the report is the same. Memory does "
        "not grow with the data.\n\n"
        "Exit status: 0 fit, 1 there are warnings, 2 unfit; 64 a wrong command line, or a file or "
        "directory named on it that cannot be used, 70 an internal failure; 3, 4 and 5 as of every "
        "command. doc/check.md tells what is looked for.\n\n"
        "Examples:\n"
        "  $ lockstep check photos.h5 --html photos.html\n"
        "  $ lockstep check new.h5 --against runs/photos",
        NULL,
        NULL,
        NULL};
    options o = {.job = lk_check_defaults(), .utf8 = utf8_here()};
    const char *tmp = getenv("TMPDIR");
    if (tmp && tmp[0]) o.job.temporary = tmp;
    argp_err_exit_status = LK_CMD_MISUSED;
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    int code = lk_cmd_run_verdict("lockstep check", job, &o);
    return code ? code : (int)o.verdict;
}
