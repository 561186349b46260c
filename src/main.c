/* The program: pick the command; its exit code is ours. */
#include "cmd/cmd.h"
#include "version.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void print_version(FILE *out, struct argp_state *state)
{
    (void)state;
    fprintf(out, "lockstep %s (%s)\n%s\n", LK_VERSION, LK_CODE_VERSION, LK_BUILD);
}

/* Output that could not be written must not pass for success; a reader that has enough is no
 * failure, but where work goes on without it. What was written before may have failed long ago, so
 * errno does not tell them apart. */
static void close_output(void)
{
    struct pollfd out = {.fd = STDOUT_FILENO};
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return;
    int error = errno;
    bool pipe = poll(&out, 1, 0) == 1 && (out.revents & POLLERR); /* without a reader */
    if (pipe && !lk_cmd_outlives_reader) return;
    fprintf(stderr, "lockstep: cannot write to the standard output: %s\n",
            pipe    ? "nobody reads it any more"
            : error ? strerror(error)
                    : "a part is missing; is the disk full?");
    _exit(LK_E_SYSTEM);
}

int main(int argc, char **argv)
{
    atexit(close_output);
    argp_program_version_hook = print_version;
    argp_err_exit_status = LK_E_INPUT;
    if (argc < 2) {
        lk_cmd_usage(stderr);
        return LK_E_INPUT;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-?") == 0) {
        lk_cmd_usage(stdout);
        return LK_OK;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        print_version(stdout, NULL);
        return LK_OK;
    }
    for (const lk_command *c = lk_commands; c->name; c++) {
        if (strcmp(argv[1], c->name) != 0) continue;
        char name[64];
        snprintf(name, sizeof name, "lockstep %s", c->name);
        argv[1] = name; /* argp names itself by it */
        return c->run(argc - 1, argv + 1);
    }
    fprintf(stderr, "lockstep: unknown command '%s'; 'lockstep --help' lists them\n", argv[1]);
    return LK_E_INPUT;
}
