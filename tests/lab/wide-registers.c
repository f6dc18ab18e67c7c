/* For user-mode-linux on processors with AMX: it knows 2696 octets of a process's extended registers,
 * and the host's kernel takes nothing but all of them (EFAULT). This stands in front of ptrace(), by
 * LD_PRELOAD, and fills in the rest as it was. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#define EXTENDED_REGISTERS 0x202 /* NT_X86_XSTATE */

typedef long (*function)(int, pid_t, void *, void *);

long ptrace(enum __ptrace_request request, ...)
{
    static function real;
    static char whole[65536];
    va_list arguments;
    va_start(arguments, request);
    pid_t process = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (!real)
        real = (function)dlsym(RTLD_NEXT, "ptrace");
    if ((int)request == PTRACE_SETREGSET && (long)address == EXTENDED_REGISTERS) {
        struct iovec *given = data;
        struct iovec all = { whole, sizeof whole };
        if (real(PTRACE_GETREGSET, process, address, &all) == 0 && given->iov_len < all.iov_len) {
            memcpy(whole, given->iov_base, given->iov_len);
            return real(PTRACE_SETREGSET, process, address, &all);
        }
    }
    return real(request, process, address, data);
}
