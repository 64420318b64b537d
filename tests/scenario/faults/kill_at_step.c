/* Kills the process that loads it before a step on the disk that a test has chosen.
 *
 *     cc -shared -fPIC -o kill_at_step.so kill_at_step.c
 *     KILL_DIRECTORY=/prefix/dp KILL_AT=/tmp/at LD_PRELOAD=./kill_at_step.so ...
 *
 * A step is a call that changes what stands in the directory, written as what is done and to which file: "rename
 * current.image". While the file KILL_AT is there, its lines are looked for in the steps one after the other; the
 * step that begins as the last one is not taken: the file is removed, and the process killed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

static void step(const char *what, const char *path) {
    const char *directory = getenv("KILL_DIRECTORY"), *chosen = getenv("KILL_AT");
    char wanted[256] = "", found[4096], *end;
    int fd;

    if (directory == NULL || chosen == NULL || strncmp(path, directory, strlen(directory)) != 0)
        return;
    fd = (int)syscall(SYS_openat, AT_FDCWD, chosen, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    if (read(fd, wanted, sizeof wanted - 1) <= 0) {
        close(fd);
        return;
    }
    end = strchr(wanted, '\n');
    snprintf(found, sizeof found, "%s %s", what, strrchr(path, '/') + 1);
    if (strncmp(found, wanted, end == NULL ? strlen(wanted) : (size_t)(end - wanted)) != 0) {
        close(fd);
        return;
    }
    if (end != NULL) {
        if (pwrite(fd, end + 1, strlen(end + 1), 0) < 0 || ftruncate(fd, (off_t)strlen(end + 1)) < 0)
            abort();
        close(fd);
        return;
    }
    syscall(SYS_unlinkat, AT_FDCWD, chosen, 0);
    kill(getpid(), SIGKILL);
    pause();
}

static void step_on(const char *what, int fd) {
    char link[64], path[4096];
    ssize_t length;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = '\0';
        step(what, path);
    }
}

static int open_step(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    if (flags & O_CREAT)
        step("open", path);
    return real(path, flags, mode);
}

static mode_t mode_of(int flags, va_list arguments) {
    return flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
}

int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_of(flags, arguments);
    va_end(arguments);
    return open_step(REAL(open), path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = mode_of(flags, arguments);
    va_end(arguments);
    return open_step(REAL(open64), path, flags, mode);
}

ssize_t sendfile64(int target, int source, off64_t *offset, size_t count) {
    step_on("sendfile", target);
    return REAL(sendfile64)(target, source, offset, count);
}

ssize_t sendfile(int target, int source, off_t *offset, size_t count) {
    step_on("sendfile", target);
    return REAL(sendfile)(target, source, offset, count);
}

int fsync(int fd) {
    step_on("fsync", fd);
    return REAL(fsync)(fd);
}

int rename(const char *source, const char *target) {
    step("rename", target);
    return REAL(rename)(source, target);
}

int link(const char *source, const char *target) {
    step("link", target);
    return REAL(link)(source, target);
}

int linkat(int source_at, const char *source, int target_at, const char *target, int flags) {
    step("link", target);
    return REAL(linkat)(source_at, source, target_at, target, flags);
}

int unlink(const char *path) {
    step("unlink", path);
    return REAL(unlink)(path);
}
