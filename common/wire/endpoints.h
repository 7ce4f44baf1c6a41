/*
 * endpoints.h - the brokers that a worker or a gateway connects to: a list in one option or variable,
 * "ipc:///run/tyto/b0.sock,tcp://10.0.0.2:7001".
 */
#ifndef TY_WIRE_ENDPOINTS_H
#define TY_WIRE_ENDPOINTS_H

#include "common/base/err.h"

enum { TY_ENDPOINTS_MAX = 8 };

typedef struct {
    char *text; /* the items' storage */
    const char *item[TY_ENDPOINTS_MAX];
    int n;
} ty_endpoints;

/* Splits at commas; white space around an item is dropped.  ty_endpoints_clear it, also after a failure.
 * Whether an endpoint is a good one is ty_socket_connect's to say.  Fails: TY_EINVAL (none, an empty
 * one, the same one twice: a worker would drive itself out there), TY_ELIMIT, TY_ENOMEM. */
ty_status ty_endpoints_parse(ty_endpoints *e, const char *text, ty_err *err);
void ty_endpoints_clear(ty_endpoints *e);

#endif
