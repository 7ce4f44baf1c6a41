/*
 * state.h - the state directory of one `tyto up`: who owns it, and what lies where.
 *
 *     STATE/lock          locked (fcntl) by the supervisor as long as it lives
 *     STATE/status.json   what the supervisor last knew of its processes
 *     STATE/run/          the sockets of brokers and stores
 *     STATE/data/         what outlives everything: the private store's conversations, keys
 *     STATE/log/NAME.log  a log for each process; stays when all is over
 *
 * The lock is the truth: the kernel drops it with its owner, however that ends, and tells its pid.
 */
#ifndef TY_STATE_H
#define TY_STATE_H

#include "common/base/err.h"

#include <stdbool.h>
#include <sys/types.h>

enum { STATE_PATH = 1024, STATE_ENDPOINT = 160 };

typedef struct {
    char dir[STATE_PATH]; /* absolute */
    char run[STATE_PATH]; /* STATE/run, or a short directory under /tmp when that is too long */
    int lock_fd;          /* -1: not ours */
} state_dir;

/* given, or $XDG_RUNTIME_DIR/tyto, or /tmp/tyto-UID; made absolute.  Creates nothing. */
ty_status state_resolve(const char *given, char out[STATE_PATH], ty_err *err);
/* Makes the directories, takes the lock, waits for the end of a killed owner's processes, removes what it left.
 * Fails: TY_EEXIST (a live owner; names its pid; or processes that do not end), TY_EAUTH (the directory is another user's), TY_EIO. */
ty_status state_acquire(state_dir *s, const char *dir, ty_err *err);
/* mkdir -p; the last one private, and it must be ours: /tmp is everybody's.  Fails: TY_EIO, TY_EAUTH. */
ty_status state_private_dir(const char *dir, ty_err *err);
/* Removes all but data and logs and drops the lock.  Safe on a zeroed or failed one with lock_fd -1. */
void state_release(state_dir *s);
/* Removes a released directory for good: its data, its logs, itself.  keep_logs: the logs stay. */
void state_remove(const char *dir, bool keep_logs);
/* The live owner of dir.  TY_ENOTFOUND: nothing runs there. */
ty_status state_owner(const char *dir, pid_t *pid, ty_err *err);
/* STATE/name; false when it does not fit. */
int state_path(const char *dir, const char *name, char out[STATE_PATH]);

#endif
