/* api_key.h - new API keys for a gateway's clients: the file gets the digest, the key itself is only shown. */
#ifndef TY_API_KEY_H
#define TY_API_KEY_H

#include "common/base/err.h"

enum { API_KEY_TEXT = 64 };

/* Draws a key ("tyto-" and 43 characters: 256 bits) and appends its line, `sha256:` and 64 hex digits, to the
 * file, which is made (0600) when there is none; a note before it tells people whose it is ("" = none).
 * Fails: TY_EINVAL (a note of more than a line), TY_EIO. */
ty_status api_key_add(const char *path, const char *note, char key[API_KEY_TEXT], ty_err *err);

#endif
