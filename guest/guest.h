/* What the parts of vmm-guest ask of each other: one header, for they are one program. launch.c stands alone. */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* vmm-guest.c: the channel to the host */
extern int system_mode;
extern uint64_t began_boottime_ns;
_Noreturn void serve(void);

/* common.c */
uint64_t clock_ns(clockid_t clock);
__attribute__((format(printf, 1, 2))) void say(const char *form, ...);
char *slurp(const char *path); /* NULL where it cannot be read; the caller frees it */
void make_parents(const char *path);
bool number(const char *text, uint32_t *value);

/* pid 1 that ends is a kernel panic; panic=-1 and -no-reboot make that the end of QEMU, the words stay on serial */
#define die(...) (say("vmm-guest: " __VA_ARGS__), say(": %s\n", strerror(errno)), exit(125))

/* users.c */
struct user {
    uint32_t uid, gid;
    char name[64], home[256];
    gid_t groups[64];
    size_t group_count;
};

extern struct user first_root; /* root as the image has it, looked up at boot; valid until a first command ran */
extern bool untouched;
bool resolve_user(const char *words, struct user *user); /* "", "UID", "NAME", either with ":GROUP" */

/* address.c */
int network(const char *words); /* an errno, 0 when it is set */
void loopback_up(void);

/* requests.c: an errno each, 0 when it is done */
extern int random_fd; /* /dev/urandom, open before anything is frozen: a clone is reseeded first of all */
int reseed(const char *bytes, uint32_t length);
int put_file(char *payload, uint32_t length);
int signal_pidfile(uint32_t signal_number, const char *path);
int warm(const char *dirs, const char *name);
int set_time(const char *payload, uint32_t length);

/* boot.c */
_Noreturn void boot(char *self);

/* confine.c: becomes the program behind the words, or comes back with 125, 126, 127 */
int confine(char **words);

/* hold.c */
int init_or_hold(char **argv);
int hold_usage(void);
