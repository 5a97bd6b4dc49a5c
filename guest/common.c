/* What every part of the helper needs: time, words, files. */
#define _GNU_SOURCE
#include "guest.h"

#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void say(const char *form, ...) {
    va_list words;
    va_start(words, form);
    vdprintf(2, form, words);
    va_end(words);
}

char *slurp(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    size_t size = 0, room = 4096;
    char *text = malloc(room + 1);
    for (ssize_t n; text && (n = read(fd, text + size, room - size)) > 0;)
        if ((size += (size_t)n) == room) text = realloc(text, (room *= 2) + 1);
    close(fd);
    if (text) text[size] = 0;
    return text;
}

void make_parents(const char *path) {
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%s", path);
    for (char *at = part + 1; *at; at++)
        if (*at == '/') *at = 0, mkdir(part, 0755), *at = '/';
}

bool number(const char *text, uint32_t *value) {
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (!*text || *end || n > 0xfffffffe) return false;
    *value = (uint32_t)n;
    return true;
}
