/* test_state.c - orchestration/state.c: one owner per directory, and nothing left of a dead one. */
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "orchestration/state.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int exists(const char *path) {
    return access(path, F_OK) == 0;
}

/* A process that owns dir until it is killed. */
static pid_t own_in_child(const char *dir) {
    int ends[2];
    char byte;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        state_dir s;
        if (state_acquire(&s, dir, NULL) != TY_OK) _exit(1);
        if (write(ends[1], "K", 1) != 1) _exit(1);
        for (;;) pause();
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    return pid;
}

static void kill_and_reap(pid_t pid) {
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void acquire_refuses_and_names_the_owner_when_it_lives(void **state) {
    (void)state;
    const char *dir = test_temp_dir();
    char number[32];
    state_dir s;
    ty_err err;
    pid_t owner, pid = own_in_child(dir);
    snprintf(number, sizeof(number), "pid %d", (int)pid);
    assert_int_equal(state_acquire(&s, dir, &err), TY_EEXIST);
    assert_non_null(strstr(err.text, number));
    assert_non_null(strstr(err.text, "--state"));
    assert_int_equal(state_owner(dir, &owner, &err), TY_OK);
    assert_int_equal(owner, pid);
    kill_and_reap(pid);
}

static void acquire_cleans_up_when_the_owner_was_killed(void **state) {
    (void)state;
    const char *dir = test_temp_dir();
    state_dir s;
    ty_err err;
    pid_t owner, pid = own_in_child(dir);
    const char *sock = test_path("%s/run/workers.sock", dir),
               *json = test_path("%s/status.json", dir);
    assert_int_equal(ty_file_write_atomic(sock, "x", 1, &err), TY_OK);
    assert_int_equal(ty_file_write_atomic(json, "x", 1, &err), TY_OK);
    kill_and_reap(pid);
    assert_int_equal(state_owner(dir, &owner, &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "not running"));
    assert_int_equal(state_acquire(&s, dir, &err), TY_OK);
    assert_false(exists(sock));
    assert_false(exists(json));
    state_release(&s);
}

/* The killed owner's service still lives for a while: its ports are not free before that. */
static void acquire_waits_for_the_processes_of_a_killed_owner(void **state) {
    (void)state;
    const char *dir = test_path("%s/waits", test_temp_dir());
    const char *gone = test_path("%s/gone", test_temp_dir());
    int ends[2];
    char byte;
    state_dir s;
    ty_err err;
    assert_int_equal(pipe(ends), 0);
    pid_t owner = fork();
    assert_true(owner >= 0);
    if (owner == 0) {
        if (state_acquire(&s, dir, NULL) != TY_OK) _exit(1);
        pid_t service = fork();
        if (service == 0) {
            if (write(ends[1], "K", 1) != 1) _exit(1);
            close(ends[1]);
            usleep(300000);
            if (ty_file_write_atomic(gone, "x", 1, NULL) != TY_OK) _exit(1);
            _exit(0);
        }
        for (;;) pause();
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    kill_and_reap(owner);
    assert_int_equal(state_acquire(&s, dir, &err), TY_OK);
    assert_true(exists(gone));
    state_release(&s);
}

static void release_leaves_the_logs_alone_when_it_cleans(void **state) {
    (void)state;
    const char *dir = test_path("%s/a/b", test_temp_dir());
    state_dir s;
    ty_err err;
    assert_int_equal(state_acquire(&s, dir, &err), TY_OK);
    const char *log = test_path("%s/log/vit.0.log", dir);
    assert_int_equal(ty_file_write_atomic(log, "x", 1, &err), TY_OK);
    state_release(&s);
    assert_true(exists(log));
    assert_false(exists(test_path("%s/lock", dir)));
    assert_false(exists(test_path("%s/run", dir)));
    assert_int_equal(state_acquire(&s, dir, &err), TY_OK); /* and again */
    state_release(&s);
    state_release(&s); /* harmless */
}

static void run_dir_is_short_when_the_state_dir_is_deep(void **state) {
    (void)state;
    const char *dir = test_path("%s/%0120d", test_temp_dir(), 0);
    state_dir s;
    assert_int_equal(state_acquire(&s, dir, NULL), TY_OK);
    char run[STATE_PATH];
    strcpy(run, s.run);
    assert_true(strlen(run) + strlen("/gateways.sock") < 108);
    assert_true(exists(run));
    state_release(&s);
    assert_false(exists(run));
}

static void resolve_follows_flag_then_runtime_dir_then_tmp(void **state) {
    (void)state;
    char out[STATE_PATH];
    const char *tmp = test_temp_dir();
    assert_int_equal(state_resolve("/x/y", out, NULL), TY_OK);
    assert_string_equal(out, "/x/y");
    assert_int_equal(state_resolve("rel", out, NULL), TY_OK);
    assert_true(out[0] == '/' && strstr(out, "/rel"));
    assert_int_equal(setenv("XDG_RUNTIME_DIR", tmp, 1), 0);
    assert_int_equal(state_resolve(NULL, out, NULL), TY_OK);
    assert_string_equal(out, test_path("%s/tyto", tmp));
    unsetenv("XDG_RUNTIME_DIR");
    assert_int_equal(state_resolve(NULL, out, NULL), TY_OK);
    assert_string_equal(out, test_path("/tmp/tyto-%u", (unsigned)getuid()));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acquire_refuses_and_names_the_owner_when_it_lives),
        cmocka_unit_test(acquire_waits_for_the_processes_of_a_killed_owner),
        cmocka_unit_test(acquire_cleans_up_when_the_owner_was_killed),
        cmocka_unit_test(release_leaves_the_logs_alone_when_it_cleans),
        cmocka_unit_test(run_dir_is_short_when_the_state_dir_is_deep),
        cmocka_unit_test(resolve_follows_flag_then_runtime_dir_then_tmp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
