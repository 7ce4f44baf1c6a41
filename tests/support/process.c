/* process.c - see process.h. */
#include "tests/support/ty_test.h"

#include "tests/support/process.h"

#include "common/base/clock.h"
#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const char *test_bin_dir(void) {
    static char dir[4096];
    if (dir[0]) return dir;
    char exe[2048];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    assert_true(n > 0);
    exe[n] = '\0';
    /* <out>/tests/<kind>/test_x -> <out>/bin */
    char *out = dirname(dirname(dirname(exe)));
    snprintf(dir, sizeof(dir), "%s/bin", out);
    return dir;
}

const char *test_bin(const char *name) {
    static char ring[8][4200];
    static int next;
    char *p = ring[next++ % 8];
    snprintf(p, sizeof(ring[0]), "%s/%s", test_bin_dir(), name);
    return p;
}

const char *test_golden_dir(void) {
    const char *dir = getenv("TYTO_GOLDEN");
    return dir ? dir : "tests/golden";
}

const char *test_path(const char *fmt, ...) {
    static char ring[16][4096];
    static int next;
    char *p = ring[next++ % 16];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(p, sizeof(ring[0]), fmt, ap);
    va_end(ap);
    assert_true(n >= 0 && (size_t)n < sizeof(ring[0]));
    return p;
}

static char temp_dirs[32][64];
static int n_temp_dir;
static pid_t temp_owner;

static int remove_one(const char *path, const struct stat *sb, int type, struct FTW *ftw) {
    (void)sb;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_temp_dirs(void) {
    if (getpid() != temp_owner) return; /* a forked child that exits */
    for (int i = 0; i < n_temp_dir; i++) nftw(temp_dirs[i], remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *test_temp_dir(void) {
    assert_true(n_temp_dir < 32);
    char *p = temp_dirs[n_temp_dir];
    snprintf(p, sizeof(temp_dirs[0]), "/tmp/tyto_test_XXXXXX");
    assert_non_null(mkdtemp(p));
    if (n_temp_dir++ == 0) {
        temp_owner = getpid();
        atexit(remove_temp_dirs);
    }
    return p;
}

/* In the child: be killed with the parent, wire the three streams, exec. */
static void exec_child(char *const *argv, int in, int out, int err) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(in, 0);
    dup2(out, 1);
    dup2(err, 2);
    execv(argv[0], argv);
    dprintf(2, "exec %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

void test_nap_ms(int ms) {
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) continue;
}

static int exit_code_of(int status) {
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* Waits for pid until the deadline, then kills it. */
static int reap(pid_t pid, int64_t deadline_us) {
    for (int status;;) {
        pid_t got = waitpid(pid, &status, WNOHANG);
        if (got == pid) return exit_code_of(status);
        assert_true(got == 0);
        if (ty_now_us() > deadline_us) {
            kill(pid, SIGKILL);
            assert_int_equal(waitpid(pid, &status, 0), pid);
            return exit_code_of(status);
        }
        test_nap_ms(2);
    }
}

/* The streams of a finished command go through files: no pipe can fill and hang it. */
static int temp_file(const void *data, size_t size) {
    char path[] = "/tmp/tyto_stream_XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    unlink(path);
    const char *p = data;
    while (size > 0) {
        ssize_t n = write(fd, p, size);
        assert_true(n > 0);
        p += n;
        size -= (size_t)n;
    }
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static char *slurp(int fd, size_t *size) {
    struct stat sb;
    assert_int_equal(fstat(fd, &sb), 0);
    *size = (size_t)sb.st_size;
    char *p = malloc(*size + 1);
    assert_non_null(p);
    size_t got = 0;
    while (got < *size) {
        ssize_t n = pread(fd, p + got, *size - got, (off_t)got);
        assert_true(n > 0);
        got += (size_t)n;
    }
    p[*size] = '\0';
    close(fd);
    return p;
}

test_output test_run(char *const *argv, const void *input, size_t input_size, int timeout_s) {
    int in = temp_file(input ? input : "", input ? input_size : 0);
    int out = temp_file("", 0), err = temp_file("", 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) exec_child(argv, in, out, err);
    close(in);
    test_output o = {0};
    size_t err_size;
    o.exit_code = reap(pid, ty_now_us() + (int64_t)timeout_s * 1000000);
    o.out = slurp(out, &o.out_size);
    o.err = slurp(err, &err_size);
    return o;
}

void test_output_clear(test_output *o) {
    free(o->out);
    free(o->err);
    *o = (test_output){0};
}

pid_t test_spawn(char *const *argv, const char *log_path) {
    int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int log =
        open(log_path ? log_path : "/dev/null", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(in >= 0 && log >= 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) exec_child(argv, in, log, log);
    close(in);
    close(log);
    return pid;
}

int test_stop(pid_t pid, int sig, int timeout_s) {
    kill(pid, sig);
    return reap(pid, ty_now_us() + (int64_t)timeout_s * 1000000);
}
