/* CSV files. Cells are gathered in one buffer as offsets and become pointers when the record is
 * whole, for the buffer may move. */
#include "io/csv.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RECORD = 1 << 24, BUFFER = 1 << 16 };

lk_status lk_csv_open(lk_csv *c, const char *path)
{
    *c = (lk_csv){.path = path, .line = 1, .next_line = 1};
    c->file = fopen(path, "rb");
    if (!c->file)
        return lk_fail_open(path);
    setvbuf(c->file, NULL, _IOFBF, BUFFER);
    if (getc(c->file) == 0xEF && getc(c->file) == 0xBB && getc(c->file) == 0xBF)
        c->next = 3; /* a byte order mark */
    return lk_csv_seek(c, c->next, 1);
}

void lk_csv_close(lk_csv *c)
{
    if (c->file) fclose(c->file);
    free(c->cell);
    free(c->text);
    memset(c, 0, sizeof *c);
}

lk_status lk_csv_seek(lk_csv *c, int64_t at, int64_t line)
{
    if (fseeko(c->file, (off_t)at, SEEK_SET) != 0)
        return lk_fail(LK_E_SYSTEM, "%s: cannot read: %s; check the disk it lies on", c->path,
                       strerror(errno));
    c->next = at;
    c->next_line = line;
    return LK_OK;
}

static int take(lk_csv *c)
{
    int x = getc_unlocked(c->file);
    if (x != EOF) c->next++;
    if (x == '\n') c->next_line++;
    return x;
}

static int peek(lk_csv *c)
{
    int x = getc_unlocked(c->file);
    if (x != EOF) ungetc(x, c->file);
    return x;
}

static lk_status put(lk_csv *c, int x)
{
    if (c->used == c->room) {
        size_t room = c->room ? 2 * c->room : 4096;
        char *text = room <= MAX_RECORD ? realloc(c->text, room) : NULL;
        if (!text && room > MAX_RECORD)
            return lk_fail(LK_E_INPUT, "%s:%lld: expected a line of at most %d bytes, found a "
                           "longer one; is a quote left open?", c->path, (long long)c->line,
                           MAX_RECORD);
        if (!text) return lk_fail(LK_E_SYSTEM, "out of memory");
        c->text = text;
        c->room = room;
    }
    c->text[c->used++] = (char)x;
    return LK_OK;
}

/* Note that a cell begins at the end of the text. */
static lk_status begin_cell(lk_csv *c)
{
    if (c->cells == c->cell_room) {
        int room = c->cell_room ? 2 * c->cell_room : 64;
        char **cell = realloc(c->cell, (size_t)room * sizeof *cell);
        if (!cell) return lk_fail(LK_E_SYSTEM, "out of memory");
        c->cell = cell;
        c->cell_room = room;
    }
    c->cell[c->cells++] = (char *)(uintptr_t)c->used;
    return LK_OK;
}

static bool ends(int x) { return x == ',' || x == '\n' || x == EOF; }

/* After an opening quote; *stop: what ended the cell. */
static lk_status quoted(lk_csv *c, int *stop)
{
    for (;;) {
        int x = take(c);
        if (x == EOF || x == '\0')
            return lk_fail(LK_E_INPUT,
                           "%s:%lld: expected a closing quote, found %s; close it, or "
                           "double a quote that is text",
                           c->path, (long long)c->line,
                           x == EOF ? "the end of the file" : "a NUL byte");
        if (x == '"' && peek(c) != '"') break;
        if (x == '"') take(c);
        LK_TRY(put(c, x));
    }
    int x = take(c);
    while (x == ' ' || x == '\t' || x == '\r') x = take(c);
    if (!ends(x))
        return lk_fail(LK_E_INPUT,
                       "%s:%lld: expected a comma after a closing quote, found other "
                       "text; double a quote that is text",
                       c->path, (long long)c->line);
    *stop = x;
    return put(c, '\0');
}

static lk_status plain(lk_csv *c, int x, int *stop)
{
    size_t begin = c->used;
    for (; !ends(x); x = take(c)) {
        if (x == '\0')
            return lk_fail(LK_E_INPUT, "%s:%lld: expected text, found a NUL byte; is it a CSV "
                           "file?", c->path, (long long)c->line);
        LK_TRY(put(c, x));
    }
    while (c->used > begin && strchr(" \t\r", c->text[c->used - 1])) c->used--;
    *stop = x;
    return put(c, '\0');
}

/* One record, of one empty cell for an empty line. *stop: '\n' or EOF. */
static lk_status record(lk_csv *c, int *stop)
{
    c->at = c->next;
    c->line = c->next_line;
    c->cells = 0;
    c->used = 0;
    do {
        LK_TRY(begin_cell(c));
        int x = take(c);
        while (x == ' ' || x == '\t') x = take(c);
        LK_TRY(x == '"' ? quoted(c, stop) : plain(c, x, stop));
    } while (*stop == ',');
    for (int i = 0; i < c->cells; i++) c->cell[i] = c->text + (uintptr_t)c->cell[i];
    return LK_OK;
}

lk_status lk_csv_next(lk_csv *c, bool *end)
{
    int stop = '\n';
    bool empty = true;
    while (empty && stop != EOF) {
        LK_TRY(record(c, &stop));
        empty = c->cells == 1 && c->cell[0][0] == '\0';
    }
    if (ferror(c->file))
        return lk_fail(LK_E_SYSTEM, "%s: cannot read: %s; check the disk it lies on", c->path,
                       strerror(errno));
    *end = empty;
    return LK_OK;
}

bool lk_csv_number(const char *cell, float *value)
{
    char *end;
    if (strpbrk(cell, "xXnN")) return false; /* hexadecimal, nan, inf */
    float x = strtof(cell, &end);
    while (*end == ' ' || *end == '\t') end++;
    if (end == cell || *end || !isfinite(x)) return false;
    *value = x;
    return true;
}
