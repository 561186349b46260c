/* lockstep profile RUN.yaml [--set KEY=VALUE]... [--steps N] [--directory DIR] [--perfetto OUT]
 * [--depth N] [--lines N] */
#include "base/replace.h"
#include "cmd/cmd.h"
#include "train/train.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WARM = 5, LINES = 256 }; /* steps; an option without a letter */

typedef struct options {
    const char *file, *directory, *perfetto;
    const char **set;
    int sets, depth, lines;
    int64_t steps;
} options;

static const struct argp_option table[] = {
    {"set", 's', "KEY=VALUE", 0, "Override a key of the run file (repeatable)", 0},
    {"steps", 'n', "N", 0, "Steps to trace, after five that warm up (default 10)", 0},
    {"directory", 'o', "DIR", 0, "Keep the run directory, with trace.h5, as DIR", 0},
    {"perfetto", 'p', "OUT.json", 0, "Write the trace for ui.perfetto.dev too", 0},
    {"depth", 'd', "N", 0, "Scopes are taken together by their first N parts (default 2)", 0},
    {"lines", LINES, "N", 0, "Lines of scopes and of nodes; 0: all (default 20)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 's': o->set[o->sets++] = arg; break;
    case 'o': o->directory = arg; break;
    case 'p': o->perfetto = arg; break;
    case 'n': o->steps = lk_cmd_number(state, "--steps", arg, 1, 100000); break;
    case 'd': o->depth = (int)lk_cmd_number(state, "--depth", arg, 1, 64); break;
    case LINES: o->lines = (int)lk_cmd_number(state, "--lines", arg, 0, 1000000); break;
    case ARGP_KEY_ARG:
        if (o->file) argp_error(state, "one RUN.yaml is expected, found also '%s'", arg);
        o->file = arg;
        break;
    case ARGP_KEY_END:
        if (!o->file) argp_error(state, "RUN.yaml is missing");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static void line(void *context, const char *text)
{
    (void)context;
    puts(text);
    fflush(stdout);
}

/* What is known before the run to fail after it. An export may lie in the directory that the run
 * will make. */
static lk_status check_export(const lk_comm *c, const options *o)
{
    size_t n = o->directory ? strlen(o->directory) : 0;
    bool inside = n > 0 && o->perfetto && strncmp(o->perfetto, o->directory, n) == 0 &&
                  (o->directory[n - 1] == '/' || o->perfetto[n] == '/');
    if (c->rank != 0 || !o->perfetto || inside) return LK_OK;
    return lk_replace_check(o->perfetto, LK_BEGINS_TRACE);
}

/* A directory of its own below the working directory, which all hosts are likely to see; or the
 * one that was asked for, which the run makes. Named by rank 0. */
static lk_status choose_directory(lk_comm *c, const char *given, char **home)
{
    lk_status status = LK_OK;
    *home = NULL;
    if (c->rank == 0 && given && access(given, F_OK) == 0)
        status = lk_fail(LK_E_INPUT, "%s: exists already; a profile makes its own directory: name "
                         "another one", given);
    else if (c->rank == 0) {
        *home = strdup(given ? given : "lockstep-profile-XXXXXX");
        if (!*home) status = lk_fail(LK_E_SYSTEM, "out of memory");
        else if (!given && !mkdtemp(*home))
            status = lk_fail(lk_status_of_errno(errno),
                             "cannot make a directory here: %s; work where you may "
                             "write, or give --directory",
                             strerror(errno));
    }
    LK_TRY(lk_comm_agree(c, status));
    return lk_comm_broadcast_text(c, home);
}

/* What a profile leaves in a directory of its own. */
static void remove_directory(const char *path)
{
    DIR *d = opendir(path);
    char name[4096];
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        if (unlink(name) != 0) remove_directory(name);
    }
    if (d) closedir(d);
    rmdir(path);
}

static lk_status set_up(lk_run *run, const options *o, const char *home)
{
    char *directory = NULL;
    if (asprintf(&directory, o->directory ? "%s" : "%s/run", home) < 0)
        return lk_fail(LK_E_SYSTEM, "out of memory");
    free(run->directory);
    run->directory = directory;
    run->trace.from = WARM + 1;
    run->trace.to = WARM + o->steps;
    run->train.stop_after = run->trace.to;
    if (run->train.steps <= run->trace.to) run->train.steps = run->trace.to + 1;
    run->eval.batches = 0;
    run->checkpoint.initial = false;
    return LK_OK;
}

static lk_status profile(const lk_world *w, const options *o, lk_run *run, const char *home)
{
    lk_train_result result;
    lk_reporter reporter = {.line = line};
    LK_TRY(lk_comm_agree(w->comm, set_up(run, o, home)));
    LK_TRY(lk_train(w->comm, w->io, run, &(lk_start){.profile = true}, &reporter, &result));
    if (w->comm->rank != 0) return LK_OK;
    char *file = NULL;
    if (asprintf(&file, "%s/trace.h5", run->directory) < 0)
        return lk_fail(LK_E_SYSTEM, "out of memory");
    printf("\n");
    lk_status status = lk_cmd_print_trace(w->io, file, o->depth, o->lines);
    if (status == LK_OK && o->perfetto) status = lk_cmd_export_trace(w->io, file, o->perfetto);
    free(file);
    return status;
}

static lk_status job(const lk_world *w, void *context)
{
    const options *o = context;
    lk_run run;
    char *home = NULL;
    LK_TRY(lk_comm_agree(w->comm, check_export(w->comm, o)));
    LK_TRY(lk_cmd_load_run(w->comm, o->file, o->sets, o->set, &run));
    lk_status status = choose_directory(w->comm, o->directory, &home);
    if (status == LK_OK) status = profile(w, o, &run, home);
    if (home && w->comm->rank == 0 && !o->directory) remove_directory(home);
    free(home);
    lk_run_clear(&run);
    return status;
}

int lk_cmd_profile(int argc, char **argv)
{
    static const struct argp argp = {
        table,
        parse,
        "RUN.yaml",
        "Train some steps of a run file, trace them, and print where their time went, as 'lockstep "
        "trace' does. Under mpirun the ranks are traced together.\v"
        "Nothing is validated or saved. What the run writes lies in a directory below the working "
        "directory meanwhile, and is removed, unless --directory says to keep it.\n\n"
        "Examples:\n"
        "  $ mpirun -np 2 lockstep profile run.yaml\n"
        "  $ lockstep profile run.yaml --directory profiled --perfetto step.json",
        NULL,
        NULL,
        NULL};
    options o = {
        .set = calloc((size_t)argc + 1, sizeof *o.set), .depth = 2, .lines = 20, .steps = 10};
    if (!o.set) return LK_E_SYSTEM;
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    signal(SIGPIPE, SIG_IGN); /* a reader that has enough ends nothing: the directory is removed */
    int code = lk_cmd_run("lockstep profile", false, job, &o);
    free(o.set);
    return code;
}
