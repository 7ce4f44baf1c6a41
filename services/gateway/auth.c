/* auth.c - see auth.h. */
#include "services/gateway/auth.h"

#include "common/base/file.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { KEYS_MAX = 4096, FILE_MAX_BYTES = 1 << 20 };

typedef unsigned char digest[SHA256_DIGEST_LENGTH];

struct auth {
    digest *key;
    int n, n_plain;
};

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static bool parse_hex(const char *text, unsigned char *out) {
    if (strlen(text) != 2 * sizeof(digest)) return false;
    for (size_t i = 0; i < sizeof(digest); i++) {
        int hi = hex_digit(text[2 * i]), lo = hex_digit(text[2 * i + 1]);
        if (hi < 0 || lo < 0) return false;
        out[i] = (unsigned char)(hi << 4 | lo);
    }
    return true;
}

static ty_status add_line(auth *a, char *line, int number, ty_err *err) {
    line += strspn(line, " \t");
    size_t len = strlen(line);
    while (len && strchr(" \t\r", line[len - 1])) line[--len] = '\0';
    if (!len || *line == '#') return TY_OK;
    if (a->n == KEYS_MAX) return ty_fail(err, TY_ELIMIT, "more than %d API keys", KEYS_MAX);
    digest *p = realloc(a->key, (size_t)(a->n + 1) * sizeof(*p));
    if (!p) return ty_fail(err, TY_ENOMEM, "no memory for the API keys");
    a->key = p;
    bool plain = strncmp(line, "sha256:", 7) != 0;
    if (plain)
        SHA256((const unsigned char *)line, len, a->key[a->n]);
    else if (!parse_hex(line + 7, a->key[a->n]))
        return ty_fail(err, TY_EFORMAT, "line %d: want sha256: and 64 hex digits", number);
    a->n++;
    a->n_plain += plain;
    return TY_OK;
}

ty_status auth_create(auth **out, const char *path, ty_err *err) {
    ty_status st = TY_OK;
    char *text = NULL;
    size_t size = 0;
    *out = NULL;
    auth *a = calloc(1, sizeof(*a));
    if (!a) return ty_fail(err, TY_ENOMEM, "no memory for the API keys");
    if (!path || !*path) goto done;
    st = ty_file_read(path, FILE_MAX_BYTES, &text, &size, err);
    if (st != TY_OK) goto done;
    char *p = text;
    for (int number = 1; p && st == TY_OK; number++) {
        char *line = strsep(&p, "\n");
        st = add_line(a, line, number, err);
    }
    if (st == TY_OK && a->n == 0)
        st = ty_fail(err, TY_EFORMAT, "no key in it; leave --api-key-file out to serve without");
    if (st != TY_OK) ty_err_context(err, "%s", path);
done:
    if (text) OPENSSL_cleanse(text, size);
    free(text);
    if (st == TY_OK)
        *out = a;
    else
        auth_destroy(&a);
    return st;
}

void auth_destroy(auth **a) {
    if (!a || !*a) return;
    free((*a)->key);
    free(*a);
    *a = NULL;
}

bool auth_has_keys(const auth *a) {
    return a->n > 0;
}

int auth_plain_keys(const auth *a) {
    return a->n_plain;
}

/* The digest of the key in `Bearer KEY`; false when the header is another. */
static bool digest_of(const char *header, digest d) {
    if (!header || strncasecmp(header, "Bearer ", 7) != 0) return false;
    const char *key = header + 7 + strspn(header + 7, " ");
    SHA256((const unsigned char *)key, strlen(key), d);
    return true;
}

bool auth_allows(const auth *a, const char *header) {
    digest d;
    if (a->n == 0) return true;
    if (!digest_of(header, d)) return false;
    int found = 0;
    for (int i = 0; i < a->n; i++) found |= CRYPTO_memcmp(d, a->key[i], sizeof(d)) == 0;
    return found != 0;
}

void auth_owner(const auth *a, const char *header, char owner[AUTH_OWNER]) {
    digest d;
    if (a->n == 0 || !digest_of(header, d)) {
        memcpy(owner, "anonymous", 10);
        return;
    }
    for (size_t i = 0; i < sizeof(d); i++) snprintf(owner + 2 * i, 3, "%02x", d[i]);
}
