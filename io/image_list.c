/* Finding image files. A folder's layout says what is meant:
 *
 *   DIR/CLASS/...             a share of the files, chosen by a hash, is for validation
 *   DIR/train/CLASS/...  and  DIR/val/CLASS/... (or validation, test)
 *   DIR/train/CLASS/...       nothing else in DIR: as DIR/CLASS/...
 *   DIR/training, DIR/valid   and the like: refused, not taken for classes
 *   a label file              names the files; splits by hash, or by DIR/train and DIR/val */
#include "io/image_list.h"
#include "io/csv.h"
#include "io/image.h"
#include "io/import_rows.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 16, MAX_PATH = 4096 };

static const char *const held_name[] = {"val", "validation", "test"};
enum { HELD = sizeof held_name / sizeof held_name[0] };

typedef struct found {
    int64_t path, size, seconds, nanoseconds;
    int32_t label; /* its number in the set */
    int8_t split;  /* -1: by hash */
} found;

typedef struct finder {
    const lk_import_images *job;
    lk_import_result *result;
    const char *held;    /* that other folder */
    int64_t missing;     /* files of the label file that are not there */
    char *heading;       /* the second name of its columns; NULL: it has none */
    found *file;
    int64_t count, room;
    char *paths;
    int64_t path_bytes, path_room;
    lk_label_set labels;
} finder;

/* ---- the list -------------------------------------------------------------------------------- */

static lk_status full_path(const finder *f, const char *name, char path[MAX_PATH])
{
    int n = snprintf(path, MAX_PATH, "%s%s%s", f->job->directory, name[0] ? "/" : "", name);
    if (n < 0 || n >= MAX_PATH)
        return lk_fail(LK_E_INPUT, "%.200s...: the path is too long; move the folder up",
                       f->job->directory);
    return LK_OK;
}

static lk_status add(finder *f, const char *name, int32_t label, int split, const struct stat *s)
{
    size_t length = strlen(name) + 1;
    if (f->count == f->room) {
        int64_t room = f->room ? 2 * f->room : 1024;
        found *file = realloc(f->file, (size_t)room * sizeof *file);
        if (!file) return lk_fail(LK_E_SYSTEM, "out of memory for %lld names", (long long)room);
        f->file = file;
        f->room = room;
    }
    if (f->path_bytes + (int64_t)length > f->path_room) {
        int64_t room = 2 * f->path_room + MAX_PATH + (int64_t)length;
        char *paths = realloc(f->paths, (size_t)room);
        if (!paths) return lk_fail(LK_E_SYSTEM, "out of memory for names");
        f->paths = paths;
        f->path_room = room;
    }
    memcpy(f->paths + f->path_bytes, name, length);
    f->file[f->count++] = (found){f->path_bytes, s ? (int64_t)s->st_size : -1,
                                  s ? (int64_t)s->st_mtim.tv_sec : 0,
                                  s ? (int64_t)s->st_mtim.tv_nsec : 0, label, (int8_t)split};
    f->path_bytes += (int64_t)length;
    return LK_OK;
}

/* Images of other kinds too: they are meant as samples, and it must be told that none is made. */
static bool image_name(const char *name)
{
    static const char *const ending[] = {".png",  ".jpg", ".jpeg", ".jpe",  ".jfif", ".gif", ".bmp",
                                         ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif"};
    const char *dot = strrchr(name, '.');
    bool found = false;
    for (size_t i = 0; i < sizeof ending / sizeof *ending && dot; i++)
        found |= strcasecmp(dot, ending[i]) == 0;
    return found;
}

/* ---- folders --------------------------------------------------------------------------------- */

typedef struct names {
    char **name;
    int count;
} names;

static void names_clear(names *n)
{
    for (int i = 0; i < n->count; i++) free(n->name[i]);
    free(n->name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What lies in a folder, sorted. */
static lk_status list_folder(const finder *f, const char *folder, names *result)
{
    char path[MAX_PATH];
    names n = {NULL, 0};
    lk_status status = LK_OK;
    LK_TRY(full_path(f, folder, path));
    DIR *d = opendir(path);
    if (!d) return lk_fail_open(path);
    for (struct dirent *e; status == LK_OK && (errno = 0, e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if ((n.count & (n.count + 1)) == 0) { /* room for the next power of two */
            char **grown = realloc(n.name, (size_t)(2 * n.count + 2) * sizeof *grown);
            if (!grown) status = lk_fail(LK_E_SYSTEM, "out of memory for names");
            else n.name = grown;
        }
        if (status == LK_OK && !(n.name[n.count] = strdup(e->d_name)))
            status = lk_fail(LK_E_SYSTEM, "out of memory for names");
        if (status == LK_OK) n.count++;
    }
    if (status == LK_OK && errno != 0)
        status = lk_fail(LK_E_SYSTEM, "%s: cannot read the folder: %s; check the disk it lies on",
                         path, strerror(errno));
    closedir(d);
    if (status != LK_OK) {
        names_clear(&n);
        return status;
    }
    if (n.count > 0) qsort(n.name, (size_t)n.count, sizeof *n.name, by_name);
    *result = n;
    return LK_OK;
}

static bool is_folder(const finder *f, const char *name)
{
    char path[MAX_PATH];
    struct stat s;
    bool fits = full_path(f, name, path) == LK_OK;
    if (!fits) lk_error_clear();
    return fits && stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

static lk_status join(const char *folder, const char *name, char path[MAX_PATH])
{
    int n = snprintf(path, MAX_PATH, "%s%s%s", folder, folder[0] ? "/" : "", name);
    if (n < 0 || n >= MAX_PATH)
        return lk_fail(LK_E_INPUT, "%.200s...: the path is too long; move the folder up", folder);
    return LK_OK;
}

/* What is no sample must not be left out without a word. */
static void note_ignored(finder *f, const char *name, const char *reason)
{
    const lk_import_target *to = &f->job->to;
    f->result->ignored++;
    if (to->ignored) to->ignored(to->context, name, reason);
}

/* Hidden: what other programs keep beside the images. `path`: with its folder. */
static bool note_hidden(finder *f, const char *path, const char *name)
{
    if (name[0] == '.') note_ignored(f, path, "its name begins with a dot");
    return name[0] == '.';
}

/* What lies where no class is. */
static void note_stray(finder *f, const char *name, const char *reason)
{
    if (note_hidden(f, name, name)) return;
    if (!is_folder(f, name) && image_name(name))
        lk_import_note_bad(&f->job->to, f->result, name, "an image in no class folder");
    else
        note_ignored(f, name, reason);
}

/* A file in a class folder: `s` is NULL for a link to nothing. What is neither named as an image
 * nor begins as one, such as a Thumbs.db, nobody meant as a sample. */
static lk_status find_file(finder *f, const char *name, const char *path, int32_t label, int split,
                           const struct stat *s)
{
    if (!image_name(name) && s && !(S_ISREG(s->st_mode) && lk_image_begins(path))) {
        note_ignored(f, name, "not an image, by its name and its first bytes");
        return LK_OK;
    }
    return add(f, name, label, split, s);
}

/* All files below a class folder, those of its sub-folders too. */
static lk_status find_below(finder *f, const char *folder, int32_t label, int split, int depth)
{
    names n;
    lk_status status = LK_OK;
    if (depth > MAX_DEPTH)
        return lk_fail(LK_E_INPUT, "%s/%.200s: the folders lie too deep; is there a link to "
                       "itself?", f->job->directory, folder);
    LK_TRY(list_folder(f, folder, &n));
    for (int i = 0; i < n.count && status == LK_OK; i++) {
        char name[MAX_PATH], path[MAX_PATH];
        struct stat s;
        status = join(folder, n.name[i], name);
        if (status == LK_OK) status = full_path(f, name, path);
        if (status != LK_OK) break;
        if (note_hidden(f, name, n.name[i])) continue;
        bool there = stat(path, &s) == 0; /* a link to nothing is a bad file when it is read */
        if (there && S_ISDIR(s.st_mode))
            status = find_below(f, name, label, split, depth + 1);
        else
            status = find_file(f, name, path, label, split, there ? &s : NULL);
    }
    names_clear(&n);
    return status;
}

/* One folder of a class folder's parent. */
static lk_status find_class(finder *f, const char *folder, const char *class, int split)
{
    int64_t before = f->count, classes = f->labels.count;
    int32_t label = 0;
    char path[MAX_PATH];
    LK_TRY(join(folder, class, path));
    lk_status status = lk_label_set_add(&f->labels, class, &label);
    if (status != LK_OK) return lk_fail_prefix(status, "%s/%s", f->job->directory, path);
    if (split == LK_VALIDATION && f->labels.count > classes)
        return lk_fail(LK_E_INPUT,
                       "%s/%s: expected a class that is in %s/train too, found another "
                       "one; rename the folder, or add one in train",
                       f->job->directory, path, f->job->directory);
    LK_TRY(find_below(f, path, label, split, 0));
    if (f->count == before)
        return lk_fail(LK_E_INPUT, "%s/%s: expected images of the class '%s', found none; remove "
                       "the folder, or add images", f->job->directory, path, class);
    return LK_OK;
}

static lk_status find_classes(finder *f, const char *folder, int split)
{
    names n;
    char path[MAX_PATH];
    lk_status status = LK_OK;
    LK_TRY(list_folder(f, folder, &n));
    for (int i = 0; i < n.count && status == LK_OK; i++) {
        status = join(folder, n.name[i], path);
        if (status != LK_OK) break;
        if (note_hidden(f, path, n.name[i])) continue;
        if (is_folder(f, path))
            status = find_class(f, folder, n.name[i], split);
        else
            note_stray(f, path, "a file in no class folder");
    }
    names_clear(&n);
    return status;
}

/* ---- layouts --------------------------------------------------------------------------------- */

static lk_status find_splits(finder *f)
{
    if (!is_folder(f, "train")) return LK_OK;
    for (int i = 0; i < HELD; i++) {
        if (!is_folder(f, held_name[i])) continue;
        if (f->held && !f->job->labels) /* the lines of a label file say which one is meant */
            return lk_fail(LK_E_INPUT, "%s: expected one folder for validation beside 'train', "
                           "found '%s' and '%s'; move away the one that is not to be used",
                           f->job->directory, f->held, held_name[i]);
        if (!f->held) f->held = held_name[i];
    }
    if (f->held && f->job->to.validation >= 0)
        return lk_fail(LK_E_INPUT,
                       "%s: expected either a folder or a fraction for validation, "
                       "found both: '%s' and %g; leave out --validation, or move the folder away",
                       f->job->directory, f->held, f->job->to.validation);
    return LK_OK;
}

static bool is_one_of(const char *name, const char *const *list)
{
    while (*list && strcasecmp(name, *list) != 0) list++;
    return *list != NULL;
}

/* Folders of splits by names that others give them would pass for classes. */
static lk_status check_split_names(const finder *f, const names *n)
{
    static const char *const training[] = {"train", "training", NULL};
    static const char *const testing[] = {"val", "valid", "validate", "validation", "test",
                                          "testing", "eval", "evaluation", "dev", NULL};
    const char *train = NULL, *held = NULL;
    for (int i = 0; i < n->count && !f->held; i++) {
        if (!is_folder(f, n->name[i])) continue;
        if (is_one_of(n->name[i], training)) train = n->name[i];
        if (is_one_of(n->name[i], testing)) held = n->name[i];
    }
    if (!train || !held) return LK_OK;
    return lk_fail(LK_E_INPUT, "%s: expected 'train' and one of 'val', 'validation' and 'test' as "
                   "folders of splits, found '%s' and '%s'; rename them (were they classes: "
                   "--labels takes a list)", f->job->directory, train, held);
}

static lk_status find_in_folders(finder *f)
{
    names n;
    bool splits = is_folder(f, "train");
    LK_TRY(list_folder(f, "", &n));
    lk_status status = check_split_names(f, &n);
    for (int i = 0; i < n.count && splits && !f->held; i++) /* else 'train' is a class */
        splits = strcmp(n.name[i], "train") == 0 || n.name[i][0] == '.' || !is_folder(f, n.name[i]);
    for (int i = 0; i < n.count && splits && status == LK_OK; i++)
        if (strcmp(n.name[i], "train") != 0 && (!f->held || strcmp(n.name[i], f->held) != 0))
            note_stray(f, n.name[i], "it lies beside the folder 'train'");
    names_clear(&n);
    LK_TRY(status);
    if (!f->held) return find_classes(f, splits ? "train" : "", -1);
    LK_TRY(find_classes(f, "train", LK_TRAIN));
    return find_classes(f, f->held, LK_VALIDATION);
}

/* The split of a named file: -1 is by hash. */
static lk_status split_of(const finder *f, const lk_csv *c, int *split)
{
    const char *name = c->cell[0];
    size_t n = f->held ? strlen(f->held) : 0;
    *split = -1;
    if (!f->held) return LK_OK;
    if (strncmp(name, "train/", 6) == 0)
        *split = LK_TRAIN;
    else if (strncmp(name, f->held, n) == 0 && name[n] == '/')
        *split = LK_VALIDATION;
    else
        return lk_fail(LK_E_INPUT,
                       "%s:%lld: expected a file below train/ or %s/, found '%.200s'; "
                       "move it there, or leave the line out",
                       c->path, (long long)c->line, f->held, name);
    return LK_OK;
}

/* Make a file's name in the list the only one of that file: without the steps '.' and ''. What
 * leads out of DIR is an error. */
static lk_status clean_path(const finder *f, const lk_csv *c)
{
    char *path = c->cell[0], *out = path, *next = path;
    bool inside = path[0] != '/';
    for (char *step; inside && (step = strsep(&next, "/"));) {
        size_t n = strlen(step);
        inside = strcmp(step, "..") != 0;
        if (n == 0 || strcmp(step, ".") == 0) continue;
        if (out > path) *out++ = '/';
        memmove(out, step, n);
        out += n;
    }
    if (!inside || out == path)
        return lk_fail(LK_E_INPUT,
                       "%s:%lld: expected a path relative to %s, without '..', found "
                       "another one; write it so",
                       c->path, (long long)c->line, f->job->directory);
    *out = '\0';
    return LK_OK;
}

static lk_status note_line(finder *f, const lk_csv *c, bool first)
{
    char path[MAX_PATH];
    struct stat s;
    int split;
    int32_t label;
    if (c->cells != 2 || !c->cell[0][0] || !c->cell[1][0])
        return lk_fail(LK_E_INPUT,
                       "%s:%lld: expected 'file,label', found %s; write one file and "
                       "one label a line",
                       c->path, (long long)c->line,
                       c->cells == 2 ? "an empty cell" : "another number of cells");
    LK_TRY(clean_path(f, c));
    LK_TRY(full_path(f, c->cell[0], path));
    bool there = stat(path, &s) == 0;
    if (!there && !image_name(c->cell[0]) && image_name(c->cell[1]))
        return lk_fail(LK_E_INPUT, "%s:%lld: expected 'file,label', found the file in the second "
                       "column; exchange the columns", c->path, (long long)c->line);
    if (first && !there && !image_name(c->cell[0])) { /* names of the columns, it seems */
        f->heading = strdup(c->cell[1]);
        return f->heading ? LK_OK : lk_fail(LK_E_SYSTEM, "out of memory");
    }
    f->missing += !there;
    LK_TRY(split_of(f, c, &split));
    lk_status status = lk_label_set_add(&f->labels, c->cell[1], &label);
    if (status != LK_OK)
        return lk_fail_prefix(status, "%s:%lld", c->path, (long long)c->line);
    return add(f, c->cell[0], label, split, there ? &s : NULL);
}

static lk_status note_lines(finder *f, lk_csv *c)
{
    bool end = false;
    int64_t at = 0, line = 1;
    for (int64_t i = 0;; i++) {
        LK_TRY(lk_csv_next(c, &end));
        if (end) break;
        LK_TRY(note_line(f, c, i == 0));
        if (i > 0) continue;
        at = c->at;
        line = c->line;
    }
    if (!f->heading || !lk_label_set_has(&f->labels, f->heading)) return LK_OK;
    /* no heading but a file, which is missing: it has the label of another */
    LK_TRY(lk_csv_seek(c, at, line));
    LK_TRY(lk_csv_next(c, &end));
    return note_line(f, c, false);
}

static lk_status find_in_labels(finder *f)
{
    lk_csv c = {.file = NULL};
    lk_status status = lk_csv_open(&c, f->job->labels);
    if (status == LK_OK) status = note_lines(f, &c);
    lk_csv_close(&c);
    return status;
}

/* ---- order ----------------------------------------------------------------------------------- */

/* A hash of the name: 64 bits of its digest. */
static uint64_t hash_of(const char *name)
{
    char text[LK_DIGEST_TEXT];
    lk_digest_bytes(name, strlen(name), text);
    text[16] = '\0';
    return strtoull(text, NULL, 16);
}

static int by_order(const void *a, const void *b, void *paths)
{
    const lk_image_file *x = a, *y = b;
    if (x->split != y->split) return x->split < y->split ? -1 : 1;
    if (x->order != y->order) return x->order < y->order ? -1 : 1;
    return strcmp((char *)paths + x->path, (char *)paths + y->path);
}

/* By the low bits of the hash, which the order that is sorted by all bits does not show. */
static int by_low_bits(const void *a, const void *b, void *paths)
{
    const lk_image_file *x = a, *y = b;
    uint32_t p = (uint32_t)x->order, q = (uint32_t)y->order;
    if (p != q) return p < q ? -1 : 1;
    return strcmp((char *)paths + x->path, (char *)paths + y->path);
}

/* Those of the smallest hashes are for validation: which ones depends on the names alone, and their
 * number is exact. The files are sorted by low bits. */
static void choose_splits(const finder *f, lk_image_list *l)
{
    int64_t held = (int64_t)floor((double)f->count * lk_import_fraction(&f->job->to));
    if (f->held) return; /* folders have chosen */
    for (int64_t i = 0; i < f->count; i++)
        l->file[i].split = i < held ? LK_VALIDATION : LK_TRAIN;
}

/* Before any are cut off for validation: one of two alike would teach what the other tests. */
static lk_status check_twice(const finder *f, const lk_image_list *l)
{
    for (int64_t i = 1; i < l->count; i++)
        if (strcmp(l->paths + l->file[i - 1].path, l->paths + l->file[i].path) == 0)
            return lk_fail(LK_E_INPUT,
                           "%s: expected each file once, found '%.200s' twice; keep "
                           "one",
                           f->job->labels ? f->job->labels : f->job->directory,
                           l->paths + l->file[i].path);
    return LK_OK;
}

static lk_status digest_list(const finder *f, const uint16_t *class_of, lk_image_list *l)
{
    lk_digest *d = NULL;
    LK_TRY(lk_digest_create(&d));
    for (int64_t i = 0; i < f->count; i++) { /* as they were found: sorted, or as in the list */
        const found *x = &f->file[i];
        const char *name = f->paths + x->path;
        int64_t figure[5] = {x->size, x->seconds, x->nanoseconds, class_of[x->label], x->split};
        lk_digest_update(d, name, strlen(name) + 1);
        lk_digest_update(d, figure, sizeof figure);
    }
    lk_digest_text(d, l->digest);
    lk_digest_destroy(d);
    return LK_OK;
}

static lk_status make_list(finder *f, lk_image_list *l)
{
    uint16_t *class_of = NULL;
    LK_TRY(lk_label_set_order(&f->labels, f->job->labels != NULL, &class_of));
    l->file = malloc((size_t)f->count * sizeof *l->file);
    lk_status status = l->file ? digest_list(f, class_of, l)
                               : lk_fail(LK_E_SYSTEM, "out of memory for names");
    for (int64_t i = 0; i < f->count && status == LK_OK; i++) {
        const found *x = &f->file[i];
        l->file[i] = (lk_image_file){x->path, hash_of(f->paths + x->path), class_of[x->label],
                                     (uint8_t)(x->split > 0)};
    }
    free(class_of);
    LK_TRY(status);
    l->count = f->count;
    l->paths = f->paths;
    l->path_bytes = f->path_bytes;
    l->classes = f->labels.count;
    l->name = f->labels.name;
    f->paths = NULL;
    f->labels.name = NULL;
    f->labels.count = 0;
    qsort_r(l->file, (size_t)l->count, sizeof *l->file, by_low_bits, l->paths);
    LK_TRY(check_twice(f, l));
    choose_splits(f, l);
    qsort_r(l->file, (size_t)l->count, sizeof *l->file, by_order, l->paths);
    return LK_OK;
}

static lk_status find(finder *f, lk_image_list *list)
{
    struct stat s;
    const char *where = f->job->directory;
    if (stat(where, &s) != 0) return lk_fail_open(where);
    if (!S_ISDIR(s.st_mode))
        return lk_fail(LK_E_INPUT,
                       "%s: expected a folder of images, found a file; name the "
                       "folder it lies in",
                       where);
    LK_TRY(find_splits(f));
    LK_TRY(f->job->labels ? find_in_labels(f) : find_in_folders(f));
    if (f->count == 0 && f->job->labels)
        return lk_fail(LK_E_INPUT,
                       "%s: expected lines 'file,label', found none; is it the right "
                       "file?",
                       f->job->labels);
    if (f->missing == f->count && f->job->labels)
        return lk_fail(LK_E_INPUT,
                       "%s: expected lines 'file,label' with paths relative to %s, "
                       "found none of the files there; is it the right folder?",
                       f->job->labels, where);
    if (f->count == 0)
        return lk_fail(LK_E_INPUT,
                       "%s: expected folders of images, one for each class, found none"
                       "; is it the right folder? --labels takes a list instead",
                       where);
    LK_TRY(lk_import_check_classes(f->job->labels ? f->job->labels : where, f->labels.name,
                                   f->labels.count));
    return make_list(f, list);
}

lk_status lk_image_list_make(const lk_import_images *job, lk_import_result *result,
                             lk_image_list *list)
{
    finder *f = calloc(1, sizeof *f);
    lk_image_list l = {.count = 0};
    if (!f) return lk_fail(LK_E_SYSTEM, "out of memory");
    f->job = job;
    f->result = result;
    lk_status status = find(f, &l);
    free(f->file);
    free(f->paths);
    free(f->heading);
    lk_label_set_clear(&f->labels);
    free(f);
    if (status != LK_OK) {
        lk_image_list_clear(&l);
        return status;
    }
    *list = l;
    return LK_OK;
}

void lk_image_list_clear(lk_image_list *l)
{
    lk_h5_free_texts(l->name, l->classes);
    free(l->file);
    free(l->paths);
    memset(l, 0, sizeof *l);
}
