/* utf8.c - see utf8.h. */
#include "common/base/utf8.h"

/* Length of the character that this first byte announces; 0 for a byte that cannot be first. */
static size_t announced(unsigned char b) {
    if (b < 0x80) return 1;
    if (b >= 0xC2 && b <= 0xDF) return 2;
    if (b >= 0xE0 && b <= 0xEF) return 3;
    if (b >= 0xF0 && b <= 0xF4) return 4;
    return 0;
}

/* Only the second byte's range depends on the first: it excludes overlong forms, surrogates and
 * what lies above U+10FFFF. */
static bool follows(unsigned char first, size_t i, unsigned char b) {
    if (i == 1 && first == 0xE0) return b >= 0xA0 && b <= 0xBF;
    if (i == 1 && first == 0xED) return b >= 0x80 && b <= 0x9F;
    if (i == 1 && first == 0xF0) return b >= 0x90 && b <= 0xBF;
    if (i == 1 && first == 0xF4) return b >= 0x80 && b <= 0x8F;
    return (b & 0xC0) == 0x80;
}

/* How many of the first `len` bytes go on with the character that begins at text. */
static size_t matching(const unsigned char *s, size_t len, size_t want) {
    size_t i = 1;
    while (i < len && i < want && follows(s[0], i, s[i])) i++;
    return i;
}

size_t ty_utf8_decode(const char *text, size_t len, uint32_t *code) {
    const unsigned char *s = (const unsigned char *)text;
    size_t n = announced(s[0]);
    if (!n || n > len || matching(s, n, n) != n) return 0;
    uint32_t c = n == 1 ? s[0] : s[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) c = c << 6 | (s[i] & 0x3Fu);
    *code = c;
    return n;
}

bool ty_utf8_is_cut(const char *text, size_t len) {
    const unsigned char *s = (const unsigned char *)text;
    size_t n = announced(s[0]);
    return n > len && matching(s, len, n) == len;
}

bool ty_utf8_is_valid(const char *text, size_t len) {
    uint32_t code;
    for (size_t i = 0; i < len;) {
        size_t n = ty_utf8_decode(text + i, len - i, &code);
        if (!n) return false;
        i += n;
    }
    return true;
}

bool ty_utf8_is_space(uint32_t c) {
    if (c >= 0x09 && c <= 0x0D) return true;
    if (c >= 0x1C && c <= 0x20) return true;
    if (c >= 0x2000 && c <= 0x200A) return true;
    return c == 0x85 || c == 0xA0 || c == 0x1680 || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

void ty_utf8_strip(const char **text, size_t *len) {
    uint32_t code;
    size_t n;
    while (*len && (n = ty_utf8_decode(*text, *len, &code)) && ty_utf8_is_space(code)) {
        *text += n;
        *len -= n;
    }
    while (*len) {
        for (n = 1; n < *len && n < 4 && ((unsigned char)(*text)[*len - n] & 0xC0) == 0x80;) n++;
        if (ty_utf8_decode(*text + *len - n, n, &code) != n || !ty_utf8_is_space(code)) return;
        *len -= n;
    }
}
