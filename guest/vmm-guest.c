/* vmm-guest: one static program, five places.
 *
 *   /init of a machine's initramfs   loads modules, mounts the root, then serves the channel as pid 1 (command
 *                                    mode) or beside the image's own init (system mode, vmm.init=)
 *   vmm-guest init [--mark] -- CMD   reaper for containers and for the bench: forwards signals, gives the status on
 *   vmm-guest launch FD              makes a container and becomes its command (launch.c)
 *   vmm-guest confine [...] -- CMD   drops a program's rights before it begins (confine.c)
 *   vmm-guest hold [...] -- CMD      the same as init, and writes the status to a descriptor, with a terminal if asked
 *
 * The image needs nothing: no shell, no libc, no /dev. The frames are told in PROTOCOL.md beside this file.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"
#include "launch.h"
#include "raw.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the frames are little-endian");

enum { VERSION = 1, MAX_PAYLOAD = 256 << 10, CHUNK = 32 << 10, WINDOW = 64 << 10, PORTS = 16, EXECS = 64, LOOKS = 1 << 20 };
enum { HELLO = 1, EXEC, STDIN, RESIZE, SIGNAL, HOSTNAME, TIME, RESEED, NETWORK, PUT, PIDFILE, SYNC, POWEROFF, WARM, POISE };
enum { WELCOME = 0x81, STARTED, STDOUT, STDERR, CREDIT, EXIT, DONE };
enum { RECORD = 13 }; /* bytes before each record of the log */
enum { TTY = 1, WITH_STDIN = 2, LOG = 4, END = 8, MAKE_CWD = 16 };

struct header {
    char magic[4];
    uint8_t type, zero;
    uint16_t check;
    uint32_t id, length;
};

struct port {
    int fd;
    bool readable, writable, greeted;
    uint32_t in_len, out_at, out_len;
    char in[sizeof(struct header) + MAX_PAYLOAD + 1];
    char out[sizeof(struct header) + CHUNK + 8192]; /* one frame of output, and room for replies beside it */
};

struct exec {
    struct port *port; /* NULL: the host that asked is gone */
    struct port *sink; /* where output goes: the port, the log, or NULL: read and dropped */
    pid_t pid;         /* 0: the slot is free */
    uint32_t id;
    uint16_t flags;
    int in, out, err; /* our ends; -1 closed. A terminal has in == out, and no err */
    int ended[2];     /* out and err at their end: closed once the host knows the status */
    char *ring;       /* WINDOW bytes of stdin that the command has not read yet */
    uint32_t ring_at, ring_len;
    bool in_ended, exited;
    int status;
    int64_t drain_until_ns;
};

static struct port ports[PORTS], log_port = {.fd = -1};
static struct exec execs[EXECS];
static int port_count, watched; /* an epoll instance of all that we wait for */
int system_mode;
static int null_fd;
uint64_t began_boottime_ns;

/* ---- frames ---- */

static uint16_t header_check(const struct header *h) {
    return (uint16_t)(h->type * 257u ^ h->id ^ h->id >> 16 ^ h->length ^ h->length >> 16 ^ 0x5aa5u);
}

static uint32_t out_room(const struct port *p) { return (uint32_t)sizeof p->out - p->out_len; }

/* Complete a frame whose payload lies at the end of the out buffer already. */
static void seal(struct port *p, uint8_t type, uint32_t id, uint32_t length) {
    struct header h = {.magic = "vmG\1", .type = type, .id = id, .length = length};
    h.check = header_check(&h);
    memcpy(p->out + p->out_len, &h, sizeof h);
    p->out_len += (uint32_t)sizeof h + length;
}

static void emit(struct port *p, uint8_t type, uint32_t id, const void *payload, uint32_t length) {
    if (!p || out_room(p) < sizeof(struct header) + length) return; /* callers keep 4 KiB of room for replies */
    memcpy(p->out + p->out_len + sizeof(struct header), payload, length);
    seal(p, type, id, length);
}

static void answer(struct port *p, uint8_t type, uint32_t id, int32_t first, int32_t error, const char *words) {
    char payload[512];
    size_t n = strnlen(words, sizeof payload - 8);
    memcpy(payload, &first, 4);
    memcpy(payload + 4, &error, 4);
    memcpy(payload + 8, words, n);
    emit(p, type, id, payload, 8 + (uint32_t)n);
}

static void done(struct port *p, uint32_t id, int error, const char *what) { answer(p, DONE, id, 0, error, what); }

static bool flush_port(struct port *p) {
    bool moved = false;
    while (p->out_at < p->out_len && p->writable) {
        ssize_t n = write(p->fd, p->out + p->out_at, p->out_len - p->out_at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) p->writable = false; /* the edge-triggered epoll tells when it is again */
        else p->out_at += (uint32_t)n, moved = true;
    }
    if (p->out_at == p->out_len) p->out_at = p->out_len = 0;
    return moved;
}

static bool fill_port(struct port *p) {
    uint32_t room = (uint32_t)sizeof p->in - 1 - p->in_len;
    if (!p->readable || !room) return false;
    ssize_t n = read(p->fd, p->in + p->in_len, room);
    if (n <= 0) { /* 0: the host hung up; what it had begun to say is void. The next host begins with HELLO */
        if (n == 0) p->in_len = 0;
        p->readable = n < 0 && errno == EINTR;
        return false;
    }
    p->in_len += (uint32_t)n;
    return true;
}

/* ---- ports ---- */

/* Opens the port of that name, or of the first new name with the prefix; vport0pN is the host's numbering, not a name. */
static int open_named(const char *wanted, size_t length) {
    char path[300], *name;
    DIR *dir = opendir("/sys/class/virtio-ports");
    int fd = -1;
    for (struct dirent *one; dir && fd < 0 && (one = readdir(dir));) {
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", one->d_name);
        if (one->d_name[0] == '.' || !(name = slurp(path))) continue;
        name[strcspn(name, "\n")] = 0;
        snprintf(path, sizeof path, "/dev/%s", one->d_name);
        if (strncmp(name, wanted, length) == 0) fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC); /* EBUSY: ours already */
        free(name);
    }
    if (dir) closedir(dir);
    return fd;
}

static int open_port(const char *name) { return open_named(name, strlen(name) + 1); }

static void watch(int fd, uint32_t events, void *what) {
    struct epoll_event event = {.events = events, .data.ptr = what};
    epoll_ctl(watched, EPOLL_CTL_ADD, fd, &event);
}

/* Edge-triggered: a port whose host hung up is always ready, and would keep us running. */
static void watch_port(struct port *p, int fd) {
    p->fd = fd;
    p->readable = p->writable = true;
    watch(fd, EPOLLIN | EPOLLOUT | EPOLLHUP | EPOLLET, p);
}

static void find_ports(void) {
    for (int fd; port_count < PORTS && (fd = open_named("vmm.guest", 9)) >= 0;) watch_port(&ports[port_count++], fd);
}

/* Ports are plugged in when they are wanted: a host that was quick may ask for one that is still on its way. */
static int await_port(const char *name) {
    int fd = open_port(name);
    for (int tries = 0; fd < 0 && tries < 5000; tries++) usleep(1000), fd = open_port(name);
    return fd;
}

static struct port *open_log(void) {
    int fd = log_port.fd < 0 ? await_port("vmm.log") : -1;
    if (fd >= 0) watch_port(&log_port, fd);
    return log_port.fd < 0 ? NULL : &log_port;
}

/* ---- commands ---- */

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static void close_ends(struct exec *e) {
    if (e->in != e->out) close_fd(&e->in);
    e->in = -1;
    close_fd(&e->out);
    close_fd(&e->err);
}

/* To close a pipe is much code, cold in a clone: it can wait. A terminal's end is a hangup inside. */
static void retire(struct exec *e, int *fd) {
    if (e->in == *fd) e->in = -1;
    if (e->flags & TTY) return close_fd(fd);
    e->ended[fd == &e->err] = *fd;
    *fd = -1;
}

/* So can the last ends of the pipes that the first command did not want. */
static int later[8], later_count;

static void close_later(int fd) { later[later_count++] = fd; }

static void forget(struct exec *e) {
    close_ends(e);
    while (later_count) close(later[--later_count]);
    close_fd(&e->ended[0]);
    close_fd(&e->ended[1]);
    free(e->ring);
    *e = (struct exec){.in = -1, .out = -1, .err = -1, .ended = {-1, -1}};
}

/* The host that started it is gone: a terminal hangs up, pipes are read and dropped so that nothing blocks. */
static void orphan(struct exec *e) {
    if (e->sink == e->port) e->sink = NULL;
    e->port = NULL;
    if (e->flags & TTY && !e->sink) close_ends(e);
    else if (!(e->flags & TTY)) close_fd(&e->in);
}

static struct exec *find_exec(const struct port *p, uint32_t id) {
    for (struct exec *e = execs; e < execs + EXECS; e++)
        if (e->pid && (id ? e->port == p && e->id == id : (e->flags & END) != 0)) return e;
    return NULL;
}

struct command {
    char **argv, **env, *cwd, *user;
    uint16_t flags, rows, cols;
    struct user who;
    int child[3]; /* the command's ends of its descriptors */
    const char *failed_at; /* set by the child, which shares our memory until it executes */
    int failed_errno;
};

/* Edge-triggered: whose turn it is finds `work` out, which tries all until nothing moves. */
static int watch_ends(const struct exec *e) {
    if (e->in >= 0 && e->in != e->out) watch(e->in, EPOLLOUT | EPOLLET, NULL);
    watch(e->out, (e->in == e->out ? EPOLLIN | EPOLLOUT : EPOLLIN) | EPOLLET, NULL);
    if (e->err >= 0) watch(e->err, EPOLLIN | EPOLLET, NULL);
    return 0;
}

static int open_terminal(struct command *c, struct exec *e) {
    struct winsize size = {.ws_row = c->rows, .ws_col = c->cols};
    int locked = 0;
    e->out = e->in = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (e->out < 0 || ioctl(e->out, TIOCSPTLCK, &locked) < 0) return -1;
    ioctl(e->out, TIOCSWINSZ, &size);
    c->child[0] = ioctl(e->out, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    c->child[1] = c->child[2] = c->child[0];
    return c->child[0] < 0 ? -1 : watch_ends(e);
}

static int open_pipe(int *ours, int *theirs, bool to_child) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return -1;
    *ours = ends[to_child], *theirs = ends[!to_child];
    return fcntl(*ours, F_SETFL, O_NONBLOCK);
}

/* The spare: a process that shares our memory, as a child of vfork(2) does, and waits for its command since before a
 * machine was frozen: a clone, whose code is all cold, need not make one. What was opened later is not in its table. */
static struct {
    pid_t pid; /* 0: there is none */
    int ours[3], theirs[3], null; /* stdin, stdout, stderr */
    int go;                       /* a futex: its command is there */
    struct command command;       /* with words that stay: we go on while it is on its way to them */
    const struct exec *exec;      /* until that is over */
} spare;

/* How often we look for the host before we sleep again: a machine that is frozen looking need not wake up in its clones. */
static int poised;

/* A detached command must be known to execute before its host turns away. */
static bool fits_spare(const struct command *c) { return spare.pid && !(c->flags & (TTY | LOG)); }

static int open_spare(struct command *c, struct exec *e) {
    memcpy(c->child, spare.theirs, sizeof c->child);
    if (c->flags & WITH_STDIN) e->in = spare.ours[0], close(spare.null);
    else c->child[0] = spare.null, close_later(spare.ours[0]), close_later(spare.theirs[0]);
    e->out = spare.ours[1];
    e->err = spare.ours[2];
    if (e->in >= 0) watch(e->in, EPOLLOUT | EPOLLET, NULL); /* out and err are watched from before */
    return 0;
}

static int open_stdio(struct command *c, struct exec *e) {
    if (c->flags & TTY) return open_terminal(c, e);
    if (fits_spare(c)) return open_spare(c, e);
    if (!(c->flags & WITH_STDIN)) c->child[0] = fcntl(null_fd, F_DUPFD_CLOEXEC, 3);
    else if (open_pipe(&e->in, &c->child[0], true) < 0) return -1;
    if (open_pipe(&e->out, &c->child[1], false) < 0 || open_pipe(&e->err, &c->child[2], false) < 0) return -1;
    return watch_ends(e);
}

static const char *variable(char **env, const char *name) {
    size_t n = strlen(name);
    for (; *env; env++)
        if (strncmp(*env, name, n) == 0 && (*env)[n] == '=') return *env + n + 1;
    return NULL;
}

/* DIR/NAME. printf(3) is much code, cold in a clone; what a clone's first command needs does without. */
static bool join_path(char path[PATH_MAX], const char *dir, size_t n, const char *name) {
    size_t length = strlen(name) + 1;
    if (n + 1 + length > PATH_MAX) return false;
    memcpy(path, dir, n);
    if (n) path[n++] = '/';
    memcpy(path + n, name, length);
    return true;
}

static int execute(struct command *c, const char *path) {
    return (int)-raw(SYS_execve, (long)path, (long)c->argv, (long)c->env, 0);
}

/* execvpe(3) with the PATH of the command, not ours; EACCES on the way is remembered, as a shell does. */
static int exec_by_path(struct command *c) {
    char path[PATH_MAX];
    const char *dirs = variable(c->env, "PATH");
    if (!dirs) dirs = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    if (strchr(c->argv[0], '/') || !*c->argv[0]) return execute(c, c->argv[0]);
    for (int error = ENOENT;; dirs++) {
        size_t n = strcspn(dirs, ":");
        int told = ENAMETOOLONG;
        /* A look costs a clone, whose code is all cold, less than an execve(2) that fails; where kernels cannot, we try. */
        if (join_path(path, dirs, n, c->argv[0])) told = (int)-raw(SYS_faccessat2, AT_FDCWD, (long)path, F_OK, AT_EACCESS);
        if (told == 0 || told == ENOSYS) told = execute(c, path);
        if (told != ENOENT && told != ENOTDIR) error = told;
        if (!*(dirs += n)) return error;
    }
}

static void leave_us(void) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL); /* vfork shares memory, not handlers; an ignored signal would stay so after exec */
    setsid();
}

/* In the child, with our rights until setuid; c->failed_at names the step for the host's error. */
static int become(struct command *c) {
    const struct user *who = &c->who;
    long error = 0;
    c->failed_at = "open the descriptors of";
    for (int fd = 0; fd < 3; fd++)
        if (c->child[fd] != fd && (error = raw(SYS_dup3, c->child[fd], fd, 0, 0)) < 0) return (int)-error;
    if (c->flags & TTY) raw(SYS_ioctl, 0, TIOCSCTTY, 0, 0);
    error = 0, c->failed_at = "take the user of"; /* we are root without groups: what is so already costs nothing */
    if (who->group_count) error = raw(SYS_setgroups, (long)who->group_count, (long)who->groups, 0, 0);
    if (!error && who->gid) error = raw(SYS_setresgid, who->gid, who->gid, who->gid, 0);
    if (!error && who->uid) error = raw(SYS_setresuid, who->uid, who->uid, who->uid, 0);
    if (error) return (int)-error;
    c->failed_at = "enter the working directory of";
    if (*c->cwd && strcmp(c->cwd, "/") && (error = raw(SYS_chdir, (long)c->cwd, 0, 0, 0)) < 0) return (int)-error;
    c->failed_at = "execute";
    return exec_by_path(c);
}

static int be_spare(void *unused) {
    (void)unused;
    leave_us();
    while (!__atomic_load_n(&spare.go, __ATOMIC_ACQUIRE))
        raw(SYS_futex, (long)&spare.go, FUTEX_WAIT_PRIVATE, 0, 0);
    spare.command.failed_errno = become(&spare.command);
    _exit(127);
}

static void make_spare(void) {
    static char stack[32 << 10] __attribute__((aligned(16)));
    if (spare.pid || !untouched) return;
    spare.null = fcntl(null_fd, F_DUPFD_CLOEXEC, 3);
    for (int fd = 0; fd < 3; fd++)
        if (open_pipe(&spare.ours[fd], &spare.theirs[fd], fd == 0) < 0) return; /* nothing is lost but time */
    for (int fd = 1; fd < 3; fd++) watch(spare.ours[fd], EPOLLIN | EPOLLET, NULL);
    spare.pid = clone(be_spare, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL);
    if (spare.pid < 0) spare.pid = 0;
}

/* Without a command: a terminal cannot be given to it, as it was opened later. */
static void drop_spare(void) {
    kill(spare.pid, SIGKILL);
    waitpid(spare.pid, NULL, 0);
    for (int fd = 0; fd < 3; fd++) close(spare.ours[fd]), close(spare.theirs[fd]);
    close(spare.null);
    spare.pid = 0;
}

/* We do not wait until it executes, which would have to be told: where it cannot, its end is the word (`finish`). */
static pid_t spend_spare(struct command *c, const struct exec *e) {
    pid_t pid = spare.pid;
    spare.command = *c, spare.exec = e, spare.pid = 0;
    __atomic_store_n(&spare.go, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &spare.go, FUTEX_WAKE_PRIVATE, 1);
    for (int fd = c->flags & WITH_STDIN ? 1 : 0; fd < 3; fd++) close_later(c->child[fd]), c->child[fd] = -1;
    return pid;
}

static pid_t fork_for(struct command *c) {
    pid_t pid = vfork();
    if (pid) return pid;
    leave_us();
    c->failed_errno = become(c);
    _exit(127);
}

static pid_t spawn(struct command *c, const struct exec *e) {
    if (fits_spare(c)) return spend_spare(c, e);
    pid_t pid = fork_for(c);
    if (pid > 0 && c->failed_errno) waitpid(pid, NULL, 0);
    if (pid < 0) c->failed_at = "fork for", c->failed_errno = errno;
    return c->failed_errno ? 0 : pid;
}

static void close_child_ends(struct command *c) {
    for (int fd = 2; fd >= 0; fd--)
        if (c->child[fd] >= 0 && (fd == 0 || c->child[fd] != c->child[fd - 1])) close(c->child[fd]);
}

static void answer_failure(struct port *p, uint32_t id, const struct command *c) {
    int status = strcmp(c->failed_at, "execute") ? 125 : c->failed_errno == ENOENT ? 127 : 126;
    answer(p, EXIT, id, status, c->failed_errno, c->failed_at);
}

static void start(struct port *p, struct exec *e, uint32_t id, struct command *c) {
    char payload[12];
    e->pid = 0, e->id = id, e->port = p, e->flags = c->flags;
    e->sink = c->flags & LOG ? open_log() : p;
    e->ring = c->flags & (WITH_STDIN | TTY) ? malloc(WINDOW) : NULL;
    if (spare.pid && !fits_spare(c)) drop_spare();
    if (c->flags & MAKE_CWD && strcmp(c->cwd, "/")) make_parents(c->cwd), mkdir(c->cwd, 0755);
    if (!resolve_user(c->user, &c->who)) c->failed_at = "find in /etc/passwd and /etc/group the user of", c->failed_errno = ENOENT;
    else if (open_stdio(c, e) < 0) c->failed_at = "open the descriptors of", c->failed_errno = errno;
    else e->pid = spawn(c, e);
    close_child_ends(c);
    if (!e->pid) {
        answer_failure(p, id, c);
        return forget(e);
    }
    uint32_t pid = (uint32_t)e->pid;
    uint64_t now = clock_ns(CLOCK_BOOTTIME);
    memcpy(payload, &pid, 4);
    memcpy(payload + 4, &now, 8);
    emit(p, STARTED, id, payload, sizeof payload);
}

static uint32_t fnv1a(const char *bytes, uint32_t n) {
    uint32_t hash = 2166136261u;
    while (n--) hash = (hash ^ (uint8_t)*bytes++) * 16777619u;
    return hash;
}

/* `count` strings into `list`; returns what follows them, NULL when the payload is too short. */
static char *strings(char *at, char *end, char **list, int count) {
    for (int i = 0; i < count; i++) {
        list[i] = at;
        if (!at || !(at = memchr(at, 0, (size_t)(end - at)))) return NULL;
        at++;
    }
    list[count] = NULL;
    return at;
}

static void on_exec(struct port *p, uint32_t id, char *payload, uint32_t length) {
    uint32_t sum = 0;
    uint16_t head[5] = {0}; /* flags rows cols argc envc */
    if (length >= 14) memcpy(&sum, payload, 4), memcpy(head, payload + 4, 10);
    struct exec *e = execs;
    while (e < execs + EXECS && e->pid) e++;
    if (length < 14 || sum != fnv1a(payload + 4, length - 4) || !head[3])
        return answer(p, EXIT, id, 125, EBADMSG, "read the request of");
    if (e == execs + EXECS) return answer(p, EXIT, id, 125, EAGAIN, "find a free slot for");
    struct { struct user who; char home[280], *list[]; } *kept;
    kept = malloc(sizeof *kept + (head[3] + head[4] + 10u) * sizeof(char *) + length);
    if (!kept) return answer(p, EXIT, id, 125, ENOMEM, "find room for");
    char **list = kept->list, *two[3] = {0}, **env = list + head[3] + 1;
    char *words = memcpy(env + head[4] + 9, payload, length), *end = words + length;
    char *at = strings(strings(words + 14, end, two, 2), end, list, head[3]);
    bool lent = spare.pid;
    if (!at || !strings(at, end, env, head[4])) {
        answer(p, EXIT, id, 125, EBADMSG, "read the request of");
    } else {
        struct command c = {.argv = list, .env = env, .cwd = two[1], .user = two[0], .child = {-1, -1, -1}};
        c.flags = head[0], c.rows = head[1], c.cols = head[2];
        if (!variable(env, "HOME") && resolve_user(c.user, &kept->who)) {
            env[head[4]] = strcat(strcpy(kept->home, "HOME="), kept->who.home), env[head[4] + 1] = NULL;
        }
        start(p, e, id, &c);
        poised = 0, untouched = false;
    }
    if (!(lent && spare.exec)) free(kept); /* else the spare may not have read it yet; once in a machine's life */
}

static void on_stdin(struct exec *e, const char *bytes, uint32_t length) {
    if (!e || !e->ring) return;
    if (!length) e->in_ended = true;
    if (length > WINDOW - e->ring_len) length = WINDOW - e->ring_len; /* a host beyond its credit loses its own bytes */
    for (uint32_t i = 0; i < length; i++) e->ring[(e->ring_at + e->ring_len++) % WINDOW] = bytes[i];
}

static bool feed(struct exec *e) {
    uint32_t run = WINDOW - e->ring_at, taken = 0;
    if (e->in < 0 || !e->ring || (e->port && out_room(e->port) < 64)) return false;
    if (e->ring_len) {
        ssize_t n = write(e->in, e->ring + e->ring_at, e->ring_len < run ? e->ring_len : run);
        if (n < 0 && errno != EAGAIN && errno != EINTR) taken = e->ring_len, close_fd(&e->in); /* it reads no more */
        if (n > 0) taken = (uint32_t)n;
        e->ring_at = (e->ring_at + taken) % WINDOW, e->ring_len -= taken;
        if (taken) emit(e->port, CREDIT, e->id, &taken, 4);
    }
    if (e->in_ended && !e->ring_len && e->in >= 0) {
        if (e->flags & TTY) (void)!write(e->in, "\4", 1); /* the end of input of a terminal is ^D */
        else close_fd(&e->in);
        e->in_ended = false;
    }
    return taken > 0;
}

/* A record of the log: stream (1 or 2), CLOCK_REALTIME ns, length, bytes. */
static void seal_record(struct port *p, uint8_t stream, uint32_t length) {
    uint64_t now = clock_ns(CLOCK_REALTIME);
    p->out[0] = (char)stream;
    memcpy(p->out + 1, &now, 8);
    memcpy(p->out + 9, &length, 4);
    p->out_len = RECORD + length;
}

/* One frame of output at most, and only when the last one has left: the command waits for a slow host, we hold 32 KiB. */
static bool drain(struct exec *e, int *fd, uint8_t type) {
    static char dropped[CHUNK];
    struct port *p = e->sink;
    if (*fd < 0 || (p && p->out_len)) return false;
    ssize_t n = read(*fd, p ? p->out + (p == &log_port ? RECORD : sizeof(struct header)) : dropped, CHUNK);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n <= 0) return retire(e, fd), true; /* end of file; of a terminal: EIO */
    if (p == &log_port) seal_record(p, type == STDOUT ? 1 : 2, (uint32_t)n);
    else if (p) seal(p, type, e->id, (uint32_t)n);
    if (p) flush_port(p);
    return true;
}

static void record_status(int status) {
    int fd = await_port("vmm.status");
    if (fd >= 0) dprintf(fd, "exit %d\n", status), close(fd);
}

static void power(uint32_t restart);

static void finish(struct exec *e) {
    bool end = e->flags & END;
    if (end) record_status(e->status);
    if (e == spare.exec && spare.command.failed_errno) answer_failure(e->port, e->id, &spare.command);
    else answer(e->port, EXIT, e->id, e->status, 0, "");
    if (e == spare.exec) spare.exec = NULL;
    if (e->port) flush_port(e->port);
    forget(e);
    if (end) power(1);
}

/* The tty layer moves the last bytes in a work queue of its own, so an empty terminal is not yet a finished one. */
static bool pump(struct exec *e) {
    bool moved = feed(e) | drain(e, &e->out, STDOUT) | drain(e, &e->err, STDERR);
    if (moved || !e->exited || (e->port && e->port->out_len) || (e->sink && e->sink->out_len)) return moved;
    if (e->out >= 0 && (e->flags & TTY) && (int64_t)clock_ns(CLOCK_MONOTONIC) < e->drain_until_ns) return false;
    finish(e);
    return true;
}

/* The next child that ended; with WNOWAIT it stays what it is. */
static bool note_end(int how) {
    siginfo_t end = {0};
    if (waitid(P_ALL, 0, &end, WEXITED | WNOHANG | how) < 0 || !end.si_pid) return false;
    for (struct exec *e = execs; e < execs + EXECS; e++)
        if (e->pid == end.si_pid) {
            e->exited = true;
            e->status = end.si_code == CLD_EXITED ? end.si_status : 128 + end.si_status;
            e->drain_until_ns = (int64_t)clock_ns(CLOCK_MONOTONIC) + 200000000;
        }
    return true;
}

/* ---- what the host asks for ---- */

static void power(uint32_t restart) {
    if (system_mode) {
        kill(1, SIGRTMIN + (restart ? 5 : 4));
        return;
    }
    kill(-1, SIGKILL);
    sync();
    mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
    reboot(restart ? RB_AUTOBOOT : RB_POWER_OFF);
}

static void welcome(struct port *p, uint32_t id, const char *nonce) {
    char payload[48];
    uint32_t head[2] = {VERSION, (uint32_t)system_mode};
    uint64_t clocks[4] = {began_boottime_ns, clock_ns(CLOCK_BOOTTIME), clock_ns(CLOCK_MONOTONIC), clock_ns(CLOCK_REALTIME)};
    memcpy(payload, nonce, 8);
    memcpy(payload + 8, head, 8);
    memcpy(payload + 16, clocks, 32);
    emit(p, WELCOME, id, payload, sizeof payload);
}

static void on_hello(struct port *p, uint32_t id, const char *payload, uint32_t length) {
    if (length != 8) return;
    for (struct exec *e = execs; p->greeted && e < execs + EXECS; e++)
        if (e->pid && e->port == p) orphan(e);
    p->greeted = true;
    if (system_mode) poised = 0;
    welcome(p, id, payload);
}

static void on_signal(struct port *p, uint32_t id, uint32_t number_) {
    struct exec *e = find_exec(p, id);
    /* the group of the command: what a terminal's Ctrl-C and `docker kill` of a shell's child both want */
    if (e && kill(-e->pid, (int)number_) < 0) kill(e->pid, (int)number_);
}

static void on_resize(struct exec *e, const char *payload, uint32_t length) {
    uint16_t rows_cols[2];
    if (!e || !(e->flags & TTY) || length != 4) return;
    memcpy(rows_cols, payload, 4);
    ioctl(e->out, TIOCSWINSZ, &(struct winsize){.ws_row = rows_cols[0], .ws_col = rows_cols[1]});
}

static void dispatch(struct port *p, const struct header *h, char *payload) {
    uint32_t word = 0, n = h->length;
    if (n >= 4) memcpy(&word, payload, 4);
    switch (h->type) {
    case HELLO: return on_hello(p, h->id, payload, n);
    case EXEC: return on_exec(p, h->id, payload, n);
    case STDIN: return on_stdin(find_exec(p, h->id), payload, n);
    case RESIZE: return on_resize(find_exec(p, h->id), payload, n);
    case SIGNAL: return on_signal(p, h->id, word);
    case HOSTNAME: return done(p, h->id, sethostname(payload, n) < 0 ? errno : 0, "set the host name");
    case TIME: return done(p, h->id, set_time(payload, n), "set the clock");
    case RESEED: return done(p, h->id, reseed(payload, n), "reseed the random generator");
    case NETWORK: return done(p, h->id, network(payload), "set the address");
    case PUT: return done(p, h->id, put_file(payload, n), "write the file");
    case PIDFILE: return done(p, h->id, n > 4 ? signal_pidfile(word, payload + 4) : EINVAL, "signal the daemon");
    case WARM: return make_spare(), done(p, h->id, n ? warm(payload, payload + strlen(payload) + 1) : EINVAL, "warm the command");
    case POISE: return (void)(poised = LOOKS), done(p, h->id, 0, "wait");
    case SYNC: return sync(), done(p, h->id, 0, "sync");
    case POWEROFF: return done(p, h->id, 0, "power off"), (void)flush_port(p), power(word);
    default: return done(p, h->id, ENOSYS, "know the request");
    }
}

static bool is_frame(struct header *h, const char *at) {
    memcpy(h, at, sizeof *h);
    return memcmp(h->magic, "vmG\1", 4) == 0 && h->check == header_check(h) && h->length <= MAX_PAYLOAD;
}

/* A new host may come before we saw the old one leave, in the middle of its frame: the HELLO that ends all ends that. */
static bool ends_with_hello(const struct port *p) {
    struct header h;
    return p->in_len >= sizeof h + 8 && is_frame(&h, p->in + p->in_len - sizeof h - 8) && h.type == HELLO && h.length == 8;
}

/* Frames are found by magic and check: what a host left half said is skipped. */
static bool parse(struct port *p) {
    uint32_t at = 0;
    struct header h;
    while (p->in_len - at >= sizeof h && out_room(p) >= 4096) {
        char *frame = p->in + at;
        if (!is_frame(&h, frame)) {
            char *next = memchr(frame + 1, 'v', p->in_len - at - 1);
            at = next ? (uint32_t)(next - p->in) : p->in_len;
            continue;
        }
        if (p->in_len - at < sizeof h + h.length) {
            if (!ends_with_hello(p)) break;
            at = p->in_len - (uint32_t)sizeof h - 8;
            continue;
        }
        char *after = frame + sizeof h + h.length, first_of_next = *after;
        *after = 0; /* words in payloads end here */
        dispatch(p, &h, frame + sizeof h);
        *after = first_of_next;
        at += (uint32_t)sizeof h + h.length;
    }
    memmove(p->in, p->in + at, p->in_len -= at);
    return at > 0;
}

/* ---- the loop ---- */

static int open_uevents(void) {
    struct { uint16_t family, pad; uint32_t pid, groups; } kernel = {AF_NETLINK, 0, 0, 1}; /* sockaddr_nl */
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 15 /* NETLINK_KOBJECT_UEVENT */);
    if (bind(fd, (struct sockaddr *)&kernel, sizeof kernel) < 0) close_fd(&fd);
    return fd;
}

/* Ports get their names one after another, and by hotplug: the kernel tells of each. */
static void read_uevents(int fd) {
    char event[4096];
    bool port = false;
    for (ssize_t n; (n = read(fd, event, sizeof event)) > 0 || (n < 0 && errno == ENOBUFS);)
        port |= n < 0 || memmem(event, (size_t)n, "virtio-ports", 12) != NULL;
    if (port) find_ports();
}

static bool work(void) {
    static unsigned int first; /* whose output goes first changes, so that no command starves another */
    bool moved = flush_port(&log_port);
    for (struct port *p = ports; p < ports + port_count; p++) moved |= flush_port(p) | fill_port(p) | parse(p);
    first++;
    for (unsigned int i = 0; i < EXECS; i++) {
        struct exec *e = &execs[(first + i) % EXECS];
        if (e->pid) moved |= pump(e);
    }
    return moved;
}

/* The host hears of a first end before the kernel takes the process apart, which costs a clone 300 blocks of code. The
 * signal is read before the last look: what ended meanwhile is in it. */
static void bury(int deaths) {
    struct signalfd_siginfo died;
    note_end(WNOWAIT);
    while (work()) {}
    while (read(deaths, &died, sizeof died) > 0) {}
    while (note_end(0)) {}
}

/* Poised, we look again instead of sleeping, until a first command came; in system mode, until a host did. */
static bool looks_again(void) {
    if (!poised) return false;
    poised--;
    for (struct port *p = ports; p < ports + port_count; p++) p->readable = true;
    return true;
}

static int timeout_ms(void) {
    for (struct exec *e = execs; e < execs + EXECS; e++)
        if (e->pid && e->exited) return 20;
    return -1;
}

static void take(const struct epoll_event *event, int *deaths, int *uevents) {
    struct port *p = event->data.ptr; /* NULL: a command's pipe or terminal, of which `work` knows what to do */
    if (event->data.ptr == deaths) return bury(*deaths);
    if (event->data.ptr == uevents) return read_uevents(*uevents);
    if (!p) return;
    p->readable |= (event->events & (EPOLLIN | EPOLLHUP)) != 0;
    p->writable |= (event->events & EPOLLOUT) != 0;
}

_Noreturn void serve(void) {
    struct epoll_event events[PORTS];
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigprocmask(SIG_BLOCK, &children, NULL);
    signal(SIGPIPE, SIG_IGN);
    for (struct exec *e = execs; e < execs + EXECS; e++) forget(e);
    null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    random_fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    untouched = resolve_user("0", &first_root) && !system_mode;
    watched = epoll_create1(EPOLL_CLOEXEC);
    int deaths = signalfd(-1, &children, SFD_NONBLOCK | SFD_CLOEXEC), uevents = open_uevents();
    watch(deaths, EPOLLIN, &deaths);
    watch(uevents, EPOLLIN, &uevents);
    find_ports();
    for (;;) {
        while (work() || looks_again()) {}
        int n = epoll_wait(watched, events, PORTS, timeout_ms());
        for (int i = 0; i < n; i++) take(&events[i], &deaths, &uevents);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && (strcmp(argv[1], "init") == 0 || strcmp(argv[1], "hold") == 0)) return init_or_hold(argv + 2);
    if (argc > 2 && strcmp(argv[1], "launch") == 0) return launch(atoi(argv[2]));
    if (argc > 2 && strcmp(argv[1], "confine") == 0) return confine(argv + 2);
    if (argc > 2 && strcmp(argv[1], "shelter") == 0) return shelter(argv[2]);
    if (getpid() != 1) return hold_usage();
    boot(argv[0]);
}
