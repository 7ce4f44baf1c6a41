/* picture_url.c - base64 by OpenSSL. */
#include "orchestration/picture_url.h"

#include "common/base/file.h"

#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PICTURE_BYTES_MAX = 32 << 20 };

static const char *mime_type(const char *bytes, size_t size) {
    if (size > 8 && memcmp(bytes, "\x89PNG", 4) == 0) return "image/png";
    if (size > 12 && memcmp(bytes + 8, "WEBP", 4) == 0) return "image/webp";
    if (size > 12 && memcmp(bytes + 8, "AVI ", 4) == 0) return "video/x-msvideo";
    if (size > 12 && memcmp(bytes + 4, "ftyp", 4) == 0) return "video/mp4";
    if (size > 4 && memcmp(bytes, "GIF8", 4) == 0) return "image/gif";
    if (size > 4 && memcmp(bytes, "\x1A\x45\xDF\xA3", 4) == 0) return "video/webm";
    return "image/jpeg";
}

ty_status picture_url_of_bytes(const void *bytes, size_t size, char **out, ty_err *err) {
    const char *type = mime_type(bytes, size);
    size_t head = strlen("data:;base64,") + strlen(type), room = head + 4 * ((size + 2) / 3) + 1;
    *out = size <= INT_MAX / 2 ? malloc(room) : NULL;
    if (!*out) return ty_fail(err, TY_ENOMEM, "no memory for a picture of %zu bytes", size);
    (void)snprintf(*out, room, "data:%s;base64,", type);
    (void)EVP_EncodeBlock((unsigned char *)*out + head, bytes, (int)size);
    return TY_OK;
}

ty_status picture_url_of_file(const char *path, char **out, ty_err *err) {
    char *bytes = NULL;
    size_t size = 0;
    *out = NULL;
    ty_status st = ty_file_read(path, PICTURE_BYTES_MAX, &bytes, &size, err);
    if (st == TY_OK) st = picture_url_of_bytes(bytes, size, out, err);
    free(bytes);
    return st;
}
