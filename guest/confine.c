/* `confine`: the words of setpriv(1) that a machine's QEMU runs under, without that program's dynamic linking and its
 * 600 system calls, and with a look at whether who asked still lives. */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *value(const char *word, const char *name) {
    size_t n = strlen(name);
    return strncmp(word, name, n) == 0 ? word + n : NULL;
}

static int set_groups(const char *list) {
    gid_t groups[64];
    size_t count = 0;
    for (char *end; *list && count < 64; list = *end ? end + 1 : end) groups[count++] = (gid_t)strtoul(list, &end, 10);
    return setgroups(count, groups);
}

static int drop_bounding_set(void) {
    int capability = 0;
    while (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0) capability++;
    return capability && errno == EINVAL ? 0 : -1; /* beyond the kernel's last one */
}

static int drop_inheritable(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0) return -1;
    data[0].inheritable = data[1].inheritable = 0;
    return (int)syscall(SYS_capset, &header, data);
}

/* A signal for the death of a caller that had died before the kernel was told would never come. */
static int die_with(pid_t caller) {
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) return -1;
    if (getppid() != caller) _exit(128 + SIGKILL);
    return 0;
}

/* The hang-up of this socket's other end kills us; one that came before the kernel was told would not. */
static int die_at_hang_up(int leash) {
    struct pollfd end = {leash, 0, 0};
    if (fcntl(leash, F_SETOWN, getpid()) < 0 || fcntl(leash, F_SETSIG, SIGKILL) < 0) return -1;
    if (fcntl(leash, F_SETFL, O_ASYNC) < 0 || poll(&end, 1, 0) < 0) return -1;
    if (end.revents) _exit(128 + SIGKILL);
    return 0;
}

static int obey(const char *word) {
    const char *told;
    if ((told = value(word, "--groups="))) return set_groups(told);
    if (strcmp(word, "--clear-groups") == 0) return setgroups(0, NULL);
    if (strcmp(word, "--bounding-set=-all") == 0) return drop_bounding_set();
    if (strcmp(word, "--inh-caps=-all") == 0) return drop_inheritable();
    if ((told = value(word, "--regid="))) return setresgid((gid_t)atol(told), (gid_t)atol(told), (gid_t)atol(told));
    if ((told = value(word, "--reuid="))) return setresuid((uid_t)atol(told), (uid_t)atol(told), (uid_t)atol(told));
    if (strcmp(word, "--no-new-privs") == 0) return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if ((told = value(word, "--dies-with="))) return die_with((pid_t)atol(told));
    if ((told = value(word, "--leash="))) return die_at_hang_up(atoi(told));
    return errno = EINVAL, -1;
}

/* Words are obeyed in their order: groups and capabilities first, while there is the right to; see vmm/confine.py. */
int confine(char **words) {
    for (; *words && strncmp(*words, "--", 2) == 0; words++)
        if (strcmp(*words, "--") == 0) {
            words++;
            break;
        } else if (obey(*words) < 0) {
            die("cannot obey %s", *words);
        }
    if (!*words) return hold_usage();
    execvp(*words, words);
    say("vmm-guest: cannot execute %s: %s\n", *words, strerror(errno));
    return errno == ENOENT ? 127 : 126;
}
