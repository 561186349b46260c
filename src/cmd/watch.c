/* lockstep watch RUNDIR [--once] [--interval SECONDS] */
#include "base/clock.h"
#include "cmd/cmd.h"
#include "train/watch.h"

#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

typedef struct options {
    const char *directory;
    bool once;
    double interval; /* seconds */
} options;

static const struct argp_option table[] = {
    {"once", '1', NULL, 0, "Print the state once and end", 0},
    {"interval", 'n', "SECONDS", 0, "Time between looks (default 2)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case '1': o->once = true; break;
    case 'n': o->interval = lk_cmd_real(state, "--interval", arg, 0.1, 86400); break;
    case ARGP_KEY_ARG:
        if (o->directory) argp_error(state, "one RUNDIR is expected, found also '%s'", arg);
        o->directory = arg;
        break;
    case ARGP_KEY_END:
        if (!o->directory) argp_error(state, "RUNDIR is missing");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static int width(void)
{
    struct winsize w = {0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0) return w.ws_col;
    return 80;
}

/* In place: up over the lines of the last time, each erased as it is written again. */
static int redraw(const lk_history *h, int lines, bool unicode)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f) return lines;
    int drawn = lk_watch_draw(f, h, width() - 1, unicode, lk_clock_date());
    if (fclose(f) == 0) {
        if (lines > 0) printf("\033[%dA", lines);
        for (char *p = text; *p;) {
            char *end = strchr(p, '\n');
            printf("%.*s\033[K\n", (int)(end - p), p);
            p = end + 1;
        }
        fputs("\033[J", stdout);
        fflush(stdout);
    }
    free(text);
    return drawn;
}

static lk_status watch(const options *o, lk_history *h)
{
    bool terminal = isatty(STDOUT_FILENO);
    setlocale(LC_CTYPE, "");
    bool unicode = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    int64_t said = -1;
    for (int lines = 0;;) {
        if (o->once) lk_watch_draw(stdout, h, width(), unicode, lk_clock_date());
        else if (terminal) lines = redraw(h, lines, unicode);
        else if (said != lk_history_done(h) || h->done || h->failed)
            lk_watch_line(stdout, h, lk_clock_date());
        said = lk_history_done(h);
        if (fflush(stdout) != 0)
            return lk_fail(LK_E_SYSTEM, "standard output: %s; see where the output goes",
                           strerror(errno));
        if (o->once || h->done || h->failed) return LK_OK;
        double whole = floor(o->interval);
        nanosleep(&(struct timespec){(time_t)whole, (long)(1e9 * (o->interval - whole))}, NULL);
        LK_TRY(lk_history_follow(h));
    }
}

int lk_cmd_watch(int argc, char **argv)
{
    static const struct argp argp = {
        table,
        parse,
        "RUNDIR",
        "Look at a run while it goes on, or afterwards: progress, loss, rate, times, memory and "
        "warnings, from the files in its directory alone.\v"
        "On a terminal the picture is redrawn in place; elsewhere a line is printed whenever there "
        "is something new. Ends when the run has done all its steps or has failed, or when its "
        "directory is removed; one that was stopped may go on. Rate, times and memory come from "
        "run.jsonl (log.run_log in the run file). Reading needs no MPI and disturbs nothing: any "
        "host that sees the directory will do.\n\n"
        "Examples:\n"
        "  $ lockstep watch runs/photos\n"
        "  $ lockstep watch --once runs/photos",
        NULL,
        NULL,
        NULL};
    options o = {.interval = 2};
    lk_history *h = NULL;
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    lk_status status = lk_history_open(o.directory, &h);
    if (status == LK_OK) status = watch(&o, h);
    if (status != LK_OK) fprintf(stderr, "lockstep: %s\n", lk_error_text());
    lk_history_close(h);
    return (int)status;
}
