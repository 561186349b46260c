/* lockstep help [COMMAND | run-file] */
#include "cmd/cmd.h"
#include "train/run.h"

#include <stdio.h>
#include <string.h>

static error_t parse(int key, char *arg, struct argp_state *state)
{
    const char **topic = state->input;
    if (key != ARGP_KEY_ARG) return ARGP_ERR_UNKNOWN;
    if (*topic) argp_error(state, "too many arguments at '%s'", arg);
    *topic = arg;
    return 0;
}

int lk_cmd_help(int argc, char **argv)
{
    static const struct argp argp = {
        NULL, parse, "[COMMAND | run-file]",
        "Without an argument: the commands. With one: what COMMAND --help prints, or the keys of "
        "the run file with their defaults and meanings.",
        NULL, NULL, NULL};
    const char *topic = NULL;
    argp_parse(&argp, argc, argv, 0, NULL, &topic);
    if (!topic) {
        lk_cmd_usage(stdout);
        return LK_OK;
    }
    if (strcmp(topic, "run-file") == 0) {
        lk_run_help(stdout);
        return LK_OK;
    }
    for (const lk_command *c = lk_commands; c->name; c++) {
        if (strcmp(c->name, topic) != 0) continue;
        char name[64];
        snprintf(name, sizeof name, "lockstep %s", c->name);
        return c->run(2, (char *[]){name, "--help", NULL});
    }
    fprintf(stderr, "lockstep: no help on '%s': expected run-file or a command; 'lockstep --help' "
            "lists them\n", topic);
    return LK_E_INPUT;
}
