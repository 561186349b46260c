/* Work in a child process, where a library may end it: MPI_Init does not return from a setting that
 * it cannot follow, it exits. */
#include "cmd/cmd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int to_parent = -1;              /* in the child */
static volatile sig_atomic_t child = 0; /* in the parent: whom to pass a signal to */

void lk_cmd_alive(void)
{
    if (to_parent >= 0 && write(to_parent, "", 1) == 1) close(to_parent);
    to_parent = -1;
}

/* mpirun ends all when one dies: the parent waits for the child's end and reports it. */
static void pass_on(int signal)
{
    if (child > 0) kill((pid_t)child, signal);
}

static int wait_for(pid_t pid)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return LK_E_SYSTEM;
    child = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int lk_cmd_child(int (*work)(void *context), void *context, bool *alive)
{
    int ends[2];
    char byte;
    struct sigaction action = {.sa_handler = pass_on};
    pid_t parent = getpid(), pid;
    *alive = true;
    /* not for the daemon that MPI may start and leave behind */
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return work(context);
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        close(ends[0]);
        to_parent = ends[1];
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) raise(SIGKILL); /* it has died meanwhile */
        exit(work(context));
    }
    close(ends[1]);
    if (pid > 0) {
        child = pid;
        sigaction(SIGTERM, &action, NULL);
        int code = wait_for(pid);
        *alive = read(ends[0], &byte, 1) == 1;
        close(ends[0]);
        return code;
    }
    close(ends[0]);
    return work(context);
}
