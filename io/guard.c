/*
 * HDF5 (seen with 1.10.8) can crash, corrupt the heap or print on files with damaged metadata:
 * about one random damage in 300 to a file without checksums. So a file is first read in a child
 * process, which can only fail; the caller's process reads what the child found good.
 *
 * A child of a process with threads can also stand still: it is born with the locks that the other
 * threads held at that moment. It is given up after a while, and another one is tried.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct reply {
    gdn_status status;
    char line[1000];
} reply;

typedef enum outcome {
    PENDING,
    COMPLETE,
    LOST
} outcome;

enum {
    ATTEMPTS = 3
};

/* Damage can send HDF5 in circles: five seconds, and one for each MB, which is plenty. */
static int64_t seconds_for(int64_t bytes) {
    return 5 + bytes / 1000000;
}

/* What the child finds is told through the pipe; what HDF5 prints is dropped. */
_Noreturn static void rehearse(gdni_rehearsal read, const char *path, int64_t bytes, int to) {
    const int null = open("/dev/null", O_RDWR);
    const struct rlimit no_core = {0, 0};
    const rlim_t seconds = (rlim_t)seconds_for(bytes);
    const struct rlimit cpu = {seconds, seconds};
    reply r;
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    setrlimit(RLIMIT_CORE, &no_core);
    setrlimit(RLIMIT_CPU, &cpu);
#ifndef __SANITIZE_ADDRESS__
    /* Handlers of the caller's program are not for this process. */
    const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGXCPU};
    for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); ++i)
        signal(fatal[i], SIG_DFL);
#endif
    memset(&r, 0, sizeof(r));
    r.status = read(path);
    snprintf(r.line, sizeof(r.line), "%s", gdn_last_error());
    const ssize_t written = write(to, &r, sizeof(r));
    _exit(written == sizeof(r) ? 0 : 1);
}

/* The child's reply, PENDING after `patience` milliseconds, or LOST where there will be none. */
static outcome read_reply(int from, int patience, reply *r) {
    size_t done = 0;
    while (done < sizeof(*r)) {
        struct pollfd ready = {.fd = from, .events = POLLIN};
        const int count = poll(&ready, 1, patience);
        if (count == 0)
            return PENDING;
        if (count < 0 && errno == EINTR)
            continue;
        const ssize_t got = read(from, (char *)r + done, sizeof(*r) - done);
        if (got == 0 || (got < 0 && errno != EINTR))
            return LOST;
        done += got > 0 ? (size_t)got : 0;
    }
    return COMPLETE;
}

/* One child. */
static gdn_status attempt(const char *path, gdni_rehearsal read, int64_t bytes, outcome *result,
                          reply *r) {
    /* Five times what it may compute, on a machine that is busy. */
    const int patience =
        1000 * 5 * (int)(seconds_for(bytes) < 100000 ? seconds_for(bytes) : 100000);
    int ends[2];
    if (pipe(ends))
        return gdni_io_fail(GDN_STATUS_IO_ERROR, path, "cannot make a pipe: %s", strerror(errno));
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    const pid_t child = fork();
    if (child == 0)
        rehearse(read, path, bytes, ends[1]);
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return gdni_io_fail(GDN_STATUS_IO_ERROR, path, "cannot start a process to check it: %s",
                            strerror(errno));
    }
    *result = read_reply(ends[0], patience, r);
    close(ends[0]);
    if (*result == PENDING)
        kill(child, SIGKILL);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    return GDN_STATUS_OK;
}

gdn_status gdni_rehearse(const char *path, gdni_rehearsal read) {
    gdni_file file;
    outcome result = PENDING;
    reply r;
    GDNI_REQUIRE(path != NULL, "path is NULL");
    GDN_TRY(gdni_file_stat(&file, path));
    for (int i = 0; i < ATTEMPTS && result == PENDING; ++i)
        GDN_TRY(attempt(path, read, file.bytes, &result, &r));
    if (result == PENDING)
        return gdni_io_fail(GDN_STATUS_IO_ERROR, path,
                            "the process that checks it did not answer, %d times", ATTEMPTS);
    if (result == LOST)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, path,
                            "expected an HDF5 file, found one so damaged that HDF5 fails on it");
    return r.status == GDN_STATUS_OK ? r.status : gdni_fail(r.status, "%s", r.line);
}
