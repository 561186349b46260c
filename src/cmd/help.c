/* lockstep help [COMMAND | run-file] */
#include "cmd/cmd.h"
#include "train/run.h"

#include <stdio.h>
#include <string.h>

int lk_cmd_help(int argc, char **argv)
{
    const char *topic = argc > 1 ? argv[1] : NULL;
    if (!topic || strcmp(topic, "--help") == 0 || strcmp(topic, "help") == 0) {
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
    fprintf(stderr, "lockstep: no help on '%s': expected run-file or a command\n", topic);
    return LK_E_INPUT;
}
