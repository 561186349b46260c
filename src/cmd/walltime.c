/* When the job ends: --walltime, and what Slurm tells. */
#include "base/clock.h"
#include "cmd/cmd.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* "90s", "30m", "1.5h", "2d". */
static bool with_unit(const char *text, double *seconds)
{
    static const struct {
        char unit;
        double seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    size_t digits = strspn(text, "0123456789.");
    char *end = NULL;
    double value = isdigit((unsigned char)*text) ? strtod(text, &end) : -1;
    if (!(value > 0 && value < 1e9) || end != text + digits || end[0] == '\0' || end[1] != '\0')
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (*end == units[i].unit) *seconds = value * units[i].seconds;
    return *seconds > 0;
}

/* "1:30:00", "2-00:00:00", as Slurm prints it. */
static bool as_clock(const char *text, double *seconds)
{
    unsigned d = 0, h, m, s;
    int used = 0;
    bool days = strchr(text, '-') != NULL;
    for (const char *p = text; *p; p++)
        if (!isdigit((unsigned char)*p) && *p != ':' && *p != '-') return false;
    if (strlen(text) > 20) return false;
    int found = days ? sscanf(text, "%6u-%6u:%2u:%2u%n", &d, &h, &m, &s, &used) - 1
                     : sscanf(text, "%6u:%2u:%2u%n", &h, &m, &s, &used);
    if (found != 3 || text[used] != '\0' || m > 59 || s > 59) return false;
    *seconds = ((d * 24.0 + h) * 60 + m) * 60 + s;
    return *seconds > 0;
}

bool lk_cmd_duration(const char *text, double *seconds)
{
    double value = 0;
    if (!with_unit(text, &value) && !as_clock(text, &value)) return false;
    *seconds = value;
    return true;
}

lk_status lk_cmd_deadline(double walltime, double *deadline)
{
    double now = lk_clock_seconds(), end = walltime > 0 ? now + walltime : 0;
    const char *slurm = getenv("SLURM_JOB_END_TIME"); /* seconds since 1970 */
    if (slurm && *slurm) {
        double then = strtod(slurm, NULL);
        if (slurm[strspn(slurm, "0123456789")] != '\0' || strlen(slurm) > 18 || !(then > 0))
            return lk_fail(LK_E_INPUT, "SLURM_JOB_END_TIME: expected seconds since 1970, found "
                           "'%.40s'; unset it", slurm);
        double left = then - (double)time(NULL);
        if (left <= 0)
            return lk_fail(LK_E_REQUEUE, "the end of this Slurm job (SLURM_JOB_END_TIME) was %.0f "
                           "s ago: nothing is started. Start it again in a new job, or unset "
                           "SLURM_JOB_END_TIME if that was another job's", -left);
        if (end <= 0 || now + left < end) end = now + left;
    }
    *deadline = end;
    return LK_OK;
}
