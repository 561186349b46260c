/* lockstep report RUNDIR... -o FILE */
#include "cmd/cmd.h"
#include "train/report.h"

#include <stdlib.h>
#include <time.h>

typedef struct options {
    const char **directory, *output;
    int runs;
} options;

static const struct argp_option table[] = {
    {"output", 'o', "FILE", 0, "The page to write (default report.html); an old one is replaced",
     0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'o': o->output = arg; break;
    case ARGP_KEY_ARG: o->directory[o->runs++] = arg; break;
    case ARGP_KEY_END:
        if (!o->runs) argp_error(state, "RUNDIR is missing");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static lk_status job(const lk_world *w, void *context)
{
    const options *o = context;
    LK_TRY(lk_report_write(w->io, o->runs, o->directory, o->output, (double)time(NULL)));
    printf("%s\n", o->output);
    return LK_OK;
}

int lk_cmd_report(int argc, char **argv)
{
    static const struct argp argp = {
        table,
        parse,
        "RUNDIR...",
        "Write one HTML page about a run, or about several to compare them: loss, rate, step "
        "times, memory, warnings, where the time of a step goes, what ran where, settings.\v"
        "The page stands alone: it can be mailed, and asks for nothing from a network. A run may "
        "be going on meanwhile. Rate, times and memory come from run.jsonl (log.run_log in the run "
        "file), where the time goes from trace.h5 (trace.from in the run file).\n\n"
        "Examples:\n"
        "  $ lockstep report runs/photos -o photos.html\n"
        "  $ lockstep report runs/small runs/large -o compared.html",
        NULL,
        NULL,
        NULL};
    options o = {.directory = calloc((size_t)argc + 1, sizeof *o.directory),
                 .output = "report.html"};
    if (!o.directory) return LK_E_SYSTEM;
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    int code = lk_cmd_run("lockstep report", true, job, &o);
    free(o.directory);
    return code;
}
