/* System calls without errno: -errno where one fails. A child of clone(2) that shares our memory shares that, too, and
 * while it is on its way to its command we read ours. */
#include <sys/syscall.h>

static inline long raw(long number, long a, long b, long c, long d) {
#if defined __x86_64__
    long result;
    register long fourth __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth) : "rcx", "r11", "memory");
    return result;
#elif defined __aarch64__
    register long call __asm__("x8") = number, first __asm__("x0") = a, second __asm__("x1") = b, third __asm__("x2") = c,
        fourth __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(first) : "r"(call), "r"(second), "r"(third), "r"(fourth) : "memory");
    return first;
#else
#error "no system call for this architecture"
#endif
}
