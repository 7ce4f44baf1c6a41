/*
 * process.h - real processes in tests: run a command to its end, start one in the background, a
 * temporary directory, and where the programs of this build are.  Failures fail the test.
 */
#ifndef TY_TEST_PROCESS_H
#define TY_TEST_PROCESS_H

#include <stddef.h>
#include <sys/types.h>

/* "build/bin" of the mode that this test was built in (from /proc/self/exe).  Borrowed. */
const char *test_bin_dir(void);
/* "<bin dir>/name" in one of eight rotating static buffers. */
const char *test_bin(const char *name);
/* Where the golden files are: TYTO_GOLDEN or "tests/golden". */
const char *test_golden_dir(void);

/* Makes a directory under /tmp and removes it, with what is in it, when the test program exits.
 * Borrowed until then. */
const char *test_temp_dir(void);
/* printf into one of sixteen rotating static buffers: paths. */
__attribute__((format(printf, 1, 2))) const char *test_path(const char *fmt, ...);

typedef struct {
    int exit_code; /* -signal when a signal ended it */
    char *out;     /* stdout, NUL-terminated; free with test_output_clear */
    size_t out_size;
    char *err; /* stderr */
} test_output;

/* Runs argv (NULL-ended) with `input` (may be NULL) on stdin; kills it after timeout_s. */
test_output test_run(char *const *argv, const void *input, size_t input_size, int timeout_s);
#define TEST_RUN(...) test_run((char *const[]){__VA_ARGS__, NULL}, NULL, 0, 60)
void test_output_clear(test_output *o);

/* Starts argv in the background, its stdout and stderr appended to log_path (NULL: /dev/null).
 * It is killed with SIGKILL when the test program ends, however that ends. */
pid_t test_spawn(char *const *argv, const char *log_path);
/* Sleeps so long, whatever signals come. */
void test_nap_ms(int ms);
/* Sends sig, waits up to timeout_s, kills if need be; returns the exit code or -signal. */
int test_stop(pid_t pid, int sig, int timeout_s);

#endif
