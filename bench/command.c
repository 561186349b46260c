#include "bench/command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MANY = 1000000 };

lk_status bench_number(const char *name, const char *text, int64_t least, int64_t most,
                       int64_t *value)
{
    char *end = NULL;
    errno = 0;
    long long number = text ? strtoll(text, &end, 10) : 0;
    if (!text || end == text || *end || errno || number < least || number > most)
        return lk_fail(LK_E_INPUT, "%s: expected a whole number from %lld to %lld, found %s%s%s",
                       name, (long long)least, (long long)most, text ? "'" : "",
                       text ? text : "nothing", text ? "'" : "");
    *value = number;
    return LK_OK;
}

static const char *usage(const bench_command *c, char text[400])
{
    snprintf(text, 400, "usage: %s RUN.yaml%s%s [--image-size N] [--channels N] [--classes N]"
             "%s%s%s%s [--set a.b=c]...", c->name, c->directory ? " DIRECTORY" : "",
             c->images ? "" : " [--vocabulary N] [--text N]", c->number ? " [" : "",
             c->number ? c->number : "", c->number ? " N]" : "",
             c->baseline ? " [--baseline]" : "");
    return text;
}

/* After lk_fail(). */
static lk_status misused(const bench_command *c)
{
    char text[400];
    return lk_fail_suffix(LK_E_INPUT, "; %s", usage(c, text));
}

bool bench_is_help(const char *text)
{
    return strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0;
}

static void print_help(const bench_command *c)
{
    char text[400];
    printf("%s\n\n%s\n\nRandom samples are made as the options say: %simages of\n--image-size "
           "(224) pixels and --channels (3) in --classes (1000)%s.\n--set overrides a key of the "
           "run file. bench/%s.c says more.\n", usage(c, text), c->does,
           c->images ? "" : "of --vocabulary (65) tokens, or ",
           c->images ? "" : ", for model.kind fusion\nwith --text (64) tokens each", c->name);
}

static lk_status add_set(const char *text, bench_arguments *a)
{
    if (!text) return lk_fail(LK_E_INPUT, "--set: expected a key and its value, a.b=c, found "
                              "nothing");
    if (a->sets == BENCH_MAX_SETS - BENCH_OWN_SETS)
        return lk_fail(LK_E_INPUT, "--set: expected at most %d, found more; put them into the run "
                       "file", a->sets);
    a->set[a->sets++] = text;
    return LK_OK;
}

/* The argument *at, and moves *at over its value. */
static lk_status take(const bench_command *c, char ***at, bench_arguments *a)
{
    const struct {
        const char *name;
        int64_t least, most, *value;
    } option[] = {
        {"--vocabulary", 2, 65536, &a->vocabulary}, {"--image-size", 1, 4096, &a->size},
        {"--channels", 1, 64, &a->channels},        {"--classes", 2, 65535, &a->classes},
        {"--text", 1, 32768, &a->text},             {c->number, 1, MANY, &a->number},
    };
    const char *name = **at;
    for (size_t i = 0; i < sizeof option / sizeof *option; i++)
        if (option[i].name && strcmp(name, option[i].name) == 0 &&
            !(c->images && (option[i].value == &a->vocabulary || option[i].value == &a->text)))
            return bench_number(name, *++*at, option[i].least, option[i].most, option[i].value);
    if (strcmp(name, "--set") == 0) return add_set(*++*at, a);
    if (c->baseline && strcmp(name, "--baseline") == 0) a->baseline = true;
    else if (name[0] != '-' && !a->file) a->file = name;
    else if (name[0] != '-' && c->directory && !a->directory) a->directory = name;
    else {
        lk_fail(LK_E_INPUT, "unexpected argument '%s'", name);
        return misused(c);
    }
    return LK_OK;
}

static lk_status parse(const bench_command *c, int argc, char **argv, bench_arguments *a)
{
    *a = (bench_arguments){.number = c->otherwise};
    for (char **at = argv + 1; at < argv + argc; at++) LK_TRY(take(c, &at, a));
    if (a->file && (a->directory || !c->directory)) return LK_OK;
    lk_fail(LK_E_INPUT, "%s is missing", a->file ? "the directory" : "the run file");
    return misused(c);
}

int bench_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

void bench_failed(const char *name, lk_comm *comm, lk_status status)
{
    bool together = !comm || lk_comm_all_failed(comm, 2.0);
    if (!together) lk_fail_prefix(status, "rank %d on %s", comm->rank, comm->host);
    if (!together || !comm || comm->rank == 0) fprintf(stderr, "%s: %s\n", name, lk_error_text());
    if (!together) lk_comm_abort(comm, (int)status);
}

int bench_main(const bench_command *c, int argc, char **argv)
{
    bench_arguments a;
    lk_comm *comm = NULL;
    for (int i = 1; i < argc; i++) {
        if (!bench_is_help(argv[i])) continue;
        print_help(c);
        return LK_OK;
    }
    lk_status status = lk_comm_open(&comm);
    if (status == LK_OK) status = parse(c, argc, argv, &a);
    if (status == LK_OK && comm->size > 1 && !c->ranks)
        status = lk_fail(LK_E_INPUT, "expected one rank, found %d; start it without mpirun",
                         comm->size);
    if (comm) status = lk_comm_agree(comm, status);
    if (status == LK_OK) status = c->job(&a, comm);
    if (status != LK_OK) bench_failed(c->name, comm, status);
    lk_comm_close(comm);
    return (int)status;
}
