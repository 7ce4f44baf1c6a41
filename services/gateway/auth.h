/*
 * auth.h - API keys: a file with one key per line, and `Authorization: Bearer KEY`.
 *
 * A line is a key as it stands, or `sha256:` and 64 hex digits: the key's digest, so that the file
 * need not hold the key.  Blank lines and lines that begin with # are skipped.  Only digests are kept in
 * memory, and all of them are compared in constant time.
 */
#ifndef GATEWAY_AUTH_H
#define GATEWAY_AUTH_H

#include "common/base/err.h"

#include <stdbool.h>

typedef struct auth auth;

/* path NULL or "": no keys, everybody may.  Fails: TY_ENOTFOUND, TY_EIO, TY_EFORMAT (names the line),
 * TY_ENOMEM; a file without a key is TY_EFORMAT. */
ty_status auth_create(auth **out, const char *path, ty_err *err);
void auth_destroy(auth **a);
bool auth_has_keys(const auth *a);
/* Lines that hold the key itself: worth a warning. */
int auth_plain_keys(const auth *a);
/* header: value of Authorization, or NULL. */
bool auth_allows(const auth *a, const char *header);
/* Whose the request is: the key's SHA-256 in hex; "anonymous" where no keys are asked for. */
enum { AUTH_OWNER = 65 };
void auth_owner(const auth *a, const char *header, char owner[AUTH_OWNER]);

#endif
