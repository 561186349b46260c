/* lockstep import text FILE... -o OUTPUT */
#include "cmd/cmd.h"
#include "io/import.h"
#include "metric/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct options {
    lk_import_text job;
    const char **file;
} options;

enum { FORCE = 1000 };

static const struct argp_option table[] = {
    {"output", 'o', "FILE", 0, "Dataset file to write", 0},
    {"vocabulary", 'v', "KIND", 0, "byte (default), or character: those found, as UTF-8", 0},
    {"validation", 'f', "FRACTION", 0, "Share at the end kept for validation (default 0.1)", 0},
    {"force", FORCE, NULL, 0, "Replace OUTPUT if it exists", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    char *end;
    switch (key) {
    case 'o': o->job.output = arg; break;
    case 'v':
        if (strcmp(arg, "byte") != 0 && strcmp(arg, "character") != 0)
            argp_error(state, "--vocabulary: expected byte or character, found '%s'", arg);
        o->job.characters = strcmp(arg, "character") == 0;
        break;
    case 'f':
        o->job.validation = strtod(arg, &end);
        if (end == arg || *end || !(o->job.validation >= 0 && o->job.validation < 1))
            argp_error(state, "--validation: expected a fraction from 0 to below 1, found '%s'",
                       arg);
        break;
    case FORCE: o->job.overwrite = true; break;
    case ARGP_KEY_ARG:
        if (state->arg_num == 0) {
            if (strcmp(arg, "text") != 0)
                argp_error(state, "expected 'text' (the kind of data), found '%s'", arg);
        } else {
            o->file[o->job.files++] = arg;
        }
        break;
    case ARGP_KEY_END:
        if (o->job.files == 0) argp_error(state, "no input FILE is given");
        if (!o->job.output) argp_error(state, "--output is missing");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static void progress(void *context, int64_t done, int64_t total)
{
    (void)context;
    if (!isatty(2)) return;
    fprintf(stderr, "\r\033[K%lld of %lld MiB%s", (long long)(done >> 20), (long long)(total >> 20),
            done == total ? "\r\033[K" : "");
}

static lk_status job(const lk_world *w, void *context)
{
    options *o = context;
    lk_import_result r;
    LK_TRY(lk_import_text_run(w->io, &o->job, &r));
    printf("%s: %lld training and %lld validation tokens, vocabulary of %lld, digest %s\n",
           o->job.output, (long long)r.train_tokens, (long long)r.validation_tokens,
           (long long)r.vocabulary_size, r.digest);
    return LK_OK;
}

int lk_cmd_import(int argc, char **argv)
{
    static const struct argp argp = {
        table, parse, "text FILE...",
        "Make a dataset file from text files, read one after the other.\v"
        "Memory use does not depend on the size of the text. OUTPUT appears when it is whole.",
        NULL, NULL, NULL};
    options o = {.job = {.validation = 0.1, .progress = progress}};
    o.file = calloc((size_t)argc + 1, sizeof *o.file);
    if (!o.file) return LK_E_SYSTEM;
    o.job.file = o.file;
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    int code = lk_cmd_run("lockstep import", true, job, &o);
    free(o.file);
    return code;
}
