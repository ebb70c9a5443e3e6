/* Every call of the C library that changes a disk, counted, logged, and made to fail on request.
 *
 * Loaded before the C library (LD_PRELOAD); armed from within by faults_arm. Only paths below the root count.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, BEFORE, AFTER, TORN, FAIL };

static char root[PATH_MAX];
static int how = COUNT, at, error, seen, journal = -1;

void faults_arm(const char *under, int what, int when, int number, int log) {
    strncpy(root, under, sizeof root - 1);
    how = what, at = when, error = number, journal = log, seen = 0;
}

int faults_seen(void) { return seen; }

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* The whole path of a name in an open directory, or of the open file itself (name NULL); whether it is below the root. */
static int place(int dir, const char *name, char *path) {
    char link[64];
    path[0] = 0;
    if (!root[0]) return 0;
    if (name && name[0] == '/') {
        strncpy(path, name, PATH_MAX - 1);
    } else {
        if (dir == AT_FDCWD) strcpy(link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t size = readlink(link, path, PATH_MAX - 1);
        if (size < 0) return 0;
        path[size] = 0;
        if (name) strncat(strncat(path, "/", PATH_MAX - 1 - size), name, PATH_MAX - 2 - size);
    }
    size_t length = strlen(root);
    return !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

/* Count a call: 0 to make it, −1 to fail it. */
static int begin(int frees) {
    ++seen;
    if ((how == BEFORE || how == TORN) && seen == at) die();
    if (how == FAIL && seen >= at && !(frees && error == ENOSPC)) {
        errno = error;
        return -1;
    }
    return 0;
}

/* After the call: tell of it, and die. */
static void end(int done, const char *what, const char *one, const char *two, long number) {
    int kept = errno;
    if (!done && journal >= 0) dprintf(journal, "%s\t%s\t%s\t%ld\n", what, one, two, number);
    if (how == AFTER && seen == at) die();
    errno = kept;
}

static int creates(int dir, const char *name, int flags, char *path) {
    return (flags & (O_WRONLY | O_RDWR)) && (flags & (O_CREAT | O_TRUNC)) && place(dir, name, path);
}

#define OPEN(symbol, arguments, dir, call)                                                    \
    int symbol arguments {                                                                    \
        mode_t mode = 0;                                                                      \
        char path[PATH_MAX];                                                                  \
        if (flags & O_CREAT) {                                                                \
            va_list more;                                                                     \
            va_start(more, flags);                                                            \
            mode = va_arg(more, mode_t);                                                      \
            va_end(more);                                                                     \
        }                                                                                     \
        int ours = creates(dir, name, flags, path);                                           \
        if (ours && begin(0)) return -1;                                                      \
        int handle = REAL(symbol) call;                                                       \
        if (ours) end(handle < 0, flags & O_TRUNC ? "truncate" : "create", path, "", 0);      \
        return handle;                                                                        \
    }
OPEN(open, (const char *name, int flags, ...), AT_FDCWD, (name, flags, mode))
OPEN(open64, (const char *name, int flags, ...), AT_FDCWD, (name, flags, mode))
OPEN(openat, (int dir, const char *name, int flags, ...), dir, (dir, name, flags, mode))
OPEN(openat64, (int dir, const char *name, int flags, ...), dir, (dir, name, flags, mode))

ssize_t write(int handle, const void *data, size_t size) {
    char path[PATH_MAX];
    if (!place(handle, NULL, path)) return REAL(write)(handle, data, size);
    if (how == TORN && seen + 1 == at) {
        REAL(write)(handle, data, size / 2);
        die();
    }
    if (how == FAIL && error == ENOSPC && seen + 1 == at && size > 1) {
        ++seen;
        return REAL(write)(handle, data, size / 2); /* what still had room */
    }
    if (begin(0)) return -1;
    off_t before = lseek(handle, 0, SEEK_CUR);
    if (fcntl(handle, F_GETFL) & O_APPEND) before = lseek(handle, 0, SEEK_END);
    ssize_t done = REAL(write)(handle, data, size);
    if (done > 0 && journal >= 0) {
        dprintf(journal, "write\t%s\t", path);
        for (ssize_t i = 0; i < done; ++i) dprintf(journal, "%02x", ((const unsigned char *)data)[i]);
        dprintf(journal, "\t%ld\n", (long)before);
    }
    end(-1, "", "", "", 0);
    return done;
}

ssize_t pwrite64(int handle, const void *data, size_t size, off64_t from) {
    char path[PATH_MAX];
    if (place(handle, NULL, path) && begin(0)) return -1;
    ssize_t done = REAL(pwrite64)(handle, data, size, from);
    if (path[0]) end(-1, "", "", "", 0);
    return done;
}

ssize_t writev(int handle, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    if (!place(handle, NULL, path)) return REAL(writev)(handle, parts, count);
    if (begin(0)) return -1;
    ssize_t done = REAL(writev)(handle, parts, count);
    end(-1, "", "", "", 0);
    return done;
}

#define ONE_FILE(symbol, arguments, call, what, number)                \
    int symbol arguments {                                             \
        char path[PATH_MAX];                                           \
        int ours = place(handle, NULL, path);                          \
        if (ours && begin(0)) return -1;                               \
        int done = REAL(symbol) call;                                  \
        if (ours) end(done, what, path, "", number);                   \
        return done;                                                   \
    }
ONE_FILE(fsync, (int handle), (handle), "fsync", 0)
ONE_FILE(fdatasync, (int handle), (handle), "fsync", 0)
ONE_FILE(ftruncate, (int handle, off_t size), (handle, size), "resize", (long)size)
ONE_FILE(ftruncate64, (int handle, off64_t size), (handle, size), "resize", (long)size)

#define ONE_NAME(symbol, arguments, dir, call, what, frees)            \
    int symbol arguments {                                             \
        char path[PATH_MAX];                                           \
        int ours = place(dir, name, path);                             \
        if (ours && begin(frees)) return -1;                           \
        int done = REAL(symbol) call;                                  \
        if (ours) end(done, what, path, "", 0);                        \
        return done;                                                   \
    }
ONE_NAME(mkdir, (const char *name, mode_t mode), AT_FDCWD, (name, mode), "mkdir", 0)
ONE_NAME(mkdirat, (int dir, const char *name, mode_t mode), dir, (dir, name, mode), "mkdir", 0)
ONE_NAME(unlink, (const char *name), AT_FDCWD, (name), "unlink", 1)
ONE_NAME(remove, (const char *name), AT_FDCWD, (name), "unlink", 1)
ONE_NAME(unlinkat, (int dir, const char *name, int flags), dir, (dir, name, flags), "unlink", 1)
ONE_NAME(rmdir, (const char *name), AT_FDCWD, (name), "unlink", 1)

#define TWO_NAMES(symbol, arguments, from, to, call, what)             \
    int symbol arguments {                                             \
        char one[PATH_MAX], two[PATH_MAX];                             \
        int ours = place(from, old, one) | place(to, name, two);       \
        if (ours && begin(0)) return -1;                               \
        int done = REAL(symbol) call;                                  \
        if (ours) end(done, what, one, two, 0);                        \
        return done;                                                   \
    }
TWO_NAMES(rename, (const char *old, const char *name), AT_FDCWD, AT_FDCWD, (old, name), "rename")
TWO_NAMES(renameat, (int from, const char *old, int to, const char *name), from, to, (from, old, to, name), "rename")
TWO_NAMES(link, (const char *old, const char *name), AT_FDCWD, AT_FDCWD, (old, name), "link")
