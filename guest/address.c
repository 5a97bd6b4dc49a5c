/* The first network card's address, by the ioctls of netdevice(7). */
#define _GNU_SOURCE
#include "guest.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static bool first_nic(char *name) {
    DIR *dir = opendir("/sys/class/net");
    bool found = false;
    for (struct dirent *one; dir && !found && (one = readdir(dir));)
        if (one->d_name[0] != '.' && strcmp(one->d_name, "lo") != 0)
            found = snprintf(name, IFNAMSIZ, "%.15s", one->d_name) > 0;
    if (dir) closedir(dir);
    return found;
}

static int set_address(int fd, unsigned long request, struct ifreq *nic, const char *address, uint32_t mask) {
    struct sockaddr_in *in = (struct sockaddr_in *)&nic->ifr_addr;
    *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(mask)}};
    if (address && inet_pton(AF_INET, address, &in->sin_addr) != 1) return errno = EINVAL, -1;
    return ioctl(fd, request, nic);
}

static int link_up(int fd, struct ifreq *nic, short flags) {
    nic->ifr_flags = flags;
    return ioctl(fd, SIOCSIFFLAGS, nic);
}

static int set_mac(int fd, struct ifreq *nic, const char *mac) {
    unsigned int b[6];
    if (sscanf(mac, "%x:%x:%x:%x:%x:%x", b, b + 1, b + 2, b + 3, b + 4, b + 5) != 6) return errno = EINVAL, -1;
    link_up(fd, nic, 0);
    nic->ifr_hwaddr.sa_family = 1; /* ARPHRD_ETHER */
    for (int i = 0; i < 6; i++) nic->ifr_hwaddr.sa_data[i] = (char)b[i];
    return ioctl(fd, SIOCSIFHWADDR, nic);
}

static int add_default_route(int fd, const char *gateway) {
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    route.rt_dst.sa_family = route.rt_genmask.sa_family = route.rt_gateway.sa_family = AF_INET;
    if (inet_pton(AF_INET, gateway, &((struct sockaddr_in *)&route.rt_gateway)->sin_addr) != 1) return errno = EINVAL, -1;
    return ioctl(fd, SIOCADDRT, &route) < 0 && errno != EEXIST ? -1 : 0;
}

/* "ADDRESS/PREFIX[,GATEWAY[,MAC]]" for the first interface that is not lo; an old address of it goes. */
int network(const char *words) {
    char copy[128], *rest = copy, *address, *gateway, *mac, *slash;
    struct ifreq nic = {0};
    uint32_t prefix = 24;
    snprintf(copy, sizeof copy, "%s", words);
    address = strsep(&rest, ","), gateway = strsep(&rest, ","), mac = strsep(&rest, ",");
    if ((slash = strchr(address, '/'))) *slash = 0;
    if (slash && (!number(slash + 1, &prefix) || prefix < 1 || prefix > 32)) return EINVAL;
    if (!first_nic(nic.ifr_name)) return ENODEV;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool failed = fd < 0 || (mac && *mac && set_mac(fd, &nic, mac) < 0) ||
                  set_address(fd, SIOCSIFADDR, &nic, address, 0) < 0 ||
                  set_address(fd, SIOCSIFNETMASK, &nic, NULL, ~0u << (32 - prefix)) < 0 ||
                  link_up(fd, &nic, IFF_UP | IFF_RUNNING) < 0 ||
                  (gateway && *gateway && add_default_route(fd, gateway) < 0);
    int error = failed ? errno : 0;
    if (fd >= 0) close(fd);
    return error;
}

void loopback_up(void) {
    struct ifreq nic = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    link_up(fd, &nic, IFF_UP | IFF_RUNNING);
    close(fd);
}
