/* lockstep generate CHECKPOINT --prompt TEXT */
#include "cmd/cmd.h"
#include "train/train.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST = 1000000000 }; /* of every whole number */

typedef struct options {
    const char *checkpoint;
    lk_generation job;
} options;

static const struct argp_option table[] = {
    {"prompt", 'p', "TEXT", 0, "Text to continue (default: a line end)", 0},
    {"tokens", 'n', "N", 0, "Tokens to generate (default 300)", 0},
    {"temperature", 't', "T", 0, "0: always the most likely token (default 0.8)", 0},
    {"top-k", 'k', "K", 0, "Draw among the K most likely tokens; 0: all (default 0)", 0},
    {"seed", 's', "N", 0, "Key of the draws (default 1)", 0},
    {"device", 'd', "NAME", 0, "auto (default), cpu or cuda", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    switch (key) {
    case 'p': o->job.prompt = arg; break;
    case 'n': o->job.tokens = lk_cmd_number(state, "--tokens", arg, 0, MOST); break;
    case 'k': o->job.top_k = lk_cmd_number(state, "--top-k", arg, 0, MOST); break;
    case 's': o->job.seed = (uint64_t)lk_cmd_number(state, "--seed", arg, 0, MOST); break;
    case 'd': o->job.device = arg; break;
    case 't': o->job.temperature = lk_cmd_real(state, "--temperature", arg, 0, 1000); break;
    case ARGP_KEY_ARG:
        if (o->checkpoint) argp_error(state, "too many arguments at '%s'", arg);
        o->checkpoint = arg;
        break;
    case ARGP_KEY_END:
        if (!o->checkpoint) argp_error(state, "CHECKPOINT is missing");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static void emit(void *context, const char *piece)
{
    (void)context;
    fputs(piece, stdout);
    fflush(stdout);
}

static lk_status job(const lk_world *w, void *context)
{
    options *o = context;
    char *text = NULL;
    LK_TRY(lk_generate(w->comm, w->io, o->checkpoint, &o->job, emit, NULL, &text));
    printf("\n");
    free(text);
    return LK_OK;
}

int lk_cmd_generate(int argc, char **argv)
{
    static const struct argp argp = {
        table, parse, "CHECKPOINT",
        "Continue a text with a trained model. CHECKPOINT: a file, or a run directory for its "
        "newest one; if that is damaged, the error names the one before it.\v"
        "The same checkpoint, prompt and seed give the same text on the same kind of device.\n\n"
        "Examples:\n"
        "  $ lockstep generate runs/book --prompt 'Once upon a time'\n"
        "  $ lockstep generate runs/book --tokens 1000 --temperature 0.6 --seed 2",
        NULL, NULL, NULL};
    options o = {.job = {.prompt = "\n", .tokens = 300, .temperature = 0.8, .seed = 1,
                         .device = "auto"}};
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    return lk_cmd_run("lockstep generate", true, job, &o);
}
