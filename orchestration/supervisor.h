/*
 * supervisor.h - keeps a set of child processes running: starts them, restarts those that die, stops
 * them in order, and writes what it knows to STATE/status.json.  Knows nothing of models or HTTP.
 *
 * One thread, signals through a signalfd.  A child dies with the supervisor (PR_SET_PDEATHSIG), is in
 * a process group of its own (a terminal's Ctrl-C reaches the supervisor alone, which then stops all
 * in order) and writes its output to STATE/log/NAME.log.
 */
#ifndef TY_SUPERVISOR_H
#define TY_SUPERVISOR_H

#include "orchestration/state.h"

#include <stdbool.h>

enum { SUPERVISOR_ARGS_MAX = 256, SUPERVISOR_PROBE_TEXT = 256 };

typedef struct {
    char name[64]; /* "vit.0": unique, names the log */
    char stage[32];
    char model[256], model_id[64];   /* "" where the process serves all models */
    char *argv[SUPERVISOR_ARGS_MAX]; /* malloc'ed strings, taken over by supervisor_add */
    int stop_phase;                  /* lower stops first */
} supervisor_child;

/* Appends a copy of text to argv.  Fails: TY_ENOMEM, TY_ELIMIT. */
ty_status supervisor_arg(supervisor_child *c, const char *text, ty_err *err);
void supervisor_child_clear(supervisor_child *c);

typedef struct {
    const state_dir *state;
    bool ignore_hangup; /* the terminal may go away */
    int stop_ms;  /* how long each phase may take to stop in order, before SIGKILL; 0 = 10 s */
    int start_ms; /* how long the start may take; 0 = no limit */
    /* Is everything in service?  If not, why (text of SUPERVISOR_PROBE_TEXT bytes). */
    bool (*probe)(void *ctx, char *why);
    /* Called once, when the probe first says yes. */
    void (*on_ready)(void *ctx);
    void *ctx;
    const char *command; /* shell command run once after on_ready, on our stdout; NULL = none.  Its
                            failure ends the supervisor with TY_EIO */
} supervisor_options;

typedef struct supervisor supervisor;

ty_status supervisor_create(supervisor **out, const supervisor_options *opt, ty_err *err);
void supervisor_destroy(supervisor **s);
/* Takes over c's argv. */
ty_status supervisor_add(supervisor *s, supervisor_child *c, ty_err *err);
/*
 * Runs until SIGTERM, SIGINT (or SIGHUP), then stops all children; a second signal kills them at once.
 * Returns TY_OK after an ordered end.  Fails, with all children gone: TY_EUNAVAILABLE (a child cannot
 * start: what its log says), TY_ETIMEOUT (not ready within start_ms), TY_EIO.
 * The signals stay blocked afterwards: they must not cut the caller's clean-up short.
 * A child that dies after the start is started again: at once, then after 100 ms, 200 ms ... 5 s.
 */
ty_status supervisor_run(supervisor *s, ty_err *err);

#endif
