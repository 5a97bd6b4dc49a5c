/* vmm-guest launch FD: makes a container's first process, or one more inside, and becomes its command.
 *
 * Everything was decided before: the memory behind FD is the plan, numbers (64 bits) and words (length, bytes,
 * NUL; length -1 is NULL) in the very order in which they are read here. containers/encoding.py writes it.
 * This process makes the one in the new namespaces, tells its pid and ends; that one works the plan off.
 * An error goes through a pipe as (phase, step, errno, path), and the engine words it.
 *
 * From pivot_root(2) or setns(2) on files may be somebody else's: nothing here looks up a user, a locale or a
 * library, and paths that an image could turn are walked by openat2(2) without magic links.
 */
#define _GNU_SOURCE
#include "launch.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { PLAN_VERSION = 1 };
enum { SETUP, CGROUP, PRIVILEGES, CWD, EXEC, TERMINAL, JOIN, NAMESPACES, CLOCKS, INTERPRETER }; /* containers/encoding.py */
enum { HELPER = -2, ROOT = -3, SLOTS = 1024 };                                                  /* containers/mounts.py */
enum { REPORT_FD = 3, STATUS_FD, TERMINAL_FD, ARRANGED, ABOVE = 16 };
enum { MAX_INTERPRETERS = 6 }; /* binfmt_script: the kernel gives up before that many */

static const unsigned long HARDENED = MS_NOSUID | MS_NODEV | MS_NOEXEC;

/* ---- the plan ---- */

static const char *plan;

static long long number(void) {
    long long value;
    memcpy(&value, plan, sizeof value);
    plan += sizeof value;
    return value;
}

static const char *bytes(long long *length) {
    const char *first = (*length = number(), plan);
    if (*length < 0) return NULL;
    plan += *length + 1;
    return first;
}

static const char *word(void) {
    long long length;
    return bytes(&length);
}

/* A counted list of words, with the NULL that execve(2) wants behind it. */
static const char **words(void) {
    long long count = number();
    const char **list = calloc((size_t)count + 1, sizeof *list);
    for (long long i = 0; list && i < count; i++) list[i] = word();
    if (!list) _exit(125);
    return list;
}

/* ---- telling what went wrong ---- */

static struct { int phase, step, error; } progress;
static int report_fd;
static const char *instead; /* the path to tell, where the one that failed is only a part of it */

static _Noreturn void fail(const char *path) {
    char message[sizeof progress + PATH_MAX];
    progress.error = errno;
    path = instead ? instead : path ? path : "";
    size_t length = strnlen(path, PATH_MAX);
    memcpy(message, &progress, sizeof progress);
    memcpy(message + sizeof progress, path, length);
    (void)!write(report_fd, message, sizeof progress + length);
    _exit(125);
}

static int ok(long result, const char *path) {
    if (result < 0) fail(path);
    return (int)result;
}

static _Noreturn void refuse(int error, const char *path) {
    errno = error;
    fail(path);
}

static void begin(int phase) {
    progress.phase = phase;
    progress.step = 0;
}

/* ---- paths inside ---- */

static int open_resolved(const char *path, int flags, unsigned long long resolve) {
    struct open_how how = {.flags = (unsigned int)(flags | O_CLOEXEC), .resolve = resolve};
    return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
}

/* Where "/" is the new root already only a magic link could lead out of it, and none is followed. */
static int open_inside(const char *path, int flags) {
    return open_resolved(path, flags, RESOLVE_NO_MAGICLINKS);
}

static void make_in(int directory, const char *name, bool is_directory) {
    int made = is_directory ? mkdirat(directory, name, 0755) : mknodat(directory, name, S_IFREG | 0644, 0);
    if (made < 0 && errno != EEXIST) fail(name); /* a link that leads nowhere: the caller finds that out */
}

/* A descriptor of `target`, made with its parents where the image lacks it: by their descriptors, no path unguarded. */
static int made(const char *target, bool is_directory) {
    char path[PATH_MAX];
    size_t used = 0, length;
    int here = ok(open_inside("/", O_PATH), "/");
    for (const char *rest = target + strspn(target, "/"); *rest; rest += length + strspn(rest + length, "/")) {
        length = strcspn(rest, "/");
        if (used + length + 2 > sizeof path) refuse(ENAMETOOLONG, target);
        path[used++] = '/';
        memcpy(path + used, rest, length);
        path[used + length] = 0;
        int there = open_inside(path, O_PATH);
        if (there < 0 && errno == ENOENT) {
            bool is_last = !rest[length + strspn(rest + length, "/")];
            make_in(here, path + used, !is_last || is_directory);
            there = open_inside(path, O_PATH);
        }
        ok(there, path);
        close(here);
        here = there;
        used += length;
    }
    return here;
}

/* Nothing may cover the files of /proc, through a link of the image either (CVE-2023-27561). */
static void refuse_proc(int fd, const char *target) {
    struct stat it, proc;
    ok(fstat(fd, &it), target);
    ok(stat("/proc", &proc), "/proc");
    if (it.st_dev == proc.st_dev) refuse(EXDEV, target);
}

/* ---- the operations of containers.mounts: each reads its own arguments ---- */

static long long arguments; /* of the operation at hand */
static int trees[SLOTS];    /* mounts that are attached nowhere yet */

static int *tree_in(long long slot) {
    if (slot < ROOT || slot - ROOT >= SLOTS) refuse(E2BIG, NULL);
    return &trees[slot - ROOT];
}

static void do_mount(void) {
    const char *source = word(), *target = word(), *type = word();
    unsigned long flags = (unsigned long)number();
    ok(mount(source, target, type, flags, word()), target);
}

/* Layers by descriptor: their paths together are longer than the page that mount(2) takes. */
static void do_overlay_of_many(void) {
    const char *target = word(), *upper = word();
    char options[4096] = "lowerdir=";
    int opened[sizeof options / sizeof "/proc/self/fd/"], count = 0;
    size_t used = strlen(options);
    for (long long left = arguments - 2; left-- && used < sizeof options; count++) {
        const char *path = word();
        opened[count] = ok(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC), path);
        used += (size_t)snprintf(options + used, sizeof options - used, "%s/proc/self/fd/%d", count ? ":" : "", opened[count]);
    }
    if (used < sizeof options) used += (size_t)snprintf(options + used, sizeof options - used, ",%s", upper);
    if (used >= sizeof options) refuse(E2BIG, target);
    ok(mount("overlay", target, "overlay", 0, options), target);
    while (count--) close(opened[count]);
}

static void do_pivot(void) {
    const char *root = word();
    ok(chdir(root), root);
    ok(syscall(SYS_pivot_root, ".", "."), root); /* pivot_root(2), NOTES: the old root now lies on top of the new one */
}

static void do_detach_old_root(void) {
    ok(umount2(".", MNT_DETACH), "."); /* "." is the new root, what lies on top of it is the old one */
    ok(chdir("/"), "/");
}

/* An image whose /proc is a link would have us hide paths that are not the kernel's (CVE-2019-19921). */
static void do_real_directory(void) {
    const char *path = word();
    if (mkdir(path, 0755) < 0 && errno != EEXIST) fail(path);
    close(ok(open_resolved(path, O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS), path));
}

static void do_mkdir(void) {
    const char *path = word();
    if (mkdir(path, (mode_t)number()) < 0 && errno != EEXIST) fail(path);
}

static void do_mknod(void) {
    const char *path = word();
    mode_t mode = (mode_t)number();
    unsigned int major_number = (unsigned int)number(), minor_number = (unsigned int)number();
    ok(mknod(path, mode | S_IFCHR, makedev(major_number, minor_number)), path);
    ok(chmod(path, mode), path);
}

static void do_touch(void) {
    const char *path = word();
    close(ok(open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644), path));
}

static void do_symlink(void) {
    const char *target = word(), *path = word();
    ok(symlink(target, path), path);
}

static void do_tree(void) {
    int *slot = tree_in(number());
    const char *source = word();
    unsigned long long attributes = (unsigned long long)number();
    struct mount_attr attr = {.attr_set = attributes, .propagation = (unsigned long long)number()};
    *slot = ok(open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE), source);
    ok(mount_setattr(*slot, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr), source);
}

static void do_take_root(void) {
    const char *target = word();
    ok(move_mount(*tree_in(ROOT), "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), target);
    close(*tree_in(ROOT));
}

static void do_place(void) {
    int tree = *tree_in(number());
    const char *target = word();
    struct stat it;
    word(); /* the source is for people */
    ok(fstat(tree, &it), target);
    int where = made(target, S_ISDIR(it.st_mode));
    refuse_proc(where, target);
    ok(move_mount(tree, "", where, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), target);
    close(where);
    close(tree);
}

static void do_tmpfs(void) {
    const char *target = word();
    unsigned long flags = (unsigned long)number();
    char path[64];
    int where = made(target, true);
    refuse_proc(where, target);
    /* mount(2) knows no descriptors but this way; nobody else lives here yet who could swap a link meanwhile */
    snprintf(path, sizeof path, "/proc/self/fd/%d", where);
    ok(mount("tmpfs", path, "tmpfs", flags, word()), target);
    close(where);
}

static void do_write(void) {
    long long length;
    const char *path = word(), *data = bytes(&length);
    int fd = ok(open(path, O_WRONLY | O_CLOEXEC), path);
    ok(write(fd, data, (size_t)length), path);
    close(fd);
}

/* What is not in this kernel needs no hiding. */
static void do_mask_file(void) {
    const char *path = word();
    if (mount("/dev/null", path, NULL, MS_BIND, NULL) < 0 && errno != ENOENT) fail(path);
}

static void do_mask_directories(void) {
    const char *first = NULL; /* one superblock hides them all */
    while (arguments--) {
        const char *path = word();
        int hidden = first ? mount(first, path, NULL, MS_BIND, NULL)
                           : mount("tmpfs", path, "tmpfs", HARDENED | MS_RDONLY, "size=0,mode=755");
        if (hidden < 0 && errno != ENOENT) fail(path);
        if (hidden == 0 && !first) first = path;
    }
}

static void do_read_only(void) {
    const char *path = word();
    if (mount(path, path, NULL, MS_BIND | MS_REC, NULL) < 0) {
        if (errno != ENOENT) fail(path);
        return;
    }
    ok(mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | HARDENED, NULL), path);
}

static void do_read_only_root(void) {
    ok(mount(NULL, "/", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL), "/");
}

static void do_sethostname(void) {
    const char *name = word();
    ok(sethostname(name, strlen(name)), name);
}

static void do_loopback_up(void) {
    struct ifreq nic = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = ok(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "lo");
    ok(ioctl(fd, SIOCSIFFLAGS, &nic), "lo");
    close(fd);
}

static void do_unshare(void) {
    ok(unshare((int)number()), NULL);
}

static const struct {
    const char *name;
    void (*effect)(void);
} operations[] = {
    {"mount", do_mount},
    {"overlay_of_many", do_overlay_of_many},
    {"pivot", do_pivot},
    {"detach_old_root", do_detach_old_root},
    {"real_directory", do_real_directory},
    {"mkdir", do_mkdir},
    {"mknod", do_mknod},
    {"touch", do_touch},
    {"symlink", do_symlink},
    {"tree", do_tree},
    {"take_root", do_take_root},
    {"place", do_place},
    {"tmpfs", do_tmpfs},
    {"write", do_write},
    {"mask_file", do_mask_file},
    {"mask_directories", do_mask_directories},
    {"read_only", do_read_only},
    {"read_only_root", do_read_only_root},
    {"sethostname", do_sethostname},
    {"loopback_up", do_loopback_up},
    {"unshare", do_unshare},
};

static void perform(int phase) {
    long long steps = number();
    for (begin(phase); progress.step < steps; progress.step++) {
        const char *name = word();
        arguments = number();
        size_t i = 0, known = sizeof operations / sizeof *operations;
        while (i < known && strcmp(operations[i].name, name) != 0) i++;
        if (i == known) refuse(ENOSYS, name);
        operations[i].effect();
    }
}

/* ---- the parts of becoming the command ---- */

static int gate;

/* No word: the engine is gone or gave up, and nobody is left to tell. */
static void wait_for_engine(void) {
    char said;
    if (read(gate, &said, 1) != 1 || said != 'g') _exit(125);
}

/* Nobody inside may trace us or reach this program behind /proc/PID/exe (CVE-2016-9962). */
static void hide(void) {
    ok(prctl(PR_SET_DUMPABLE, 0), NULL);
}

static void become_leader(bool mapped) {
    if (mapped) { /* dumpable still: /proc/PID/uid_map must belong to the user who writes it */
        wait_for_engine();
        ok(setresgid(0, 0, 0), NULL);
        ok(setresuid(0, 0, 0), NULL);
    }
    ok(setsid(), NULL); /* no terminal of the host is ours to push bytes into (TIOCSTI) */
    umask(0);
    for (long long joins = number(); joins--;) ok(setns((int)number(), 0), NULL);
    for (long long kept = number(); kept--;) {
        int *slot = tree_in(number());
        *slot = (int)number();
    }
}

/* A process of one thread that writes "0" moves itself; its pid in another's hand would take a grace period of RCU. */
static void enter_cgroups(void) {
    begin(JOIN);
    for (long long doors = number(); doors--;) ok(write((int)number(), "0", 1), NULL);
    const char *door = word();
    for (long long porches = number(); porches--;) {
        int fd = ok(openat((int)number(), door, O_WRONLY | O_CLOEXEC), door);
        ok(write(fd, "0", 1), door);
        close(fd);
    }
}

/* A terminal of the container's own devpts, of the right size before anybody looks: pty(7), ioctl_tty(2). */
static int make_terminal(int *slave) {
    unsigned short rows = (unsigned short)number(), columns = (unsigned short)number();
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    uid_t owner = (uid_t)number();
    const char *path = "/dev/pts/ptmx";
    struct stat it;
    int unlocked = 0, master = ok(open_resolved(path, O_RDWR | O_NOCTTY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS), path);
    ok(fstat(master, &it), path);
    if (it.st_rdev != makedev(5, 2)) refuse(ENXIO, path); /* something else was put there (CVE-2025-52565) */
    ok(ioctl(master, TIOCSPTLCK, &unlocked), path);
    ok(ioctl(master, TIOCSWINSZ, &size), path);
    *slave = ok(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC), path); /* no path of the container's is walked */
    ok(fchown(*slave, owner, (gid_t)-1), path);
    if (number()) { /* the first terminal of its devpts is the container's console */
        close(ok(open("/dev/console", O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600), "/dev/console"));
        ok(mount("/dev/pts/0", "/dev/console", NULL, MS_BIND, NULL), "/dev/console");
    }
    return master;
}

static void send_descriptor(int socket_fd, int fd) {
    char said = 'g', control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec data = {&said, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    ok(sendmsg(socket_fd, &message, 0), NULL);
}

/* The command's three descriptors, and for the helper the master. */
static void open_terminal(int *wanted) {
    begin(TERMINAL);
    for (int fd = 0; fd < 3; fd++) wanted[fd] = (int)number();
    wanted[TERMINAL_FD] = -1;
    if (!number()) return;
    int slave, master = make_terminal(&slave), master_to = (int)number();
    if (master_to < 0) {
        close(slave); /* the helper asks the master for it again, as its child's controlling terminal */
        wanted[TERMINAL_FD] = master;
        return;
    }
    send_descriptor(master_to, master);
    ok(ioctl(slave, TIOCSCTTY, 0), NULL);
    for (int fd = 0; fd < 3; fd++) wanted[fd] = slave;
}

/* Enter it, made where it is missing; a link into /proc/self/fd would lead out (CVE-2024-21626). */
static void enter_working_directory(void) {
    char where[PATH_MAX];
    const char *path = word();
    begin(CWD);
    instead = path;
    int fd = made(path, true);
    ok(fchdir(fd), path);
    close(fd);
    if (!getcwd(where, sizeof where)) fail(path);
    if (where[0] != '/') refuse(ENOENT, path); /* glibc refuses "(unreachable)" itself, other libraries do not */
    instead = NULL;
}

/* What a script names after its #!: the kernel's binfmt_script ends the word at a blank. */
static const char *script_interpreter(char *head) {
    head[2 + strcspn(head + 2, "\n")] = 0;
    char *name = head + 2 + strspn(head + 2, " \t\r\v\f");
    name[strcspn(name, " \t\r\v\f")] = 0;
    return *name ? name : NULL;
}

/* What a dynamic program names in its PT_INTERP (elf(5)), read into `name`. */
static const char *elf_interpreter(int fd, const char *head, char name[PATH_MAX]) {
    Elf64_Ehdr elf;
    Elf64_Phdr part;
    memcpy(&elf, head, sizeof elf);
    for (off_t i = 0; i < elf.e_phnum; i++) {
        if (pread(fd, &part, sizeof part, (off_t)elf.e_phoff + i * (off_t)sizeof part) != sizeof part) return NULL;
        if (part.p_type != PT_INTERP) continue;
        if (part.p_filesz < 2 || part.p_filesz > PATH_MAX) return NULL;
        if (pread(fd, name, part.p_filesz, (off_t)part.p_offset) != (ssize_t)part.p_filesz) return NULL;
        return name[part.p_filesz - 1] ? NULL : name;
    }
    return NULL;
}

static const char *interpreter_of(int fd, char name[PATH_MAX]) {
    char head[257];
    ssize_t got = read(fd, head, sizeof head - 1);
    if (got < 2) return NULL; /* a directory too: execve(2) says it best */
    head[got] = 0;
    if (head[0] == '#' && head[1] == '!') {
        const char *found = script_interpreter(head);
        return found ? strcpy(name, found) : NULL;
    }
    bool is_elf = got >= (ssize_t)sizeof(Elf64_Ehdr) && memcmp(head, ELFMAG, SELFMAG) == 0 && head[EI_CLASS] == ELFCLASS64;
    return is_elf ? elf_interpreter(fd, head, name) : NULL;
}

static char missing[PATH_MAX]; /* the interpreter that a candidate named and that is not there */

/* Whether the file is there, and its interpreters are. One that is a magic link, or has one as its interpreter, ends the
 * start: `#!/proc/self/exe` would run a program of the host's inside and leave it open for writing (CVE-2019-5736). */
static bool runnable(const char *path) {
    char name[PATH_MAX];
    for (int i = 0; path && i < MAX_INTERPRETERS; i++) {
        int fd = open_inside(path, O_RDONLY | O_NONBLOCK);
        if (fd < 0 && errno == ELOOP) fail(path);
        if (fd < 0 && errno != ENOENT && errno != ENOTDIR) return true;
        if (fd < 0 && i > 0 && !*missing) strcpy(missing, path);
        if (fd < 0) return false;
        path = interpreter_of(fd, name);
        close(fd);
    }
    return true;
}

/* Those of the candidates that are there; the first stays where none is: execve(2) says why. */
static const char **find_command(void) {
    const char **list = words(), **found = list, *first = *list;
    begin(EXEC);
    for (const char **one = list; *one; one++)
        if (runnable(*one)) *found++ = *one;
    if (found == list && *missing) {
        begin(INTERPRETER);
        refuse(ENOENT, missing);
    }
    if (found == list) *found++ = first;
    *found = NULL;
    return list;
}

/* 0 to 2 for the command, 3 to 5 for the helper, everything else closed by execve(2). Returns where the helper is. */
static int arrange(int *wanted) {
    wanted[REPORT_FD] = report_fd;
    wanted[STATUS_FD] = (int)number();
    int helper = number() ? *tree_in(HELPER) : -1;
    /* Out of the way first: dup2(2) overwrites what may still be wanted. */
    if (helper >= 0) helper = ok(fcntl(helper, F_DUPFD_CLOEXEC, ABOVE), NULL);
    for (int fd = 0; fd < ARRANGED; fd++)
        if (wanted[fd] >= 0) wanted[fd] = ok(fcntl(wanted[fd], F_DUPFD_CLOEXEC, ABOVE), NULL);
    ok(close_range(REPORT_FD, ~0U, CLOSE_RANGE_CLOEXEC), NULL);
    for (int fd = 0; fd < ARRANGED; fd++)
        if (wanted[fd] >= 0) ok(dup3(wanted[fd], fd, fd < REPORT_FD || helper >= 0 ? 0 : O_CLOEXEC), NULL);
    report_fd = REPORT_FD;
    return helper;
}

static void filter_calls(const char *program, long long length) {
    struct sock_fprog filter = {(unsigned short)(length / (long long)sizeof(struct sock_filter)),
                                (struct sock_filter *)(uintptr_t)program};
    if (length) ok(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), NULL);
}

/* Inheritable stays empty (CVE-2022-29162). */
static void keep_capabilities(unsigned long long kept) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2] = {{(unsigned int)kept, (unsigned int)kept, 0},
                                             {(unsigned int)(kept >> 32), (unsigned int)(kept >> 32), 0}};
    ok(syscall(SYS_capset, &header, sets), NULL);
}

static void become_user(uid_t uid, gid_t gid) {
    size_t count = (size_t)number();
    gid_t *groups = calloc(count + 1, sizeof *groups);
    for (size_t i = 0; groups && i < count; i++) groups[i] = (gid_t)number();
    if (number()) ok(groups ? setgroups(count, groups) : -1, NULL);
    ok(setresgid(gid, gid, gid), NULL);
    ok(setresuid(uid, uid, uid), NULL); /* to a user other than 0 this clears permitted and effective */
}

/* Give up everything else. Order matters: each call needs a right that the next ones take away. */
static void give_up_rights(void) {
    long long length;
    begin(PRIVILEGES);
    const char *program = bytes(&length);
    bool no_new_rights = number();
    /* seccomp(2): without no_new_privs a filter takes CAP_SYS_ADMIN, which is about to go */
    if (!no_new_rights) filter_calls(program, length);
    unsigned long long kept = (unsigned long long)number();
    for (long long one = number(); one >= 0; one--)
        if (!(kept >> one & 1)) ok(prctl(PR_CAPBSET_DROP, one), NULL);
    uid_t uid = (uid_t)number();
    gid_t gid = (gid_t)number();
    become_user(uid, gid);
    if (uid == 0) keep_capabilities(kept);
    ok(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), NULL);
    if (no_new_rights) {
        ok(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), NULL);
        filter_calls(program, length);
    }
}

/* End if the engine dies, or is dead already: then nobody reads the report (poll(2), POLLERR). */
static void leave_with_engine(int death_signal) {
    struct pollfd report = {.fd = report_fd};
    if (!death_signal) return;
    ok(prctl(PR_SET_PDEATHSIG, death_signal), NULL); /* after setresuid(2), which clears it */
    if (poll(&report, 1, 0) > 0) _exit(125);
}

/* execve(2) of the first path that exists; the most telling error is reported. */
static _Noreturn void execute(int helper, const char **candidates) {
    char *const *argv = (char *const *)words(), *const *env = (char *const *)words();
    sigset_t none;
    int error = ENOENT;
    const char *failed = *candidates;
    begin(EXEC);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (helper >= 0) {
        syscall(SYS_execveat, helper, "", argv, env, AT_EMPTY_PATH);
        fail(NULL);
    }
    for (; *candidates; candidates++) {
        execve(*candidates, argv, env);
        if (errno == ENOENT || errno == ENOTDIR) continue;
        error = errno;
        failed = *candidates;
    }
    refuse(error, failed);
}

static _Noreturn void become(bool mapped) {
    int wanted[ARRANGED];
    become_leader(mapped);
    perform(SETUP);
    wait_for_engine();
    hide();
    enter_cgroups();
    perform(CGROUP);
    open_terminal(wanted);
    enter_working_directory();
    const char **candidates = find_command();
    int helper = arrange(wanted);
    umask((mode_t)number());
    if (number() && ok(fork(), NULL)) _exit(0); /* pid 1 inside adopts and reaps it: nobody out here has to stay */
    give_up_rights();
    leave_with_engine((int)number());
    execute(helper, candidates);
}

/* ---- the process in between ---- */

static const char *read_plan(int fd) {
    struct stat it;
    if (fstat(fd, &it) < 0) return NULL;
    const char *memory = mmap(NULL, (size_t)it.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* The offsets can be written only before the first process is in (time_namespaces(7)). */
static void shift_clocks(const char *offsets) {
    const char *path = "/proc/self/timens_offsets";
    if (!offsets) return;
    begin(CLOCKS);
    ok(unshare(CLONE_NEWTIME), NULL);
    int fd = ok(open(path, O_WRONLY | O_CLOEXEC), path);
    ok(write(fd, offsets, strlen(offsets)), path);
    close(fd);
}

/* Run again from a mount of this file that nobody can write through: in the pid namespace of others /proc/PID/exe is in
 * their reach, if they have the right to look (CVE-2019-5736). */
int shelter(char *plan_fd) {
    struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};
    char *argv[] = {"vmm-guest", "launch", plan_fd, NULL}, *env[] = {NULL};
    int self = open_tree(AT_FDCWD, "/proc/self/exe", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (self < 0 || mount_setattr(self, "", AT_EMPTY_PATH, &read_only, sizeof read_only) < 0) return 125;
    syscall(SYS_execveat, self, "", argv, env, AT_EMPTY_PATH);
    return 125;
}

int launch(int plan_fd) {
    plan = read_plan(plan_fd);
    if (!plan || number() != PLAN_VERSION) return 125;
    report_fd = (int)number();
    gate = (int)number();
    int started = (int)number();
    unsigned long flags = (unsigned long)number();
    int pid_namespace = (int)number();
    shift_clocks(word());
    begin(NAMESPACES);
    bool mapped = number();
    if (!mapped) hide(); /* with maps it waits for the second gate: slirp4netns opens our namespaces as the same user */
    if (pid_namespace >= 0) ok(setns(pid_namespace, CLONE_NEWPID), NULL);
    int pid = ok(syscall(SYS_clone, flags, NULL, NULL, NULL, NULL), NULL);
    if (pid == 0) {
        close(started); /* held here, it would keep the engine waiting for a pid that never comes */
        become(mapped);
    }
    return write(started, &pid, sizeof pid) == sizeof pid ? 0 : 125;
}
