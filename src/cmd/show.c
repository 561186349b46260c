/* lockstep show FILE */
#include "cmd/cmd.h"
#include "io/show.h"

#include <stdio.h>

static error_t parse(int key, char *arg, struct argp_state *state)
{
    const char **file = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        if (*file) argp_error(state, "too many arguments at '%s'", arg);
        *file = arg;
        break;
    case ARGP_KEY_END:
        if (!*file) argp_error(state, "FILE is missing");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static lk_status job(const lk_world *w, void *context)
{
    return lk_show_file(w->io, *(const char **)context, stdout);
}

int lk_cmd_show(int argc, char **argv)
{
    static const struct argp argp = {
        NULL, parse, "FILE",
        "What a dataset, checkpoint, predictions, trace or anomaly file holds: attributes, then "
        "every array with its shape, type and digest.\v"
        "Examples:\n"
        "  $ lockstep show photos.h5\n"
        "  $ lockstep show runs/photos",
        NULL, NULL, NULL};
    const char *file = NULL;
    argp_parse(&argp, argc, argv, 0, NULL, &file);
    return lk_cmd_run("lockstep show", true, job, &file);
}
