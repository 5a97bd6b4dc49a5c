/* Users and groups by the image's own files. */
#define _GNU_SOURCE
#include "guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Split "a:b:c" in place; absent fields are empty strings. */
static void fields(char *line, char **field, int count) {
    for (int i = 0; i < count; i++) {
        char *colon = strchr(line, ':');
        field[i] = line;
        if (colon) *colon = 0;
        line = colon ? colon + 1 : line + strlen(line);
    }
}

/* passwd(5): NAME:x:UID:GID:GECOS:HOME:SHELL. No NSS: the image may hold one static binary only. */
static bool find_user(const char *wanted, struct user *user) {
    uint32_t uid = 0;
    bool by_number = number(wanted, &uid), found = false;
    char *text = slurp("/etc/passwd"), *rest = text, *line, *f[6];
    while (!found && rest && (line = strsep(&rest, "\n"))) {
        fields(line, f, 6);
        if (by_number ? !*f[2] || strtoul(f[2], NULL, 10) != uid : strcmp(f[0], wanted) != 0) continue;
        found = number(f[2], &user->uid) && number(f[3], &user->gid);
        snprintf(user->name, sizeof user->name, "%s", f[0]);
        snprintf(user->home, sizeof user->home, "%s", f[5]);
    }
    free(text);
    if (!found && by_number) user->uid = uid, user->gid = 0;
    return found || by_number;
}

static bool is_member(char *members, const char *name) {
    for (char *one; (one = strsep(&members, ","));)
        if (*name && strcmp(one, name) == 0) return true;
    return false;
}

/* group(5): NAME:x:GID:MEMBER,MEMBER. With `wanted`, its gid; without, all groups that list the user. */
static bool find_groups(const char *wanted, struct user *user) {
    bool found = wanted && number(wanted, &user->gid);
    char *text = slurp("/etc/group"), *rest = text, *line, *f[4];
    while (!found && rest && (line = strsep(&rest, "\n"))) {
        uint32_t gid;
        fields(line, f, 4);
        if (!number(f[2], &gid)) continue;
        if (wanted && strcmp(f[0], wanted) == 0) user->gid = gid, found = true;
        if (!wanted && user->group_count < 64 && is_member(f[3], user->name)) user->groups[user->group_count++] = gid;
    }
    free(text);
    return found || !wanted;
}

struct user first_root;
bool untouched;

/* "", "UID", "NAME", either with ":GROUP": as the OCI image configuration has it. */
bool resolve_user(const char *words, struct user *user) {
    char copy[256];
    if (untouched && (!*words || strcmp(words, "0") == 0 || strcmp(words, "root") == 0)) return *user = first_root, true;
    *user = (struct user){.home = "/"};
    snprintf(copy, sizeof copy, "%s", *words ? words : "0");
    char *group = strchr(copy, ':');
    if (group) *group++ = 0;
    if (!find_user(*copy ? copy : "0", user)) return false;
    return find_groups(group && *group ? group : NULL, user);
}
