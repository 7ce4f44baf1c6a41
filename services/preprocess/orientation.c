/* orientation.c - see orientation.h.  The bytes come from strangers: nothing is read that was not measured. */
#include "services/preprocess/orientation.h"

#include <stdbool.h>
#include <string.h>

enum { UPRIGHT = 1, TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3, ENTRY_BYTES = 12 };

/* A stretch of the file. */
typedef struct {
    const uint8_t *p;
    size_t n;
} span;

static const span nothing;

static span part(span s, size_t at, size_t n) {
    return at <= s.n && n <= s.n - at ? (span){s.p + at, n} : nothing;
}

static bool begins(span s, const char *text, size_t n) {
    return s.n >= n && memcmp(s.p, text, n) == 0;
}

/* An unsigned number of n bytes at `at`; 0 beyond the end. */
static uint32_t number(span s, size_t at, size_t n, bool big_endian) {
    span x = part(s, at, n);
    uint32_t v = 0;
    for (size_t i = 0; i < x.n; i++) v = v << 8 | x.p[big_endian ? i : x.n - 1 - i];
    return v;
}

/* ---- where the EXIF block is ---- */

/* Segments up to the first scan: FF, marker, two bytes of length that count themselves. */
static span find_in_jpeg(span s) {
    for (size_t at = 2; at + 4 <= s.n && s.p[at] == 0xff;) {
        uint8_t marker = s.p[at + 1];
        if (marker == 0xff) { /* filling */
            at++;
            continue;
        }
        size_t len = number(s, at + 2, 2, true);
        if (marker == 0xda || marker == 0xd9 || len < 2) break;
        span body = part(s, at + 4, len - 2);
        if (marker == 0xe1 && begins(body, "Exif\0\0", 6)) return part(body, 6, body.n - 6);
        at += 2 + len;
    }
    return nothing;
}

/* Chunks: four bytes of length, four of type, the data, four of CRC. */
static span find_in_png(span s) {
    for (size_t at = 8; at + 12 <= s.n;) {
        size_t len = number(s, at, 4, true);
        span body = part(s, at + 8, len);
        if (len > s.n) break;
        if (memcmp(s.p + at + 4, "eXIf", 4) == 0) return body;
        at += 12 + len;
    }
    return nothing;
}

/* Chunks: four bytes of type, four of length, the data, padded to an even length. */
static span find_in_webp(span s) {
    for (size_t at = 12; at + 8 <= s.n;) {
        size_t len = number(s, at + 4, 4, false);
        span body = part(s, at + 8, len);
        if (len > s.n) break;
        if (memcmp(s.p + at, "EXIF", 4) == 0)
            return begins(body, "Exif\0\0", 6) ? part(body, 6, body.n - 6) : body;
        at += 8 + len + len % 2;
    }
    return nothing;
}

/* ---- the block: a TIFF file, whose first directory has the tag ---- */

int orientation_of(const uint8_t *bytes, size_t n) {
    span s = {bytes, n}, tiff;
    if (begins(s, "\xff\xd8", 2))
        tiff = find_in_jpeg(s);
    else if (begins(s, "\x89PNG\r\n\x1a\n", 8))
        tiff = find_in_png(s);
    else
        tiff = begins(s, "RIFF", 4) ? find_in_webp(s) : nothing;
    bool big = begins(tiff, "MM\0*", 4);
    if (!big && !begins(tiff, "II*\0", 4)) return UPRIGHT;
    size_t directory = number(tiff, 4, 4, big);
    size_t count = number(tiff, directory, 2, big);
    for (size_t i = 0; i < count; i++) {
        span entry = part(tiff, directory + 2 + i * ENTRY_BYTES, ENTRY_BYTES);
        if (entry.n == 0) break;
        if (number(entry, 0, 2, big) != TAG_ORIENTATION) continue;
        uint32_t v = number(entry, 2, 2, big) == TYPE_SHORT ? number(entry, 8, 2, big) : UPRIGHT;
        return v >= 1 && v <= 8 ? (int)v : UPRIGHT;
    }
    return UPRIGHT;
}

/* ---- turning ---- */

/* Where the upright picture's pixel x, y comes from. */
static void source(int orientation, const image *from, int x, int y, int *sx, int *sy) {
    int right = from->w - 1, bottom = from->h - 1;
    switch (orientation) {
    case 2: *sx = right - x, *sy = y; return;
    case 3: *sx = right - x, *sy = bottom - y; return;
    case 4: *sx = x, *sy = bottom - y; return;
    case 5: *sx = y, *sy = x; return;
    case 6: *sx = y, *sy = bottom - x; return;
    case 7: *sx = right - y, *sy = bottom - x; return;
    case 8: *sx = right - y, *sy = x; return;
    default: *sx = x, *sy = y;
    }
}

ty_status orientation_apply(image *im, int orientation, const image_limits *limits, ty_err *err) {
    if (orientation <= UPRIGHT || orientation > 8) return TY_OK;
    image to = {0};
    bool lying = orientation >= 5;
    ty_status st = image_alloc(&to, "upright", im->mode, lying ? im->h : im->w,
                               lying ? im->w : im->h, limits, err);
    if (st != TY_OK) return st;
    memcpy(to.palette, im->palette, sizeof to.palette);
    size_t bands = (size_t)image_bands(im->mode);
    uint8_t *out = to.data;
    for (int y = 0; y < to.h; y++)
        for (int x = 0; x < to.w; x++, out += bands) {
            int sx, sy;
            source(orientation, im, x, y, &sx, &sy);
            memcpy(out, im->data + ((size_t)sy * (size_t)im->w + (size_t)sx) * bands, bands);
        }
    image_clear(im);
    *im = to;
    return TY_OK;
}
