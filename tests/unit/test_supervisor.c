/* test_supervisor.c - orchestration/supervisor.c with shells as children. */
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "orchestration/status.h"
#include "orchestration/supervisor.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_US = 5000000 };

typedef struct {
    const char *name, *script;
    int phase;
} shell;

static bool say_yes(void *ctx, char *why) {
    (void)ctx;
    (void)why;
    return true;
}

static bool say_no(void *ctx, char *why) {
    (void)ctx;
    strcpy(why, "no worker of vit");
    return false;
}

static void add_shell(supervisor *s, const shell *sh) {
    supervisor_child c = {.stop_phase = sh->phase};
    snprintf(c.name, sizeof(c.name), "%s", sh->name);
    snprintf(c.stage, sizeof(c.stage), "%s", sh->name);
    if (supervisor_arg(&c, "/bin/sh", NULL) || supervisor_arg(&c, "-c", NULL) ||
        supervisor_arg(&c, sh->script, NULL) || supervisor_add(s, &c, NULL))
        _exit(99);
}

/* Runs a supervisor over the shells in a process of its own; its error text goes to dir/error, its
 * status is its exit code. */
static pid_t start(const char *dir, const shell *sh, int n, supervisor_options opt) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid > 0) return pid;
    state_dir st;
    supervisor *s = NULL;
    ty_err err = {0};
    ty_log_init("test", TY_LOG_ERROR);
    if (state_acquire(&st, dir, &err) != TY_OK) _exit(98);
    opt.state = &st;
    if (!opt.probe) opt.probe = say_yes;
    if (supervisor_create(&s, &opt, &err) != TY_OK) _exit(98);
    for (int i = 0; i < n; i++) add_shell(s, &sh[i]);
    ty_status rc = supervisor_run(s, &err);
    supervisor_destroy(&s);
    state_release(&st);
    char path[STATE_PATH];
    if (rc != TY_OK && state_path(dir, "error", path))
        (void)ty_file_write_atomic(path, err.text, strlen(err.text), NULL);
    _exit((int)rc);
}

static int reap(pid_t pid) {
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void nap(void) {
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
}

typedef struct {
    int pid, restarts;
    char state[32];
} seen;

static bool look(const char *dir, const char *name, seen *out) {
    json_t *all = NULL, *p;
    size_t i;
    pid_t owner;
    bool found = false;
    if (status_read(dir, &all, &owner, NULL) != TY_OK) return false;
    json_array_foreach(json_object_get(all, "processes"), i, p) {
        if (strcmp(json_string_value(json_object_get(p, "name")), name) != 0) continue;
        found = true;
        out->pid = (int)json_integer_value(json_object_get(p, "pid"));
        out->restarts = (int)json_integer_value(json_object_get(p, "restarts"));
        snprintf(out->state, sizeof(out->state), "%s",
                 json_string_value(json_object_get(p, "state")));
    }
    json_decref(all);
    return found;
}

/* Until `name` is in `state` with at least so many restarts. */
static seen await(const char *dir, const char *name, const char *state, int restarts) {
    seen s = {0};
    for (int64_t until = ty_now_us() + WAIT_US; ty_now_us() < until; nap())
        if (look(dir, name, &s) && strcmp(s.state, state) == 0 && s.restarts >= restarts) return s;
    fail_msg("%s: is %s with %d restarts, want %s with %d", name, s.state, s.restarts, state,
             restarts);
    return s;
}

static bool gone(int pid) {
    for (int64_t until = ty_now_us() + WAIT_US; ty_now_us() < until; nap())
        if (kill(pid, 0) != 0 && errno == ESRCH) return true;
    return false;
}

static const char FOREVER[] = "while :; do sleep 0.05; done";

static void supervisor_restarts_a_child_when_it_is_killed(void **state) {
    (void)state;
    const char *dir = test_temp_dir();
    shell sh[] = {{"vit.0", FOREVER, 1}, {"gateway.0", FOREVER, 0}};
    pid_t pid = start(dir, sh, 2, (supervisor_options){0});
    seen first = await(dir, "vit.0", "running", 0);
    kill(first.pid, SIGKILL);
    seen second = await(dir, "vit.0", "running", 1);
    assert_int_not_equal(first.pid, second.pid);
    assert_int_equal(await(dir, "gateway.0", "running", 0).restarts, 0);
    kill(pid, SIGTERM);
    assert_int_equal(reap(pid), TY_OK);
    assert_true(gone(second.pid));
}

static void supervisor_stops_in_phases_when_asked(void **state) {
    (void)state;
    const char *dir = test_temp_dir(), *list = test_path("%s/order", dir);
    static char script[4][512];
    static const char *const names[] = {"broker.0", "vit.0", "decoder.0", "gateway.0"};
    static const int phases[] = {2, 1, 1, 0};
    shell sh[4];
    for (int i = 0; i < 4; i++) {
        snprintf(script[i], sizeof(script[i]),
                 "trap 'sleep 0.%d; echo %d >>%s; exit 0' TERM; while :; do sleep 0.02; done",
                 3 - i, phases[i], list);
        sh[i] = (shell){names[i], script[i], phases[i]};
    }
    pid_t pid = start(dir, sh, 4, (supervisor_options){0});
    for (int i = 0; i < 4; i++) (void)await(dir, names[i], "running", 0);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL); /* the traps are set */
    kill(pid, SIGINT);
    assert_int_equal(reap(pid), TY_OK);
    char *text;
    size_t n;
    assert_int_equal(ty_file_read(list, 100, &text, &n, NULL), TY_OK);
    assert_string_equal(text, "0\n1\n1\n2\n");
    free(text);
    assert_int_not_equal(access(test_path("%s/status.json", dir), F_OK), 0);
}

static void supervisor_takes_its_children_along_when_killed(void **state) {
    (void)state;
    const char *dir = test_temp_dir();
    shell sh[] = {{"vit.0", FOREVER, 1},
                  {"decoder.0", "trap '' TERM; while :; do sleep 1; done", 1}};
    pid_t pid = start(dir, sh, 2, (supervisor_options){0});
    seen a = await(dir, "vit.0", "running", 0), b = await(dir, "decoder.0", "running", 0);
    kill(pid, SIGKILL);
    assert_int_equal(reap(pid), -SIGKILL);
    assert_true(gone(a.pid));
    assert_true(gone(b.pid));
    ty_err err;
    json_t *all;
    pid_t owner;
    assert_int_equal(status_read(dir, &all, &owner, &err), TY_ENOTFOUND);
}

static void supervisor_gives_the_start_up_when_a_child_cannot_start(void **state) {
    (void)state;
    const char *dir = test_temp_dir();
    shell sh[] = {{"vit.0", "echo vit.gguf: no such file >&2; exit 1", 1},
                  {"broker.0", FOREVER, 2}};
    pid_t pid = start(dir, sh, 2, (supervisor_options){.probe = say_no});
    assert_int_equal(reap(pid), TY_EUNAVAILABLE);
    char *text;
    size_t n;
    assert_int_equal(ty_file_read(test_path("%s/error", dir), 1000, &text, &n, NULL), TY_OK);
    assert_non_null(strstr(text, "vit.0 does not start (exit status 1): vit.gguf: no such file"));
    free(text);
}

static void supervisor_says_what_it_waited_for_when_the_start_is_too_long(void **state) {
    (void)state;
    const char *dir = test_temp_dir();
    shell sh[] = {{"broker.0", FOREVER, 2}};
    pid_t pid = start(dir, sh, 1, (supervisor_options){.probe = say_no, .start_ms = 200});
    assert_int_equal(reap(pid), TY_ETIMEOUT);
    char *text;
    size_t n;
    assert_int_equal(ty_file_read(test_path("%s/error", dir), 1000, &text, &n, NULL), TY_OK);
    assert_non_null(strstr(text, "no worker of vit"));
    free(text);
}

static void supervisor_kills_a_child_when_it_does_not_stop(void **state) {
    (void)state;
    const char *dir = test_temp_dir();
    shell sh[] = {{"vit.0", "trap '' TERM; while :; do sleep 0.05; done", 1}};
    pid_t pid = start(dir, sh, 1, (supervisor_options){.stop_ms = 100});
    seen a = await(dir, "vit.0", "running", 0);
    nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    kill(pid, SIGTERM);
    assert_int_equal(reap(pid), TY_OK);
    assert_true(gone(a.pid));
}

static void supervisor_marks_a_child_failing_when_it_dies_again_and_again(void **state) {
    (void)state;
    const char *dir = test_temp_dir();
    /* lives until everything was ready once, then dies at each start */
    char script[512];
    snprintf(script, sizeof(script), "test -e %s/once && exit 1; touch %s/once; sleep 0.3; exit 1",
             dir, dir);
    shell sh[] = {{"vit.0", script, 1}};
    pid_t pid = start(dir, sh, 1, (supervisor_options){0});
    assert_true(await(dir, "vit.0", "failing", 5).restarts >= 5);
    kill(pid, SIGTERM);
    assert_int_equal(reap(pid), TY_OK);
}

static void supervisor_fails_when_the_command_to_run_when_ready_does(void **state) {
    (void)state;
    const char *dir = test_temp_dir();
    shell sh[] = {{"broker.0", FOREVER, 2}};
    pid_t pid = start(dir, sh, 1, (supervisor_options){.command = "exit 3"});
    assert_int_equal(reap(pid), TY_EIO);
    pid = start(dir, sh, 1, (supervisor_options){.command = "exit 0"});
    (void)await(dir, "broker.0", "running", 0);
    kill(pid, SIGTERM);
    assert_int_equal(reap(pid), TY_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(supervisor_restarts_a_child_when_it_is_killed),
        cmocka_unit_test(supervisor_stops_in_phases_when_asked),
        cmocka_unit_test(supervisor_takes_its_children_along_when_killed),
        cmocka_unit_test(supervisor_gives_the_start_up_when_a_child_cannot_start),
        cmocka_unit_test(supervisor_says_what_it_waited_for_when_the_start_is_too_long),
        cmocka_unit_test(supervisor_kills_a_child_when_it_does_not_stop),
        cmocka_unit_test(supervisor_marks_a_child_failing_when_it_dies_again_and_again),
        cmocka_unit_test(supervisor_fails_when_the_command_to_run_when_ready_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
