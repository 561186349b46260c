/* lockstep import KIND FILE... -o OUTPUT */
#include "base/utf8.h"
#include "cmd/cmd.h"
#include "io/import.h"
#include "metric/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT = 1, IDX = 2, IMAGES = 4, CSV = 8 };
enum { LINE_SECONDS = 10 }; /* between lines of progress where there is no terminal */

static const struct kind {
    const char *name;
    int bit, least, most; /* files */
    const char *files;    /* what they are, for messages */
} kinds[] = {
    {"text", TEXT, 1, 0, "at least one text FILE"},
    {"idx", IDX, 2, 4, "IMAGES LABELS, or these and VALIDATION_IMAGES VALIDATION_LABELS"},
    {"images", IMAGES, 1, 1, "one DIR of images"},
    {"csv", CSV, 1, 0, "at least one CSV FILE"},
    {NULL, 0, 0, 0, NULL},
};

typedef struct options {
    const struct kind *kind;
    lk_import_target to;
    const char **file;
    int files;
    bool characters;
    char **class;
    int64_t classes;
    int64_t height, width, channels;
    lk_resize resize;
    const char *labels, *label;
    unsigned seen; /* bits by the rows of `special` */
    lk_progress progress;
} options;

enum { OVERWRITE = 1000, FORCE, CLASSES, SIZE, RESIZE, CHANNELS, LABELS, LABEL, MAX_BAD };

static const struct argp_option table[] = {
    {"output", 'o', "FILE", 0, "Dataset file to write", 0},
    {"validation", 'f', "FRACTION", 0, "Share kept for validation (default 0.1)", 0},
    {"overwrite", OVERWRITE, NULL, 0, "Replace OUTPUT if it exists", 0},
    {"force", FORCE, NULL, OPTION_ALIAS, NULL, 0},
    {NULL, 0, NULL, 0, "text:", 1},
    {"vocabulary", 'v', "KIND", 0, "byte (default), or character: those found, as UTF-8", 1},
    {NULL, 0, NULL, 0, "idx:", 2},
    {"classes", CLASSES, "NAME,NAME,...", 0, "Names of the labels 0, 1, ... (default: numbers)", 2},
    {NULL, 0, NULL, 0, "images:", 3},
    {"size", SIZE, "HxW", 0, "Height and width of the images in the dataset", 3},
    {"resize", RESIZE, "HOW", 0,
     "crop (default): the middle of it; fit: all, with black bars; stretch: all, distorted", 3},
    {"channels", CHANNELS, "N", 0, "3 (default), or 1: luminance", 3},
    {"labels", LABELS, "FILE.csv", 0,
     "Lines 'file,label' instead of a folder for each class; file: path below DIR; a first line "
     "that is no file, with a label that no other line has, names the columns", 3},
    {NULL, 0, NULL, 0, "csv:", 4},
    {"label", LABEL, "COLUMN", 0, "The column with the labels", 4},
    {NULL, 0, NULL, 0, "images, csv:", 5},
    {"max-bad", MAX_BAD, "N", 0, "Leave out up to N bad files or rows (default 0)", 5},
    {0},
};

/* Options that not every kind takes. */
static const struct {
    int key, kinds;
    const char *name;
} special[] = {
    {'v', TEXT, "--vocabulary"},
    {CLASSES, IDX, "--classes"},
    {SIZE, IMAGES, "--size"},
    {RESIZE, IMAGES, "--resize"},
    {CHANNELS, IMAGES, "--channels"},
    {LABELS, IMAGES, "--labels"},
    {LABEL, CSV, "--label"},
    {MAX_BAD, IMAGES | CSV, "--max-bad"},
};
enum { SPECIALS = sizeof special / sizeof special[0] };

/* ---- options --------------------------------------------------------------------------------- */

static void parse_size(options *o, const char *arg, struct argp_state *state)
{
    char end;
    long long h = 0, w = 0;
    if (sscanf(arg, "%lldx%lld%c", &h, &w, &end) != 2 || h < 1 || w < 1)
        argp_error(state, "--size: expected HEIGHTxWIDTH in pixels, found '%s'", arg);
    o->height = h;
    o->width = w;
}

static void free_classes(options *o)
{
    if (o->class) free(o->class[0]); /* all lie in one copy */
    free(o->class);
    o->class = NULL;
    o->classes = 0;
}

static void parse_classes(options *o, const char *arg, struct argp_state *state)
{
    char *copy = strdup(arg), *rest = copy;
    size_t room = strlen(arg) + 1;
    free_classes(o); /* of an option given before: the last one counts */
    o->class = calloc(room, sizeof *o->class);
    if (!copy || !o->class) argp_failure(state, LK_E_SYSTEM, 0, "out of memory");
    for (char *name; (name = strsep(&rest, ","));) {
        if (!name[0]) argp_error(state, "--classes: expected names, found an empty one in '%s'",
                                 arg);
        o->class[o->classes++] = name;
    }
}

static void parse_resize(options *o, const char *arg, struct argp_state *state)
{
    static const char *const how[] = {"crop", "fit", "stretch"};
    int i = 0;
    while (i < 3 && strcmp(arg, how[i]) != 0) i++;
    if (i == 3) argp_error(state, "--resize: expected crop, fit or stretch, found '%s'", arg);
    o->resize = (lk_resize)i;
}

static double parse_fraction(const char *arg, struct argp_state *state)
{
    double x = lk_cmd_real(state, "--validation", arg, 0, 1);
    if (x == 1) argp_error(state, "--validation: expected a fraction below 1, found '%s'", arg);
    return x;
}

static void check(const options *o, struct argp_state *state)
{
    const struct kind *k = o->kind;
    if (!k) argp_error(state, "the kind of data is missing: text, idx, images or csv");
    for (int i = 0; i < SPECIALS; i++)
        if (o->seen >> i & 1 && !(special[i].kinds & k->bit))
            argp_error(state, "%s is not an option of import %s", special[i].name, k->name);
    if (o->files == 0) argp_error(state, "no input FILE is given: %s is expected", k->files);
    if (o->files < k->least || (k->most && o->files > k->most) || (k->bit == IDX && o->files == 3))
        argp_error(state, "%s: expected %s, found %d", k->name, k->files, o->files);
    if (!o->to.output) argp_error(state, "--output is missing");
    if (k->bit == IMAGES && !o->height) argp_error(state, "--size is missing");
    if (k->bit == CSV && !o->label) argp_error(state, "--label is missing");
}

static void parse_argument(options *o, char *arg, struct argp_state *state)
{
    const struct kind *k = kinds;
    if (state->arg_num > 0) {
        o->file[o->files++] = arg;
        return;
    }
    while (k->name && strcmp(arg, k->name) != 0) k++;
    if (!k->name)
        argp_error(state, "expected text, idx, images or csv (the kind of data), found '%s'", arg);
    o->kind = k;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    options *o = state->input;
    for (int i = 0; i < SPECIALS; i++)
        if (special[i].key == key) o->seen |= 1u << i;
    switch (key) {
    case 'o': o->to.output = arg; break;
    case 'f': o->to.validation = parse_fraction(arg, state); break;
    case OVERWRITE:
    case FORCE: o->to.overwrite = true; break;
    case 'v':
        if (strcmp(arg, "byte") != 0 && strcmp(arg, "character") != 0)
            argp_error(state, "--vocabulary: expected byte or character, found '%s'", arg);
        o->characters = strcmp(arg, "character") == 0;
        break;
    case CLASSES: parse_classes(o, arg, state); break;
    case SIZE: parse_size(o, arg, state); break;
    case RESIZE: parse_resize(o, arg, state); break;
    case CHANNELS:
        if (strcmp(arg, "1") != 0 && strcmp(arg, "3") != 0)
            argp_error(state, "--channels: expected 1 or 3, found '%s'", arg);
        o->channels = arg[0] - '0';
        break;
    case LABELS: o->labels = arg; break;
    case LABEL: o->label = arg; break;
    case MAX_BAD: o->to.max_bad = lk_cmd_number(state, "--max-bad", arg, 0, LK_CMD_MANY); break;
    case ARGP_KEY_ARG: parse_argument(o, arg, state); break;
    case ARGP_KEY_END: check(o, state); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- the job --------------------------------------------------------------------------------- */

static void progress(void *context, int64_t done, int64_t total)
{
    options *o = context;
    int shift = o->kind->bit & (TEXT | CSV) ? 20 : 0;
    lk_progress_count(&o->progress, done >> shift, total >> shift, shift ? "MiB" : "samples");
}

/* Names of files are not ours: a terminal gets no control characters from them. */
static void tell(options *o, const char *what, const char *where, const char *reason)
{
    const char *part[2] = {where, reason};
    lk_progress_end(&o->progress);
    fprintf(stderr, "%s: ", what);
    for (int i = 0; i < 2; i++) {
        for (const char *c = part[i]; *c;) c += lk_plain_put(stderr, c);
        fputs(i == 0 ? ": " : "\n", stderr);
    }
}

static void bad(void *context, const char *where, const char *reason)
{
    tell(context, "bad", where, reason);
}

static void ignored(void *context, const char *where, const char *reason)
{
    tell(context, "ignored", where, reason);
}

static void untrained(void *context, const char *where, const char *reason)
{
    tell(context, "warning", where, reason);
}

static lk_status import(const lk_world *w, const options *o, lk_import_result *r)
{
    switch (o->kind->bit) {
    case TEXT:
        return lk_import_text_run(w->io, &(lk_import_text){o->to, o->files, o->file, o->characters},
                                  r);
    case IDX:
        return lk_import_idx_run(w->io,
                                 &(lk_import_idx){o->to, {o->file[0], o->file[2]},
                                                  {o->file[1], o->file[3]}, o->classes, o->class},
                                 r);
    case IMAGES:
        return lk_import_images_run(w->io, w->comm->world,
                                    &(lk_import_images){o->to, o->file[0], o->labels, o->height,
                                                        o->width, o->channels, o->resize},
                                    r);
    default:
        return lk_import_csv_run(w->io, &(lk_import_csv){o->to, o->files, o->file, o->label}, r);
    }
}

static lk_status job(const lk_world *w, void *context)
{
    options *o = context;
    lk_import_result r;
    bool text = o->kind->bit == TEXT;
    o->to.context = o;
    lk_progress_init(&o->progress, stderr, isatty(2), LINE_SECONDS);
    lk_status status = import(w, o, &r);
    lk_progress_end(&o->progress);
    LK_TRY(status);
    if (w->comm->rank > 0) return LK_OK;
    if (r.resumed > 0)
        printf("%lld images were decoded by an earlier import\n", (long long)r.resumed);
    if (r.bad > 0)
        printf("bad %s left out: %lld\n", o->kind->bit == CSV ? "rows" : "files",
               (long long)r.bad);
    if (r.ignored > 0) printf("files and folders ignored: %lld\n", (long long)r.ignored);
    printf("%s: %lld training and %lld validation %s, %s %lld%s, digest %s\n", o->to.output,
           (long long)r.rows[0], (long long)r.rows[1], text ? "tokens" : "samples",
           text ? "vocabulary of" : "of", (long long)r.classes, text ? "" : " classes", r.digest);
    return LK_OK;
}

int lk_cmd_import(int argc, char **argv)
{
    static const struct argp argp = {
        table, parse,
        "text FILE...\n"
        "idx IMAGES LABELS [IMAGES LABELS]\n"
        "images DIR\n"
        "csv FILE...",
        "Make a dataset file from files of other kinds.\v"
        "Memory does not grow with the data, but for 24 bytes a row (csv) or the names of the "
        "files, on every rank (images). OUTPUT appears when it is whole.\n\n"
        "text: read one after the other, without the byte order marks at their starts; the end is "
        "kept for validation. idx: as MNIST, packed or plain, a second pair for validation. "
        "images: PNG and JPEG, a folder for each class, turned upright as their EXIF orientation "
        "says; DIR/train with DIR/val, DIR/validation or DIR/test, where they are, are the splits "
        "(by other names, as DIR/training, they are refused); what is no image by its name and its "
        "first bytes, or has a name that begins with a dot, is ignored, and told; an image that "
        "cannot be read is bad; under mpirun all ranks decode, and an interrupted import goes on "
        "when it is started again. csv: finite numbers and a column of labels; the first line "
        "names the columns; no model learns from tables yet.\n\n"
        "Examples:\n"
        "  $ lockstep import text book.txt --vocabulary character -o book.h5\n"
        "  $ mpirun -np 4 lockstep import images photos/ --size 32x32 -o photos.h5\n"
        "  $ lockstep import csv readings.csv --label fault -o readings.h5",
        NULL, NULL, NULL};
    options o = {.to = {.validation = -1, .progress = progress, .bad = bad,
                        .ignored = ignored, .untrained = untrained}, .channels = 3};
    o.file = calloc((size_t)argc + 4, sizeof *o.file);
    if (!o.file) return LK_E_SYSTEM;
    argp_parse(&argp, argc, argv, 0, NULL, &o);
    int code = lk_cmd_run("lockstep import", o.kind->bit != IMAGES, job, &o);
    free_classes(&o);
    free(o.file);
    return code;
}
