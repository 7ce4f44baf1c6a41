/* data_url.c - see data_url.h.  OpenSSL decodes; its decoder skips blanks and stops at a dash, so the
 * alphabet is checked here first, which also gives the place of what is wrong. */
#include "services/gateway/data_url.h"

#include <limits.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* "image/png;base64" of "data:image/png;base64,..." is checked; *data is what follows the comma. */
static ty_status check_head(const char *url, const char **data, ty_err *err) {
    if (strncasecmp(url, "data:", 5) != 0) {
        if (strncasecmp(url, "http:", 5) == 0 || strncasecmp(url, "https:", 6) == 0)
            return ty_fail(err, TY_EUNSUPPORTED,
                           "picture addresses are not fetched; send the picture itself as "
                           "data:image/jpeg;base64,...");
        return ty_fail(err, TY_EUNSUPPORTED,
                       "\"%.20s\" is no data URL; send data:image/jpeg;base64,...", url);
    }
    const char *type = url + 5, *comma = strchr(type, ',');
    if (!comma) return ty_fail(err, TY_EINVAL, "the data URL has no comma before its data");
    if (strncasecmp(type, "image/", 6) != 0)
        return ty_fail(err, TY_EUNSUPPORTED, "media type \"%.*s\" is not image/...",
                       (int)(comma - type < 60 ? comma - type : 60), type);
    if (comma - type < 13 || strncasecmp(comma - 7, ";base64", 7) != 0)
        return ty_fail(err, TY_EINVAL, "the data URL is not base64, want data:image/...;base64,");
    *data = comma + 1;
    return TY_OK;
}

/* The alphabet, at most two '=' at the end, a multiple of four. */
static ty_status check_base64(const char *data, size_t len, int *pad, ty_err *err) {
    bool known[256] = {false};
    for (const char *p = alphabet; *p; p++) known[(unsigned char)*p] = true;
    size_t n = 0;
    while (n < len && known[(unsigned char)data[n]]) n++;
    *pad = 0;
    while (*pad < 2 && n + (size_t)*pad < len && data[n + (size_t)*pad] == '=') (*pad)++;
    size_t end = n + (size_t)*pad;
    if (end < len)
        return ty_fail(err, TY_EINVAL,
                       "byte %zu of the base64 (0x%02x) is not base64; no line breaks, blanks or "
                       "URL-safe letters",
                       end, (unsigned)(unsigned char)data[end]);
    if (len == 0) return ty_fail(err, TY_EINVAL, "the data URL holds no data");
    if (len % 4 != 0)
        return ty_fail(err, TY_EINVAL,
                       "the base64 has %zu letters, want a multiple of 4: it is cut or lacks its "
                       "padding",
                       len);
    return TY_OK;
}

ty_status data_url_decode(const char *url, size_t max_bytes, uint8_t **bytes, size_t *size,
                          ty_err *err) {
    const char *data = NULL;
    int pad = 0;
    *bytes = NULL;
    *size = 0;
    ty_status st = check_head(url, &data, err);
    if (st != TY_OK) return st;
    size_t len = strlen(data);
    if (len / 4 * 3 > max_bytes + 2 || len > INT_MAX)
        return ty_fail(err, TY_ELIMIT, "the picture has about %zu bytes, at most %zu are taken",
                       len / 4 * 3, max_bytes);
    st = check_base64(data, len, &pad, err);
    if (st != TY_OK) return st;
    uint8_t *out = malloc(len / 4 * 3 + 1);
    if (!out) return ty_fail(err, TY_ENOMEM, "no memory for a picture of %zu bytes", len / 4 * 3);
    int n = EVP_DecodeBlock(out, (const unsigned char *)data, (int)len);
    if (n < pad) {
        free(out);
        return ty_fail(err, TY_EINVAL, "the base64 cannot be decoded");
    }
    if ((size_t)(n - pad) > max_bytes) {
        free(out);
        return ty_fail(err, TY_ELIMIT, "the picture has %d bytes, at most %zu are taken", n - pad,
                       max_bytes);
    }
    *bytes = out;
    *size = (size_t)(n - pad);
    return TY_OK;
}
