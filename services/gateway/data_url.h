/*
 * data_url.h - a picture or video inside a request: `data:image/jpeg;base64,...` (RFC 2397) to bytes.
 *
 * Strict: the media type must be image/... (of a video video/... too, for GIF and WebP are images), the encoding base64 with its padding and without line breaks.
 * What the bytes are is the preprocess stage's to find out.
 */
#ifndef GATEWAY_DATA_URL_H
#define GATEWAY_DATA_URL_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* url: len bytes.  *bytes: free() it.  Fails: TY_EINVAL (not such a URL; says where), TY_EUNSUPPORTED (http(s) and other
 * schemes, other media types), TY_ELIMIT (more than max_bytes decoded), TY_ENOMEM. */
ty_status data_url_decode(const char *url, size_t len, bool video, size_t max_bytes,
                          uint8_t **bytes, size_t *size, ty_err *err);

#endif
