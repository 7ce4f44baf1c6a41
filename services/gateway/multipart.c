/* multipart.c - see multipart.h.
 *
 *     --BOUNDARY CRLF  headers CRLF CRLF  data CRLF  --BOUNDARY CRLF ...  --BOUNDARY--
 */
#include "services/gateway/multipart.h"

#include <string.h>
#include <strings.h>

enum { BOUNDARY_MAX = 70 }; /* RFC 2046 */

bool multipart_is(const char *content_type) {
    static const char want[] = "multipart/form-data";
    return content_type && strncasecmp(content_type, want, sizeof(want) - 1) == 0;
}

/* `key="value"` or `key=value` among a header's parameters, which begin with the first semicolon.  0: absent; -1: too long. */
static int read_param(const char *header, size_t len, const char *key, char *out, size_t size) {
    const char *end = header + len, *p = memchr(header, ';', len);
    size_t n_key = strlen(key);
    while (p && p < end) {
        p++;
        while (p < end && (*p == ' ' || *p == '\t')) p++;
        const char *equals = memchr(p, '=', (size_t)(end - p));
        if (!equals) return 0;
        bool found = (size_t)(equals - p) == n_key && strncasecmp(p, key, n_key) == 0;
        const char *v = equals + 1;
        bool quoted = v < end && *v == '"';
        size_t n = 0;
        for (v += quoted; v < end && *v != (quoted ? '"' : ';'); v++) {
            if (quoted && *v == '\\' && v + 1 < end) v++;
            if (!found) continue;
            if (n + 1 >= size) return -1;
            out[n++] = *v;
        }
        if (found) {
            out[n] = '\0';
            return 1;
        }
        p = v < end ? memchr(v, ';', (size_t)(end - v)) : NULL;
    }
    return 0;
}

/* Headers from p to the empty line; *data is behind it. */
static ty_status read_headers(multipart_field *f, const char *p, const char *end, const char **data,
                              ty_err *err) {
    static const char name[] = "Content-Disposition:";
    *f = (multipart_field){0};
    for (;;) {
        const char *line = memmem(p, (size_t)(end - p), "\r\n", 2);
        if (!line) return ty_fail(err, TY_EINVAL, "a part's headers have no end");
        if (line == p) break;
        if ((size_t)(line - p) > sizeof(name) && strncasecmp(p, name, sizeof(name) - 1) == 0) {
            size_t n = (size_t)(line - p);
            if (read_param(p, n, "name", f->name, sizeof(f->name)) < 0 ||
                read_param(p, n, "filename", f->filename, sizeof(f->filename)) < 0)
                return ty_fail(err, TY_EINVAL, "the name of a field or file is too long");
        }
        p = line + 2;
    }
    if (!*f->name) return ty_fail(err, TY_EINVAL, "a part has no name");
    *data = p + 2;
    return TY_OK;
}

ty_status multipart_parse(multipart *m, const char *content_type, const char *body, size_t size,
                          ty_err *err) {
    /* "\r\n--" and the boundary: what ends each part; the body's first has no line before it. */
    char mark[4 + BOUNDARY_MAX + 1] = "\r\n--";
    const char *p = body, *end = body + size;
    *m = (multipart){0};
    if (read_param(content_type, strlen(content_type), "boundary", mark + 4, BOUNDARY_MAX + 1) !=
            1 ||
        !mark[4])
        return ty_fail(err, TY_EINVAL, "the Content-Type names no boundary of 1 to 70 letters");
    size_t n = strlen(mark);
    if (size < n || memcmp(p, mark + 2, n - 2) != 0)
        return ty_fail(err, TY_EINVAL, "the body does not begin with its boundary");
    p += n - 2;
    while (end - p >= 2 && memcmp(p, "--", 2) != 0) {
        if (memcmp(p, "\r\n", 2) != 0)
            return ty_fail(err, TY_EINVAL, "a boundary is followed by other than a line's end");
        if (m->n == MULTIPART_FIELDS)
            return ty_fail(err, TY_EINVAL, "more than %d fields", MULTIPART_FIELDS);
        multipart_field *f = &m->field[m->n++];
        ty_status st = read_headers(f, p + 2, end, &f->data, err);
        if (st != TY_OK) return st;
        p = memmem(f->data, (size_t)(end - f->data), mark, n);
        if (!p) return ty_fail(err, TY_EINVAL, "the field %s has no end", f->name);
        f->size = (size_t)(p - f->data);
        p += n;
    }
    if (end - p < 2) return ty_fail(err, TY_EINVAL, "the body has no end");
    return TY_OK;
}

const multipart_field *multipart_find(const multipart *m, const char *name) {
    for (int i = 0; i < m->n; i++)
        if (strcmp(m->field[i].name, name) == 0) return &m->field[i];
    return NULL;
}
