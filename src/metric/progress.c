#include "metric/progress.h"

#include "base/clock.h"
#include "base/digits.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { BAR = 24 };
#define REDRAW 0.1 /* seconds */

void lk_progress_init(lk_progress *p, FILE *out, bool terminal, int64_t every)
{
    *p = (lk_progress){.out = out, .terminal = terminal, .every = every};
}

static void clear(lk_progress *p)
{
    if (p->visible) fputs("\r\033[K", p->out);
    p->visible = false;
}

static void draw(lk_progress *p, int64_t done, int64_t total, const char *rest)
{
    char bar[BAR + 8], line[256];
    snprintf(line, sizeof line, "%s %s", lk_digits_bar(done, total, BAR, bar), rest);
    struct winsize w = {0};
    if (ioctl(fileno(p->out), TIOCGWINSZ, &w) == 0 && w.ws_col > 1 && w.ws_col < strlen(line))
        line[w.ws_col - 1] = '\0';
    fprintf(p->out, "\r\033[K%s", line);
    fflush(p->out);
    p->visible = true;
}

static void show(lk_progress *p, int64_t done, int64_t total, const char *rest)
{
    if (p->terminal) {
        draw(p, done, total, rest);
    } else {
        fprintf(p->out, "%s\n", rest);
        fflush(p->out);
    }
}

void lk_progress_step(lk_progress *p, int64_t done, int64_t total, double loss, double rate,
                      double step_seconds)
{
    double now = lk_clock_seconds();
    bool last = done == total;
    if (p->terminal ? !last && now - p->drawn < REDRAW
                    : !last && done != 1 && done % p->every != 0)
        return;
    p->drawn = now;
    char rest[200], left[32], speed[32];
    lk_digits_duration((double)(total - done) * step_seconds, left);
    snprintf(rest, sizeof rest, "step %lld/%lld  loss %.4f  %s samples/s  ETA %s",
             (long long)done, (long long)total, loss, lk_digits_rate(rate, speed), left);
    show(p, done, total, rest);
}

void lk_progress_count(lk_progress *p, int64_t done, int64_t total, const char *what)
{
    double now = lk_clock_seconds();
    if (p->began <= 0 || done < p->first) {
        p->began = now;
        p->first = done;
        if (!p->terminal) p->drawn = now;
    }
    if (now - p->drawn < (p->terminal ? REDRAW : (double)p->every)) return;
    p->drawn = now;
    char rest[200], left[32] = "-", speed[32];
    double rate = now > p->began ? (double)(done - p->first) / (now - p->began) : 0;
    if (rate > 0) lk_digits_duration((double)(total - done) / rate, left);
    snprintf(rest, sizeof rest, "%lld/%lld %s  %s/s  ETA %s", (long long)done, (long long)total,
             what, lk_digits_rate(rate, speed), left);
    show(p, done, total, rest);
}

void lk_progress_line(lk_progress *p, const char *text)
{
    clear(p);
    fprintf(p->out, "%s\n", text);
    fflush(p->out);
}

void lk_progress_end(lk_progress *p)
{
    clear(p);
    fflush(p->out);
}
