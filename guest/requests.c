/* What else the host asks for, each answered by an errno. */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/random.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int random_fd = -1;

int reseed(const char *bytes, uint32_t length) {
    struct { int entropy_bits, size; char bytes[256]; } pool = {(int)length * 8, (int)length, {0}};
    if (!length || length > sizeof pool.bytes) return EINVAL;
    memcpy(pool.bytes, bytes, length);
    return ioctl(random_fd, RNDADDENTROPY, &pool) < 0 || ioctl(random_fd, RNDRESEEDCRNG) < 0 ? errno : 0;
}

/* mode, uid, gid (u32 each), PATH NUL, bytes: replaced as a whole, parents made. */
int put_file(char *payload, uint32_t length) {
    char *path = payload + 12, *end = length > 12 ? memchr(path, 0, length - 12) : NULL, temp[PATH_MAX];
    uint32_t meta[3];
    if (!end || path[0] != '/' || strlen(path) > PATH_MAX - 8) return EINVAL;
    memcpy(meta, payload, sizeof meta);
    make_parents(path);
    snprintf(temp, sizeof temp, "%s.vmm~", path);
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), error = 0;
    size_t left = (size_t)(payload + length - ++end);
    if (fd < 0) return errno;
    for (ssize_t n; left && !error; end += n, left -= (size_t)n)
        if ((n = write(fd, end, left)) <= 0) error = n ? errno : EIO, n = 0;
    if (!error && (fchown(fd, meta[1], meta[2]) < 0 || fchmod(fd, meta[0] & 07777) < 0)) error = errno;
    close(fd);
    if (!error && rename(temp, path) < 0) error = errno;
    if (error) unlink(temp);
    return error;
}

/* Signal the daemon whose pid file it is: a shell for `kill -HUP` costs 100 ms in a fresh clone. */
int signal_pidfile(uint32_t signal_number, const char *path) {
    char *text = slurp(path);
    long pid = text ? strtol(text, NULL, 10) : 0;
    int error = !text ? errno : pid <= 1 ? EINVAL : kill((pid_t)pid, (int)signal_number) < 0 ? errno : 0;
    free(text);
    return error;
}

static void warm_file(const char *path, char *interpreter) {
    char block[32 << 10], *end;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t total = 0;
    for (ssize_t n; fd >= 0 && total < 32 << 20 && (n = read(fd, block, sizeof block)) > 0; total += (size_t)n) {
        /* PT_INTERP lies in the first page of every ELF that has one: the path of the dynamic loader */
        char *found = total || !interpreter ? NULL : memmem(block, (size_t)(n < 4096 ? n : 4096), "/ld-", 4);
        if (!found) continue;
        while (found > block && found[-1]) found--;
        if ((end = memchr(found, 0, 256))) snprintf(interpreter, PATH_MAX, "%.*s", (int)(end - found), found);
    }
    if (fd >= 0) close(fd);
}

/* Read a program and its loader into the page cache, so that clones need not; PATH and name as words. */
int warm(const char *dirs, const char *name) {
    char path[PATH_MAX], loader[PATH_MAX] = "";
    for (;; dirs++) {
        size_t n = strcspn(dirs, ":");
        snprintf(path, sizeof path, "%.*s%s%s", strchr(name, '/') ? 0 : (int)n, dirs, strchr(name, '/') ? "" : "/", name);
        if (access(path, X_OK) == 0) break;
        if (!*(dirs += n)) return ENOENT;
    }
    warm_file(path, loader);
    if (*loader == '/') warm_file(loader, NULL);
    return 0;
}

int set_time(const char *payload, uint32_t length) {
    uint64_t ns;
    if (length != 8) return EINVAL;
    memcpy(&ns, payload, 8);
    struct timespec now = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    return clock_settime(CLOCK_REALTIME, &now) < 0 ? errno : 0;
}

/* systemd(1): SIGRTMIN+4 powers off, +5 reboots. As pid 1 we end it ourselves; -no-reboot makes a reset the end. */
