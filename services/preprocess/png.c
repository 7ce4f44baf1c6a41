/*
 * png.c - PNG through libpng, in the mode in which Pillow opens it: no gamma, no profile, no
 * transparency applied, palettes kept as indices.
 *
 * libpng leaves by longjmp.  Everything that must be freed hangs on `reader` or `out`, which live
 * in the caller's frame.  Ancillary chunks are skipped unread, so that a compressed text or profile
 * cannot cost memory or time.
 */
#include "services/preprocess/image_decode.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

typedef struct {
    png_structp png;
    png_infop info;
    const uint8_t *next;
    size_t left;
    const image_limits *limits;
    ty_status st;
    ty_err *err;
    jmp_buf leave;
} reader;

_Noreturn static void leave(reader *r, ty_status st) {
    r->st = st;
    longjmp(r->leave, 1);
}

_Noreturn static void on_error(png_structp png, png_const_charp text) {
    reader *r = png_get_error_ptr(png);
    leave(r, ty_fail(r->err, TY_EIMAGE, "PNG: %s", text));
}

static void on_warning(png_structp png, png_const_charp text) {
    (void)png;
    (void)text;
}

static void on_read(png_structp png, png_bytep out, size_t n) {
    reader *r = png_get_io_ptr(png);
    if (n > r->left) leave(r, ty_fail(r->err, TY_EIMAGE, "PNG: the file is cut short"));
    memcpy(out, r->next, n);
    r->next += n;
    r->left -= n;
}

static void check_time(reader *r) {
    ty_status st = image_check_time("PNG", r->limits, r->err);
    if (st != TY_OK) leave(r, st);
}

/* The bytes of a pixel as Pillow has them. */
static image_mode set_transforms(reader *r) {
    int depth = png_get_bit_depth(r->png, r->info);
    switch (png_get_color_type(r->png, r->info)) {
    case PNG_COLOR_TYPE_GRAY:
        if (depth == 16) {
            const uint16_t one = 1;
            if (*(const uint8_t *)&one) png_set_swap(r->png);
            return IMAGE_I16;
        }
        if (depth < 8) png_set_expand_gray_1_2_4_to_8(r->png);
        return depth == 1 ? IMAGE_1 : IMAGE_L;
    case PNG_COLOR_TYPE_PALETTE: png_set_packing(r->png); return IMAGE_P;
    case PNG_COLOR_TYPE_GRAY_ALPHA: png_set_strip_16(r->png); return IMAGE_LA;
    case PNG_COLOR_TYPE_RGB_ALPHA: png_set_strip_16(r->png); return IMAGE_RGBA;
    default: png_set_strip_16(r->png); return IMAGE_RGB;
    }
}

static void read_palette(reader *r, image *out) {
    png_colorp palette = NULL;
    int n = 0;
    if (!png_get_PLTE(r->png, r->info, &palette, &n))
        leave(r, ty_fail(r->err, TY_EIMAGE, "PNG: the palette is missing"));
    for (int i = 0; i < n && i < 256; i++) {
        out->palette[3 * i] = palette[i].red;
        out->palette[3 * i + 1] = palette[i].green;
        out->palette[3 * i + 2] = palette[i].blue;
    }
}

/* Between setjmp and longjmp: may leave at any call. */
static void decode(reader *r, image *out) {
    png_set_read_fn(r->png, r, on_read);
    png_set_user_limits(r->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    png_set_keep_unknown_chunks(r->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_read_info(r->png, r->info);
    image_mode mode = set_transforms(r);
    ty_status st = image_alloc(out, "PNG", mode, png_get_image_width(r->png, r->info),
                               png_get_image_height(r->png, r->info), r->limits, r->err);
    if (st != TY_OK) leave(r, st);
    int passes = png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
    size_t stride = (size_t)out->w * (size_t)image_bands(mode);
    if (png_get_rowbytes(r->png, r->info) != stride)
        leave(r, ty_fail(r->err, TY_EINTERNAL, "PNG: a row has %zu bytes, want %zu",
                         png_get_rowbytes(r->png, r->info), stride));
    /* An interlaced picture's passes fill in what earlier ones left. */
    if (passes > 1) memset(out->data, 0, stride * (size_t)out->h);
    for (int pass = 0; pass < passes; pass++) {
        for (int y = 0; y < out->h; y++) {
            if (y % 16 == 0) check_time(r);
            png_read_row(r->png, out->data + (size_t)y * stride, NULL);
        }
    }
    png_read_end(r->png, NULL);
    if (mode == IMAGE_P) read_palette(r, out);
}

ty_status image_decode_png(const uint8_t *bytes, size_t n_bytes, const image_limits *limits,
                           image *out, ty_err *err) {
    reader *r = calloc(1, sizeof *r);
    if (!r) return ty_fail(err, TY_ENOMEM, "PNG: no memory to decode");
    r->next = bytes;
    r->left = n_bytes;
    r->limits = limits;
    r->err = err;
    r->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, r, on_error, on_warning);
    r->info = r->png ? png_create_info_struct(r->png) : NULL;
    if (!r->info)
        r->st = ty_fail(err, TY_ENOMEM, "PNG: no memory to decode");
    else if (!setjmp(r->leave))
        decode(r, out);
    png_destroy_read_struct(&r->png, &r->info, NULL);
    ty_status st = r->st;
    free(r);
    return st;
}
