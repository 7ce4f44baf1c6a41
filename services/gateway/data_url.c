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

static bool begins(const char *url, size_t len, const char *with) {
    size_t n = strlen(with);
    return len >= n && strncasecmp(url, with, n) == 0;
}

static int shown(size_t n) {
    return n < 60 ? (int)n : 60;
}

/* "image/png;base64" of "data:image/png;base64,..." is checked; *data is where what follows begins. */
static ty_status check_head(const char *url, size_t len, bool video, size_t *data, ty_err *err) {
    const char *example = video ? "data:video/mp4;base64,..." : "data:image/jpeg;base64,...";
    const char *kind = video ? "video" : "picture";
    if (begins(url, len, "http:") || begins(url, len, "https:"))
        return ty_fail(err, TY_EUNSUPPORTED,
                       "%s addresses are not fetched; send the %s itself as %s", kind, kind,
                       example);
    if (!begins(url, len, "data:"))
        return ty_fail(err, TY_EUNSUPPORTED, "\"%.*s\" is no data URL; send %s", shown(len), url,
                       example);
    const char *type = url + 5, *comma = memchr(url, ',', len);
    if (!comma) return ty_fail(err, TY_EINVAL, "the data URL has no comma before its data");
    size_t n = (size_t)(comma - type);
    if (!begins(type, n, "image/") && !(video && begins(type, n, "video/")))
        return ty_fail(err, TY_EUNSUPPORTED, "media type \"%.*s\" is not %simage/...", shown(n),
                       type, video ? "video/... or " : "");
    if (n < 13 || !begins(comma - 7, 7, ";base64"))
        return ty_fail(err, TY_EINVAL, "the data URL is not base64, want %s", example);
    *data = (size_t)(comma + 1 - url);
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

ty_status data_url_decode(const char *url, size_t len, bool video, size_t max_bytes,
                          uint8_t **bytes, size_t *size, ty_err *err) {
    size_t head = 0;
    int pad = 0;
    *bytes = NULL;
    *size = 0;
    ty_status st = check_head(url, len, video, &head, err);
    if (st != TY_OK) return st;
    const char *data = url + head;
    len -= head;
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
