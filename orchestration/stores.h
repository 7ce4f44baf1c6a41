/*
 * stores.h - the two Redis servers of `tyto up`, which want opposite policies:
 *
 *   state  conversations and their pictures: every write on disk before it is acknowledged, nothing evicted
 *   cache  what the vision stages computed: in memory alone, the least used goes first
 *
 * Each is a private redis-server on a Unix socket that this user alone may open, unless a URL names
 * another, or "none" does without.  The processes get the URLs by environment (TYTO_REDIS_URL,
 * TYTO_CACHE_URL): a URL may hold a password, and arguments are everybody's to read.
 */
#ifndef TY_STORES_H
#define TY_STORES_H

#include "orchestration/supervisor.h"

typedef enum { STORE_STATE, STORE_CACHE, STORE_COUNT } store_kind;

typedef struct {
    const char *given[STORE_COUNT]; /* a URL, "none", NULL: a private server */
    int mib[STORE_COUNT];           /* most memory of a private one; 0 = no limit */
    const char *server;             /* the program: a path, or a name on PATH */
    /* Filled by stores_prepare. */
    char url[STORE_COUNT][STATE_PATH];
    bool own[STORE_COUNT];
    char program[STATE_PATH], dir[STATE_PATH];
} stores;

/* The program, looked for as a shell would; false: there is none. */
bool stores_find_server(const char *name, char out[STATE_PATH]);
/* Checks the URLs, finds redis-server, makes the directory of its data (STATE/data).  Fails: TY_EINVAL
 * (a URL), TY_ENOTFOUND (no redis-server: the remedies), TY_EIO. */
ty_status stores_prepare(stores *s, const state_dir *state, ty_err *err);
/* Sets or clears the two variables for the processes to come. */
ty_status stores_export(const stores *s, ty_err *err);
/* Adds the private servers to the supervisor; stop_phase: theirs. */
ty_status stores_add(const stores *s, supervisor *sup, int stop_phase, ty_err *err);
/* Do the private servers answer?  If not, which (text of SUPERVISOR_PROBE_TEXT bytes). */
bool stores_ready(const stores *s, char *why);

#endif
