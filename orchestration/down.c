/* down.c - `tyto down`: asks the supervisor of a state directory to stop, and waits until it has. */
#include "orchestration/commands.h"
#include "orchestration/state.h"

#include "common/base/clock.h"
#include "common/base/options.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { POLL_NS = 20000000 };

/* TY_OK when nobody owns dir any more; a new owner counts as the end of the old one. */
static ty_status wait_gone(const char *dir, pid_t old, int timeout_s, ty_err *err) {
    int64_t until = ty_now_us() + (int64_t)timeout_s * 1000000;
    for (pid_t now;;) {
        ty_status st = state_owner(dir, &now, err);
        if (st == TY_ENOTFOUND || (st == TY_OK && now != old)) return TY_OK;
        if (st != TY_OK) return st;
        if (ty_now_us() > until)
            return ty_fail(err, TY_ETIMEOUT,
                           "process %d still runs after %d s; its log is in %s/log", (int)old,
                           timeout_s, dir);
        nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    }
}

static ty_status stop(const char *dir, int timeout_s, ty_err *err) {
    pid_t pid;
    ty_status st = state_owner(dir, &pid, err);
    if (st == TY_ENOTFOUND) {
        /* what a killed supervisor left goes too: taking its place and leaving in order does it */
        state_dir s;
        char lock[STATE_PATH];
        bool left = state_path(dir, "lock", lock) && access(lock, F_OK) == 0;
        if (left && state_acquire(&s, dir, NULL) == TY_OK) state_release(&s);
        return st;
    }
    if (st != TY_OK) return st;
    if (kill(pid, SIGTERM) != 0)
        return ty_fail(err, TY_EIO, "process %d: %s", (int)pid, strerror(errno));
    return wait_gone(dir, pid, timeout_s, err);
}

int cmd_down(int argc, char **argv) {
    static struct {
        const char *state;
        int timeout;
    } opt;
    static const ty_option table[] = {
        TY_OPT_STR("state", "TYTO_STATE", opt.state, NULL, "DIR", "state directory of `tyto up`"),
        TY_OPT_INT("timeout", NULL, opt.timeout, 60, 1, 86400, "seconds to wait for the end"),
        TY_OPT_END};
    ty_options_next next = ty_options_parse(
        table, "tyto down [--state DIR]",
        "Stops a running `tyto up`: requests in flight are finished, then all processes end.", argc,
        argv, NULL);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    char dir[STATE_PATH];
    ty_err err = {0};
    ty_status st = state_resolve(opt.state, dir, &err);
    if (st == TY_OK) st = stop(dir, opt.timeout, &err);
    if (st != TY_OK) {
        fprintf(stderr, "tyto down: %s\n", err.text);
        return 1;
    }
    printf("stopped; the logs are in %s/log\n", dir);
    return 0;
}
