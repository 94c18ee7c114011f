/* Stands between a process and the system: counts the calls that touch one folder, fails the k-th, dies in it, or keeps
 * a log of all that was written. Loaded with LD_PRELOAD; does nothing before `faults_arm`. Linux alone. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NOTHING, KILL, FAIL, SHORTEN };
enum { GO_ON, FAILED, SHORT };
enum { MOST_CALLS = 1 << 16, LONGEST_PATH = 4096 };

static char folder[LONGEST_PATH], kinds[64], calls[MOST_CALLS];
static long first, times, count, fired;
static int armed, action, number, log_file = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* From the `at`-th call on, `how_often` calls of these kinds are acted upon (-1: all); `at` 0 only counts.
 *
 * O, C open for writing (C makes the file); W write; T truncate; A allocate; S sync (s: one that failed); R rename;
 * U unlink; M make a folder; P read. */
void faults_arm(const char *place, long at, int what, int error, long how_often, const char *of, const char *log) {
    snprintf(folder, sizeof folder, "%s", place);
    snprintf(kinds, sizeof kinds, "%s", of);
    first = at, action = what, number = error, times = how_often, count = 0, fired = 0;
    log_file = *log ? syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    armed = 1;
}

void faults_disarm(void) { armed = 0; }
long faults_fired(void) { return fired; }
const char *faults_calls(void) { calls[count < MOST_CALLS ? count : MOST_CALLS - 1] = 0; return calls; }

static int within(const char *path) { /* the tests give absolute paths */
    size_t length = strlen(folder);
    return armed && path && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, LONGEST_PATH - 1);
    path[length > 0 ? length : 0] = 0;
    return length > 0;
}

static int file_within(int file) {
    char path[LONGEST_PATH];
    return armed && path_of(file, path) && within(path);
}

static void put(const void *bytes, size_t length) {
    for (const char *at = bytes; length;) {
        long written = syscall(SYS_write, log_file, at, length);
        if (written <= 0) return;
        at += written, length -= written;
    }
}

/* One entry: kind, offset, length of the data, lengths of two paths; then the paths and the data. */
static void note(char kind, const char *path, const char *other, int64_t offset, const void *data, int64_t length) {
    if (log_file < 0) return;
    int64_t sizes[] = {kind, offset, length, (int64_t)strlen(path), (int64_t)strlen(other)};
    put(sizes, sizeof sizes), put(path, sizes[3]), put(other, sizes[4]);
    if (data) put(data, length);
}

static void note_file(char kind, int file, int64_t offset, const void *data, int64_t length) {
    char path[LONGEST_PATH];
    if (log_file >= 0 && path_of(file, path)) note(kind, path, "", offset, data, length);
}

/* A line of the process's own in the log. */
void faults_mark(const char *text) { note('X', text, "", 0, NULL, 0); }

static int step(char kind) {
    int verdict = GO_ON;
    pthread_mutex_lock(&lock);
    if (count < MOST_CALLS - 1) calls[count] = kind;
    count++;
    if (first && count >= first && (times < 0 || fired < times) && strchr(kinds, kind)) {
        fired++;
        verdict = action == SHORTEN ? SHORT : FAILED;
        if (action == KILL && !(kind == 'W' && number)) kill(getpid(), SIGKILL); /* a number: in the midst of a write */
        errno = number;
    }
    pthread_mutex_unlock(&lock);
    return verdict;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* Half of what was to be written; the process dies in the middle of it, or is told how little it was. */
#define HALF(length) ((length) / 2 ? (length) / 2 : (length))

#define PWRITE(name, offset_type)                                                              \
    ssize_t name(int file, const void *data, size_t length, offset_type offset) {              \
        REAL(name);                                                                            \
        if (!file_within(file)) return real(file, data, length, offset);                       \
        int verdict = step('W');                                                               \
        if (verdict == FAILED && action == FAIL) return -1;                                    \
        if (verdict != GO_ON) length = HALF(length);                                           \
        ssize_t written = real(file, data, length, offset);                                    \
        if (verdict == FAILED) kill(getpid(), SIGKILL);                                        \
        if (written > 0) note_file('W', file, offset, data, written);                          \
        return written;                                                                        \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int file, const void *data, size_t length) {
    REAL(write);
    if (!file_within(file)) return real(file, data, length);
    int verdict = step('W');
    if (verdict == FAILED && action == FAIL) return -1;
    if (verdict != GO_ON) length = HALF(length);
    off_t offset = lseek(file, 0, SEEK_CUR);
    ssize_t written = real(file, data, length);
    if (verdict == FAILED) kill(getpid(), SIGKILL);
    if (written > 0) note_file('W', file, offset, data, written);
    return written;
}

#define PREAD(name, offset_type)                                                               \
    ssize_t name(int file, void *data, size_t length, offset_type offset) {                    \
        REAL(name);                                                                            \
        if (file_within(file) && step('P') == FAILED) return -1;                               \
        return real(file, data, length, offset);                                               \
    }
PREAD(pread, off_t)
PREAD(pread64, off64_t)

ssize_t read(int file, void *data, size_t length) {
    REAL(read);
    if (file_within(file) && step('P') == FAILED) return -1;
    return real(file, data, length);
}

#define SYNC(name)                                                                             \
    int name(int file) {                                                                       \
        REAL(name);                                                                            \
        if (!file_within(file)) return real(file);                                             \
        if (step('S') == FAILED) { note_file('s', file, 0, NULL, 0); return -1; }              \
        int said = real(file);                                                                 \
        note_file('S', file, 0, NULL, 0);                                                      \
        return said;                                                                           \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name, offset_type)                                                            \
    int name(int file, offset_type length) {                                                   \
        REAL(name);                                                                            \
        if (!file_within(file)) return real(file, length);                                     \
        if (step('T') == FAILED) return -1;                                                    \
        note_file('T', file, length, NULL, 0);                                                 \
        return real(file, length);                                                             \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ALLOCATE(name, offset_type)                                                            \
    int name(int file, offset_type offset, offset_type length) {                               \
        REAL(name);                                                                            \
        if (!file_within(file)) return real(file, offset, length);                             \
        if (step('A') == FAILED) return number; /* it returns its error */                     \
        int said = real(file, offset, length);                                                 \
        if (!said) note_file('A', file, offset + length, NULL, 0);                             \
        return said;                                                                           \
    }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

int rename(const char *from, const char *to) {
    REAL(rename);
    if (!within(to)) return real(from, to);
    if (step('R') == FAILED) return -1;
    int said = real(from, to);
    if (!said) note('R', from, to, 0, NULL, 0);
    return said;
}

int unlink(const char *path) {
    REAL(unlink);
    if (!within(path)) return real(path);
    if (step('U') == FAILED) return -1;
    int said = real(path);
    if (!said) note('U', path, "", 0, NULL, 0);
    return said;
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (!within(path)) return real(path, mode);
    if (step('M') == FAILED) return -1;
    int said = real(path, mode);
    if (!said) note('M', path, "", 0, NULL, 0);
    return said;
}

#define OPEN(name)                                                                             \
    int name(const char *path, int flags, ...) {                                               \
        REAL(name);                                                                            \
        va_list rest;                                                                          \
        va_start(rest, flags);                                                                 \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                              \
        va_end(rest);                                                                          \
        if (!(flags & (O_CREAT | O_TRUNC)) || !within(path)) return real(path, flags, mode);   \
        struct stat there;                                                                     \
        int made = syscall(SYS_newfstatat, AT_FDCWD, path, &there, 0) != 0;                    \
        if (step('O') == FAILED) return -1;                                                    \
        int file = real(path, flags, mode);                                                    \
        if (file >= 0) note(made ? 'C' : 'O', path, "", flags & O_TRUNC, NULL, 0);             \
        return file;                                                                           \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                           \
    int name(int folder_file, const char *path, int flags, ...) {                              \
        REAL(name);                                                                            \
        va_list rest;                                                                          \
        va_start(rest, flags);                                                                 \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                              \
        va_end(rest);                                                                          \
        if (!(flags & (O_CREAT | O_TRUNC)) || !within(path)) return real(folder_file, path, flags, mode); \
        struct stat there;                                                                     \
        int made = syscall(SYS_newfstatat, AT_FDCWD, path, &there, 0) != 0;                    \
        if (step('O') == FAILED) return -1;                                                    \
        int file = real(folder_file, path, flags, mode);                                       \
        if (file >= 0) note(made ? 'C' : 'O', path, "", flags & O_TRUNC, NULL, 0);             \
        return file;                                                                           \
    }
OPENAT(openat)
OPENAT(openat64)
