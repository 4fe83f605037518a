/*
 * HDF5 (seen with 1.10.8) can crash, corrupt the heap or print on files with damaged metadata:
 * about one random damage in 300 to a file without checksums. So a file is first read in a child
 * process, which can only fail; the caller's process reads what the child found good.
 */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
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

/* What the child finds is told through the pipe; what HDF5 prints is dropped. */
_Noreturn static void rehearse(gdni_rehearsal read, const char *path, int64_t bytes, int to) {
    const int null = open("/dev/null", O_RDWR);
    const struct rlimit no_core = {0, 0};
    /* Damage can send HDF5 in circles: five seconds, and one for each MB, which is plenty. */
    const rlim_t seconds = 5 + (rlim_t)(bytes / 1000000);
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

static int read_reply(int from, reply *r) {
    size_t done = 0;
    while (done < sizeof(*r)) {
        const ssize_t got = read(from, (char *)r + done, sizeof(*r) - done);
        if (got == 0 || (got < 0 && errno != EINTR))
            return 0;
        done += got > 0 ? (size_t)got : 0;
    }
    return 1;
}

gdn_status gdni_rehearse(const char *path, gdni_rehearsal read) {
    gdni_file file;
    int ends[2];
    reply r;
    GDNI_REQUIRE(path != NULL, "path is NULL");
    GDN_TRY(gdni_file_stat(&file, path));
    if (pipe(ends))
        return gdni_io_fail(GDN_STATUS_IO_ERROR, path, "cannot make a pipe: %s", strerror(errno));
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    const pid_t child = fork();
    if (child == 0)
        rehearse(read, path, file.bytes, ends[1]);
    close(ends[1]);
    if (child < 0) {
        close(ends[0]);
        return gdni_io_fail(GDN_STATUS_IO_ERROR, path, "cannot start a process to check it: %s",
                            strerror(errno));
    }
    const int complete = read_reply(ends[0], &r);
    close(ends[0]);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    if (!complete)
        return gdni_io_fail(GDN_STATUS_BAD_FILE, path,
                            "expected an HDF5 file, found one so damaged that HDF5 fails on it");
    return r.status == GDN_STATUS_OK ? r.status : gdni_fail(r.status, "%s", r.line);
}
