/*
 * keys.h - the CURVE keys of the wire: a pair for each role, in one directory.
 *
 *     DIR/ROLE.key   the secret key, one line of Z85; mode 0600
 *     DIR/ROLE.pub   the public keys that may act in the role, one a line (several while keys are changed)
 *
 * Roles are "broker", "gateway" and the stages' names.  A process reads its own ROLE.key and broker.pub, the
 * broker its own key and every ROLE.pub; so a host needs the files of what it runs, no more.
 */
#ifndef TY_WIRE_KEYS_H
#define TY_WIRE_KEYS_H

#include "common/base/err.h"

enum { TY_KEY_TEXT = 41, TY_KEY_ROLES = 6, TY_KEY_ROLE_TEXT = 16 };

extern const char *const ty_key_role[TY_KEY_ROLES]; /* [0] is "broker" */

typedef struct {
    char public_key[TY_KEY_TEXT], secret_key[TY_KEY_TEXT]; /* Z85 */
    char broker_key[TY_KEY_TEXT];                          /* the broker's public one */
} ty_keys;

/* Makes the directory (0700) if there is none, and a new pair for each role in it (0600).  Fails:
 * TY_EEXIST (one of the files is there: nothing is written), TY_EIO, TY_EUNSUPPORTED (libzmq without
 * CURVE).  After a failure none of the files is left. */
ty_status ty_keys_make(const char *dir, ty_err *err);
/* Reads what a process of that role needs.  Fails: TY_ENOTFOUND, TY_EFORMAT (no Z85 key), TY_EAUTH (others
 * may read the secret), TY_EIO, TY_EUNSUPPORTED. */
ty_status ty_keys_load(ty_keys *k, const char *dir, const char *role, ty_err *err);
/* Calls add for each public key of the role; its failure ends the reading.  A role without a file has none. */
ty_status ty_keys_each_public(const char *dir, const char *role,
                              ty_status (*add)(void *ctx, const char *role, const char *key,
                                               ty_err *err),
                              void *ctx, ty_err *err);
/* The options of every program that has a socket of the wire; keys and insecure: where they go. */
#define TY_WIRE_SECURITY_OPTIONS(keys, insecure)                                                   \
    TY_OPT_STR("keys", "TYTO_KEYS", keys, NULL, "DIR",                                             \
               "keys for tcp endpoints (`tyto keys` makes them)"),                                 \
        TY_OPT_FLAG("insecure-tcp", "TYTO_INSECURE_TCP", insecure,                                 \
                    "allow tcp endpoints beyond this machine without keys")
/* Overwrites the secrets. */
void ty_keys_clear(ty_keys *k);

#endif
