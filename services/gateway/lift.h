/*
 * lift.h - takes large data URLs out of a request's JSON before it is parsed: a name stands in for each.
 *
 * A JSON parser reads a string letter by letter and copies it; for tens of megabytes of base64 that takes
 * a second, in which the loop would serve nobody and miss its heartbeats.  Finding the end of a string takes
 * a memchr.  What a URL is, and whether it is where a URL may be, is decided by those who read the rest.
 */
#ifndef GATEWAY_LIFT_H
#define GATEWAY_LIFT_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum { LIFT_MIN_BYTES = 4096, LIFT_MAX = 128, LIFT_NAME_BYTES = 64 };

typedef struct {
    const char *bytes; /* into the body */
    size_t len;
} lift_url;

typedef struct {
    const char *json; /* what is left to parse: the body itself when nothing was lifted */
    size_t len;
    char *own;       /* memory of json, or NULL */
    char secret[33]; /* makes the names unforgeable */
    lift_url url[LIFT_MAX];
    int n;
} lift;

/* body: borrowed for the life of the lift.  Lifts each string literal without escapes that begins with
 * `data:` and has LIFT_MIN_BYTES or more, LIFT_MAX at most.  Fails: TY_ENOMEM, TY_EINTERNAL. */
ty_status lift_init(lift *l, const char *body, size_t len, ty_err *err);
void lift_clear(lift *l);
/* The URL that `text` names, or text itself. */
lift_url lift_find(const lift *l, const char *text);

#endif
