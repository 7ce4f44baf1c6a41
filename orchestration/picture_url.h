/* picture_url.h - a picture's bytes as the data URL that the API takes. */
#ifndef TY_PICTURE_URL_H
#define TY_PICTURE_URL_H

#include "common/base/err.h"

#include <stddef.h>

/* "data:image/jpeg;base64,..."; free() it.  The type is told by the first bytes, image/jpeg for others: the service looks at
 * the picture itself, and says so when it is none.  Fails: TY_ENOMEM. */
ty_status picture_url_of_bytes(const void *bytes, size_t size, char **out, ty_err *err);
/* Of a file of at most 32 MiB, "-" for stdin.  Fails also as ty_file_read does. */
ty_status picture_url_of_file(const char *path, char **out, ty_err *err);

#endif
