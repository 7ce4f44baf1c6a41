/* json_text.c - see json_text.h.  UTF-8 as in RFC 3629: no overlong forms, no surrogates. */
#include "services/gateway/json_text.h"

#include <stdint.h>
#include <string.h>

/* Bytes of the character at p (1..4), 0 when there is none. */
static size_t char_bytes(const unsigned char *p, size_t len) {
    if (p[0] < 0x80) return 1;
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || len < n) return 0;
    uint32_t c = p[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
    return n;
}

size_t json_text_valid(const char *bytes, size_t len) {
    size_t i = 0;
    while (i < len) {
        size_t n = char_bytes((const unsigned char *)bytes + i, len - i);
        if (n == 0) break;
        i += n;
    }
    return i;
}

json_t *json_text(const char *bytes, size_t len) {
    if (json_text_valid(bytes, len) == len) return json_stringn(bytes, len);
    ty_buf b = ty_buf_make(3 * len);
    for (size_t i = 0; i < len;) {
        size_t n = json_text_valid(bytes + i, len - i);
        ty_buf_append(&b, bytes + i, n);
        i += n;
        if (i < len) {
            ty_buf_puts(&b, "\xef\xbf\xbd");
            i++;
        }
    }
    json_t *s = b.failed == TY_OK ? json_stringn(b.data, b.len) : NULL;
    ty_buf_clear(&b);
    return s;
}

/* The escape of a byte that JSON wants one for; NULL: it stands for itself. */
static const char *escape_of(unsigned char c, char room[8]) {
    static const char hex[] = "0123456789ABCDEF";
    switch (c) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\b': return "\\b";
    case '\f': return "\\f";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    default: break;
    }
    if (c >= 0x20) return NULL;
    memcpy(room, "\\u00", 4);
    room[4] = hex[c >> 4];
    room[5] = hex[c & 15];
    room[6] = '\0';
    return room;
}

ty_status json_text_write(ty_buf *out, const char *bytes, size_t len) {
    char room[8];
    size_t plain = 0, i = 0; /* bytes[plain..i) stand for themselves and are not written yet */
    ty_buf_append(out, "\"", 1);
    while (i < len) {
        size_t n = char_bytes((const unsigned char *)bytes + i, len - i);
        const char *e = n == 0   ? "\xef\xbf\xbd"
                        : n == 1 ? escape_of((unsigned char)bytes[i], room)
                                 : NULL;
        if (e) {
            ty_buf_append(out, bytes + plain, i - plain);
            ty_buf_puts(out, e);
        }
        i += n ? n : 1;
        if (e) plain = i;
    }
    ty_buf_append(out, bytes + plain, len - plain);
    ty_buf_append(out, "\"", 1);
    return out->failed;
}
