/* utf8.h - UTF-8, one character at a time: strict decoding (no overlong forms, no surrogates, nothing
 * above U+10FFFF), as sentencepiece and Python check it. */
#ifndef TY_BASE_UTF8_H
#define TY_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TY_UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* Bytes of the character at text (1..4) and its code point; 0 when its first byte is malformed or the
 * character is cut (ty_utf8_is_cut tells which).  len >= 1. */
size_t ty_utf8_decode(const char *text, size_t len, uint32_t *code);
/* Are these bytes (1..3) a proper beginning of some character? */
bool ty_utf8_is_cut(const char *text, size_t len);
bool ty_utf8_is_valid(const char *text, size_t len);
/* What Python's str.isspace counts as white space (str.strip removes it). */
bool ty_utf8_is_space(uint32_t code);
/* Takes white space off both ends: *text and *len become the rest. */
void ty_utf8_strip(const char **text, size_t *len);

#endif
