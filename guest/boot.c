/* pid 1 of the initramfs: modules, the image's root, then the channel, beside the image's init or alone. */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char *kernel_words; /* /proc/cmdline */

/* The `index`th value of NAME= on the kernel command line, or NULL. */
static char *kernel_word(const char *name, int index) {
    static char value[512];
    size_t n = strlen(name);
    for (char *at = kernel_words; at && (at = strstr(at, name)); at += n) {
        if ((at != kernel_words && at[-1] != ' ') || at[n] != '=' || index--) continue;
        snprintf(value, sizeof value, "%.*s", (int)strcspn(at + n + 1, " \n"), at + n + 1);
        return value;
    }
    return NULL;
}

static void load_modules(void) {
    char *list = slurp("/modules/order"), *rest = list, *path;
    while (rest && (path = strsep(&rest, "\n"))) {
        int fd = *path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (fd < 0) continue;
        if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST) say("vmm-guest: cannot load %s: %s\n", path, strerror(errno));
        close(fd);
        unlink(path); /* the initramfs is memory: a loaded module's file is of no more use */
    }
    free(list);
}

static int mount_one(const char *source, const char *target, const char *type, unsigned long flags) {
    const char *data = strcmp(type, "9p") ? NULL : "trans=virtio,version=9p2000.L,msize=512000";
    make_parents(target);
    mkdir(target, 0755);
    return mount(source, target, type, flags, data);
}

/* Virtio disks are there when their module is loaded; NVMe and hotplug probe in threads of their own. */
static void mount_root(void) {
    char device[256], type[32], *word = kernel_word("vmm.root", 0);
    snprintf(device, sizeof device, "%s", word ? word : "/dev/vda");
    word = kernel_word("vmm.rootfstype", 0);
    snprintf(type, sizeof type, "%s", word ? word : "ext4");
    unsigned long flags = kernel_word("vmm.ro", 0) ? MS_RDONLY : 0;
    for (int tries = 0; mount_one(device, "/root", type, flags) < 0; tries++) {
        if (tries == 5000 || (errno != ENOENT && errno != ENXIO)) die("cannot mount the root %s (%s)", device, type);
        usleep(1000);
    }
}

/* vmm.mount=SOURCE,TARGET,TYPE[,ro]: folder shares and volumes, before anything of the image runs. */
static void mount_extras(void) {
    char *word;
    for (int i = 0; (word = kernel_word("vmm.mount", i)); i++) {
        char target[PATH_MAX], *source = strsep(&word, ","), *path = strsep(&word, ","), *type = strsep(&word, ",");
        if (!path || !type) continue;
        snprintf(target, sizeof target, "/root%s", path);
        if (mount_one(source, target, type, word && strcmp(word, "ro") == 0 ? MS_RDONLY : 0) < 0)
            die("cannot mount %s on %s", source, path);
    }
}

static void move_root(void) {
    static const char *const kernel_trees[] = {"/dev", "/proc", "/sys"};
    char target[16];
    for (int i = 0; i < 3; i++) {
        snprintf(target, sizeof target, "/root%s", kernel_trees[i]);
        mkdir(target, 0755);
        if (mount(kernel_trees[i], target, NULL, MS_MOVE, NULL) < 0) die("cannot move %s", kernel_trees[i]);
    }
    unlink("/init");
    if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0) die("cannot enter the root");
}

/* What a container's image finds in /dev, and devtmpfs does not make. */
static void finish_dev(void) {
    mkdir("/dev/pts", 0755);
    mkdir("/dev/shm", 01777);
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666,gid=5");
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
    (void)!symlink("/proc/self/fd", "/dev/fd");
    (void)!symlink("/proc/self/fd/0", "/dev/stdin");
    (void)!symlink("/proc/self/fd/1", "/dev/stdout");
    (void)!symlink("/proc/self/fd/2", "/dev/stderr");
}

static void set(const char *path, const char *value) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    (void)!write(fd, value, strlen(value));
    close(fd);
}

/* For one command, work of the kernel's that nobody asked for: it would wake up twice a second to see whether memory wants
 * to be in larger pieces (vm.txt), and ten times after each write to see whether the disk, the host's file, keeps up. */
static void spare_the_kernel(void) {
    char *root = kernel_word("vmm.root", 0), path[PATH_MAX];
    set("/proc/sys/vm/compaction_proactiveness", "0");
    if (root && strncmp(root, "/dev/", 5) == 0) {
        snprintf(path, sizeof path, "/sys/block/%s/queue/wbt_lat_usec", root + 5);
        set(path, "0");
    }
}

static void name_and_address(void) {
    char *word = kernel_word("vmm.hostname", 0);
    if (word && sethostname(word, strlen(word)) < 0) say("vmm-guest: cannot set the host name: %s\n", strerror(errno));
    loopback_up();
    if ((word = kernel_word("vmm.ip", 0)) && (errno = network(word)))
        say("vmm-guest: cannot set the address %s: %s\n", word, strerror(errno));
}

/* systemd.io/ROOT_STORAGE_DAEMONS: its killing spree spares a process whose argv[0] begins with '@'. */
static void hand_over(char *self) {
    char *word = kernel_word("vmm.init", 0);
    char *argv[] = {word, NULL}, *env[] = {"HOME=/", "TERM=linux", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    if (!word) return spare_the_kernel(), finish_dev();
    system_mode = 1;
    pid_t helper = fork();
    if (helper == 0) {
        setsid();
        *self = '@';
        return;
    }
    execve(word, argv, env);
    die("cannot execute the image's init %s", word);
}

void boot(char *self) {
    began_boottime_ns = clock_ns(CLOCK_BOOTTIME);
    if (mount_one("devtmpfs", "/dev", "devtmpfs", MS_NOSUID) < 0 || mount_one("proc", "/proc", "proc", 0) < 0 ||
        mount_one("sysfs", "/sys", "sysfs", 0) < 0)
        die("cannot mount the kernel's file systems");
    kernel_words = slurp("/proc/cmdline");
    load_modules();
    mount_root();
    mount_extras();
    move_root();
    name_and_address();
    umask(022);
    hand_over(self);
    serve();
}
