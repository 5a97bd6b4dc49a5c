/* `init` and `hold`: in containers, and for the bench; signals go on to the command, its status comes back. */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct {
    bool mark;
    int status_fd, report_fd, terminal;
} hold = {false, -1, -1, -1};

/* The host's engine reads (phase, step, errno); phase 4 is "execute" there (containers/encoding.py). */
static void report_exec_failure(const char *command, int error) {
    int report[3] = {4, 0, error};
    if (hold.report_fd < 0) say("vmm-guest: cannot execute %s: %s\n", command, strerror(error));
    else if (write(hold.report_fd, report, sizeof report) < 0) _exit(125);
    _exit(error == ENOENT ? 127 : 126);
}

static pid_t start_child(char **argv) {
    if (hold.mark) say("vmm-init %llu\n", (unsigned long long)clock_ns(CLOCK_MONOTONIC));
    int slave = hold.terminal >= 0 ? ioctl(hold.terminal, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC) : -1;
    pid_t pid = vfork();
    if (pid) {
        if (slave >= 0) close(slave);
        return pid;
    }
    sigset_t none;
    if (slave >= 0) {
        setsid();
        ioctl(slave, TIOCSCTTY, 0);
        for (int fd = 0; fd < 3; fd++) dup2(slave, fd);
    } else {
        setpgid(0, 0);
        if (isatty(0)) tcsetpgrp(0, getpid()); /* SIGTTOU is blocked still */
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(argv[0], argv);
    report_exec_failure(argv[0], errno);
    _exit(126);
}

/* One way of the terminal, as much as there is now. False when that side is gone. */
static bool carry(int from, int to) {
    char bytes[4096];
    ssize_t got = read(from, bytes, sizeof bytes);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    for (ssize_t done = 0, now; done < got; done += now)
        if ((now = write(to, bytes + done, got - done)) < 0) return errno == EINTR;
    return got > 0;
}

/* Wait for a signal; with a terminal, carry its bytes meanwhile: nobody outside needs to be alive for that. */
static int next_signal(int signals) {
    struct signalfd_siginfo info;
    struct pollfd ready[3] = {{signals, POLLIN, 0}, {hold.terminal, POLLIN, 0}, {0, POLLIN, 0}};
    bool input = true, output = true;
    for (;;) {
        ready[1].fd = output ? hold.terminal : -1;
        ready[2].fd = input && hold.terminal >= 0 ? 0 : -1;
        if (poll(ready, 3, -1) < 0 && errno != EINTR) return -1;
        if (ready[1].revents) output = carry(hold.terminal, 1) || !(ready[1].revents & POLLHUP);
        if (ready[2].revents) input = carry(0, hold.terminal);
        if (ready[0].revents & POLLIN && read(signals, &info, sizeof info) == sizeof info) return (int)info.ssi_signo;
    }
}

static void drain_terminal(void) {
    struct pollfd ready = {hold.terminal, POLLIN, 0};
    while (hold.terminal >= 0 && poll(&ready, 1, 0) > 0 && ready.revents & POLLIN)
        if (!carry(hold.terminal, 1)) return;
}

/* Forward signals, reap orphans, and return the status of the command itself, 128+signal when a signal ended it. */
static int mind(pid_t child, int signals) {
    for (;;) {
        int status, signal_number = next_signal(signals);
        if (signal_number != SIGCHLD) {
            if (signal_number > 0) kill(child, signal_number);
            continue;
        }
        for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
            if (pid == child) return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
}

/* A FIFO's last words die with its last holder: stay until they were read, but not for ever. The others end now. */
static void let_drain(void) {
    kill(-1, SIGKILL);
    for (int waited_ms = 0; waited_ms < 5000; waited_ms++) {
        int out = 0, err = 0;
        if (ioctl(1, FIONREAD, &out) < 0) out = 0;
        if (ioctl(2, FIONREAD, &err) < 0) err = 0;
        if (out == 0 && err == 0) return;
        poll(NULL, 0, 1);
    }
}

int hold_usage(void) {
    return say("usage: vmm-guest init|hold [--mark] [--status-fd N] [--report-fd N] [--tty N] -- COMMAND [ARG...]\n"), 125;
}

static char **hold_options(char **argv) {
    for (; *argv && strcmp(*argv, "--") != 0; argv++) {
        int *value = strcmp(*argv, "--status-fd") == 0   ? &hold.status_fd
                     : strcmp(*argv, "--report-fd") == 0 ? &hold.report_fd
                     : strcmp(*argv, "--tty") == 0       ? &hold.terminal
                                                         : NULL;
        if (strcmp(*argv, "--mark") == 0) hold.mark = true;
        else if (!value || !argv[1]) return NULL;
        else fcntl(*value = atoi(*++argv), F_SETFD, FD_CLOEXEC);
    }
    return *argv && argv[1] ? argv + 1 : NULL;
}

int init_or_hold(char **argv) {
    char **command = hold_options(argv);
    if (!command) return hold_usage();
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    int signals = signalfd(-1, &all, SFD_CLOEXEC);
    pid_t child = start_child(command);
    if (child < 0 || signals < 0) return say("vmm-guest: cannot fork: %s\n", strerror(errno)), 125;
    if (hold.report_fd >= 0) close(hold.report_fd);
    int status = mind(child, signals);
    drain_terminal();
    if (hold.status_fd >= 0) dprintf(hold.status_fd, "exit %d\n", status);
    if (hold.status_fd >= 0 && getpid() == 1) let_drain();
    return status;
}
