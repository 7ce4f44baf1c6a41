/*
 * fetch.h - pictures from http(s) addresses that a client names, for those who allow it: libcurl in a thread of its own,
 * results in the event loop.
 *
 * A client's word must not make this server reach what the client cannot: only hosts on the allow-list are asked,
 * by every redirect too; the address that a name resolves to must be a public one, which is checked when the socket is
 * opened, so there is no time between the check and the use; no proxy, no credentials, no other scheme.
 */
#ifndef GATEWAY_FETCH_H
#define GATEWAY_FETCH_H

#include "common/base/err.h"

#include <event2/event.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fetch fetch;
typedef struct fetch_job fetch_job;

typedef struct {
    const char
        *hosts; /* "HOST[:PORT],...": a name, "*.NAME" (what is under it), "*" (any); without a port
                         * the scheme's own alone */
    bool allow_private; /* addresses that are not public, too: for a closed network */
    size_t max_bytes;   /* of a picture */
    int timeout_ms;     /* redirects included */
} fetch_options;

/* Fails: TY_EINVAL (hosts is empty or too long), TY_ENOMEM, TY_EINTERNAL (no thread, no libcurl). */
ty_status fetch_create(fetch **out, struct event_base *base, const fetch_options *opt, ty_err *err);
void fetch_destroy(fetch **f);
/* Does it begin with http:// or https://? */
bool fetch_is_address(const char *url, size_t len);
/* May it be asked for?  TY_EINVAL: no good URL.  TY_EAUTH: its host is not on the list, or it has a user name. */
ty_status fetch_check(const fetch *f, const char *url, ty_err *err);

/* st TY_OK: bytes are the function's to free().  TY_EAUTH: a private address or a redirect to elsewhere; TY_ELIMIT: too large; TY_ETIMEOUT;
 * TY_EIO: anything else that failed, as a status other than 200. */
typedef void (*fetch_done_fn)(void *ctx, ty_status st, uint8_t *bytes, size_t size,
                              const ty_err *err);
/* done runs once in the event loop, never from inside, unless the job is forgotten.  Fails at once as fetch_check does, and TY_ENOMEM. */
ty_status fetch_start(fetch *f, const char *url, fetch_done_fn done, void *ctx, fetch_job **job,
                      ty_err *err);
void fetch_forget(fetch_job **job);

#endif
