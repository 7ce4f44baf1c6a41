/* json_text.h - bytes of any kind as a JSON string.  jansson refuses what is not UTF-8; a token's piece, a
 * file name or an error text may be anything. */
#ifndef GATEWAY_JSON_TEXT_H
#define GATEWAY_JSON_TEXT_H

#include "common/base/buf.h"

#include <jansson.h>
#include <stddef.h>

/* A string in which each byte that is no UTF-8 is U+FFFD; NULL: out of memory. */
json_t *json_text(const char *bytes, size_t len);
/* The same as text, quotes included, put behind what is in `out`: what json_dumps would write.  Fails as ty_buf does. */
ty_status json_text_write(ty_buf *out, const char *bytes, size_t len);
/* Length of the longest prefix that is whole, valid UTF-8. */
size_t json_text_valid(const char *bytes, size_t len);

#endif
