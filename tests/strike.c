/* Send a signal to one rank of a program under mpirun, at a chosen time.
 *
 *   strike SIGNAL TOKEN PID RANK BEFORE DIRECTORY [AFTER]
 *
 * Waits for the process 'lockstep' of that rank with STRIKE=TOKEN in its environment, then for
 * BEFORE microseconds; with AFTER then for a file *.h5.part in DIRECTORY, a save under way, and for
 * AFTER microseconds. Prints "PID save" or "PID" where a *.h5.part was or was not there just after
 * the signal was sent, and "over" where process PID, which started it all, or the rank ended
 * before.
 *
 * SIGNAL BURST is SIGTERM every 2 ms for half a second.
 *
 *   strike GONE TOKEN
 *
 * Waits until no such process of any rank is left, and prints the seconds; "never" after 90. */
#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void pause_for(long microseconds)
{
    struct timespec t = {microseconds / 1000000, microseconds % 1000000 * 1000};
    nanosleep(&t, NULL);
}

static bool read_file(const char *pid, const char *name, char *text, size_t size, size_t *length)
{
    char path[600];
    snprintf(path, sizeof path, "/proc/%s/%s", pid, name);
    FILE *f = fopen(path, "r");
    *length = f ? fread(text, 1, size - 1, f) : 0;
    text[*length] = '\0';
    if (f) fclose(f);
    return *length > 0;
}

static bool has(const char *environment, size_t n, const char *name, const char *value)
{
    char wanted[100];
    snprintf(wanted, sizeof wanted, "%s=%s", name, value);
    for (const char *p = environment; p < environment + n; p += strlen(p) + 1)
        if (strcmp(p, wanted) == 0) return true;
    return false;
}

/* The environment of a process, from whichever of its threads is still there: after a SIGKILL the
 * first may be gone while another ends the system call it is in, the rename of a save perhaps. */
static bool read_environment(const char *pid, char *text, size_t size, size_t *n)
{
    char path[300];
    if (read_file(pid, "environ", text, size, n)) return true;
    snprintf(path, sizeof path, "/proc/%.20s/task", pid);
    DIR *all = opendir(path);
    bool found = false;
    for (struct dirent *e; all && !found && (e = readdir(all));) {
        if (e->d_name[0] <= '0' || e->d_name[0] > '9') continue;
        snprintf(path, sizeof path, "task/%.20s/environ", e->d_name);
        found = read_file(pid, path, text, size, n);
    }
    if (all) closedir(all);
    return found;
}

/* rank NULL: any. A zombie has no environment. */
static bool is_rank(const char *pid, const char *token, const char *rank)
{
    static char text[262144];
    size_t n;
    return read_file(pid, "comm", text, sizeof text, &n) && strcmp(text, "lockstep\n") == 0 &&
           read_environment(pid, text, sizeof text, &n) && has(text, n, "STRIKE", token) &&
           (!rank || has(text, n, "OMPI_COMM_WORLD_RANK", rank));
}

static pid_t find_rank(const char *token, const char *rank)
{
    pid_t found = 0;
    DIR *all = opendir("/proc");
    for (struct dirent *e; all && !found && (e = readdir(all));)
        if (e->d_name[0] > '0' && e->d_name[0] <= '9' && is_rank(e->d_name, token, rank))
            found = (pid_t)atol(e->d_name);
    if (all) closedir(all);
    return found;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t); /* that of files */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int wait_gone(const char *token)
{
    double begun = now();
    while (find_rank(token, NULL) && now() - begun < 90) pause_for(20000);
    if (find_rank(token, NULL)) printf("never\n");
    else printf("%.2f\n", now() - begun);
    return 0;
}

/* A *.h5.part that no earlier process has left: written to since `begun`, of the real clock. */
static bool saving(const char *directory, double begun)
{
    bool found = false;
    DIR *all = opendir(directory);
    for (struct dirent *e; all && !found && (e = readdir(all));) {
        size_t n = strlen(e->d_name);
        struct stat s;
        found = n > 8 && strcmp(e->d_name + n - 8, ".h5.part") == 0 &&
                fstatat(dirfd(all), e->d_name, &s, 0) == 0 &&
                (double)s.st_mtim.tv_sec + 1e-9 * (double)s.st_mtim.tv_nsec > begun - 0.02;
    }
    if (all) closedir(all);
    return found;
}

/* Neither gone nor a zombie. */
static bool alive(long pid)
{
    char name[32], text[600], *end;
    size_t n;
    snprintf(name, sizeof name, "%ld", pid);
    return read_file(name, "stat", text, sizeof text, &n) && (end = strrchr(text, ')')) &&
           strncmp(end, ") Z", 3) != 0;
}

static int number_of(const char *name)
{
    static const struct {
        const char *name;
        int number;
    } all[] = {{"USR1", SIGUSR1}, {"USR2", SIGUSR2}, {"TERM", SIGTERM}, {"INT", SIGINT},
               {"HUP", SIGHUP},   {"STOP", SIGSTOP}, {"KILL", SIGKILL}, {"BURST", SIGTERM}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(name, all[i].name) == 0) return all[i].number;
    return -1;
}

static void burst(pid_t pid)
{
    for (double begun = now(); now() - begun < 0.5 && kill(pid, SIGTERM) == 0;) pause_for(2000);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "GONE") == 0) return wait_gone(argv[2]);
    if (argc < 7 || number_of(argv[1]) < 0) return 2;
    const char *token = argv[2], *directory = argv[6];
    double begun = now();
    long starter = atol(argv[3]);
    pid_t pid = 0;
    while (!pid && alive(starter)) {
        pid = find_rank(token, argv[4]);
        if (!pid) pause_for(2000);
    }
    pause_for(atol(argv[5]));
    while (pid && argc > 7 && !saving(directory, begun) && alive(pid)) pause_for(100);
    if (argc > 7) pause_for(atol(argv[7]));
    if (!pid || !alive(pid) || kill(pid, number_of(argv[1])) != 0) {
        printf("over\n");
        return 0;
    }
    if (strcmp(argv[1], "BURST") == 0) burst(pid);
    printf("%ld%s\n", (long)pid, saving(directory, begun) ? " save" : "");
    return 0;
}
