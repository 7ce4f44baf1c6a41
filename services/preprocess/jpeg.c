/*
 * jpeg.c - JPEG through libjpeg-turbo: accurate integer DCT and smooth ("fancy") chroma upsampling,
 * which are its defaults and Pillow's, so that decoded pixels are Pillow's bit for bit.
 *
 * libjpeg leaves by longjmp.  Everything that must be freed hangs on `reader` or `out`, which live
 * in the caller's frame, and no local that matters changes between setjmp and longjmp.
 *
 * What libjpeg only warns of is tolerated (stray bytes, an early marker inside a scan), as Pillow
 * does; a file that ends before its end marker is an error, as there.
 */
#include "services/preprocess/image_decode.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

/* A progressive file may repeat scans at little cost to its sender; each is a pass over all
 * coefficients.  Real encoders make about ten. */
enum { MAX_SCANS = 500 };

typedef struct {
    struct jpeg_decompress_struct dec;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    const image_limits *limits;
    ty_status st;
    ty_err *err;
    jmp_buf leave;
} reader;

_Noreturn static void leave(reader *r, ty_status st) {
    r->st = st;
    longjmp(r->leave, 1);
}

static void on_error(j_common_ptr c) {
    reader *r = c->client_data;
    char text[JMSG_LENGTH_MAX];
    c->err->format_message(c, text);
    if (c->err->msg_code == JERR_OUT_OF_MEMORY)
        leave(r, ty_fail(r->err, TY_ENOMEM, "JPEG: no memory to decode"));
    leave(r, ty_fail(r->err, TY_EIMAGE, "JPEG: %s", text));
}

static void on_message(j_common_ptr c, int level) {
    reader *r = c->client_data;
    if (level < 0 && c->err->msg_code == JWRN_JPEG_EOF)
        leave(r, ty_fail(r->err, TY_EIMAGE, "JPEG: the file is cut short"));
}

static void on_progress(j_common_ptr c) {
    reader *r = c->client_data;
    if (r->dec.input_scan_number > MAX_SCANS)
        leave(r, ty_fail(r->err, TY_ELIMIT, "JPEG: more than %d scans", (int)MAX_SCANS));
    ty_status st = image_check_time("JPEG", r->limits, r->err);
    if (st != TY_OK) leave(r, st);
}

static image_mode mode_of(reader *r) {
    switch (r->dec.num_components) {
    case 1: r->dec.out_color_space = JCS_GRAYSCALE; return IMAGE_L;
    case 3: r->dec.out_color_space = JCS_RGB; return IMAGE_RGB;
    case 4: r->dec.out_color_space = JCS_CMYK; return IMAGE_CMYK;
    default:
        leave(r, ty_fail(r->err, TY_EIMAGE, "JPEG: %d colour components, want 1, 3 or 4",
                         r->dec.num_components));
    }
}

static void invert(uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)~p[i];
}

static void read_rows(reader *r, image *out) {
    size_t stride = (size_t)out->w * (size_t)image_bands(out->mode);
    while (r->dec.output_scanline < r->dec.output_height) {
        on_progress((j_common_ptr)&r->dec);
        JSAMPROW row = out->data + r->dec.output_scanline * stride;
        jpeg_read_scanlines(&r->dec, &row, 1);
    }
}

/* Between setjmp and longjmp: may leave at any call. */
static void decode(reader *r, const uint8_t *bytes, size_t n_bytes, image *out) {
    jpeg_create_decompress(&r->dec);
    r->dec.progress = &r->progress;
    jpeg_mem_src(&r->dec, bytes, (unsigned long)n_bytes);
    jpeg_read_header(&r->dec, TRUE);
    image_mode mode = mode_of(r);
    ty_status st =
        image_alloc(out, "JPEG", mode, r->dec.image_width, r->dec.image_height, r->limits, r->err);
    if (st != TY_OK) leave(r, st);
    jpeg_start_decompress(&r->dec);
    read_rows(r, out);
    jpeg_finish_decompress(&r->dec);
    if (mode == IMAGE_CMYK) invert(out->data, (size_t)out->w * (size_t)out->h * 4);
}

ty_status image_decode_jpeg(const uint8_t *bytes, size_t n_bytes, const image_limits *limits,
                            image *out, ty_err *err) {
    reader *r = calloc(1, sizeof *r);
    if (!r) return ty_fail(err, TY_ENOMEM, "JPEG: no memory to decode");
    r->limits = limits;
    r->err = err;
    r->dec.err = jpeg_std_error(&r->errors);
    r->dec.client_data = r;
    r->errors.error_exit = on_error;
    r->errors.emit_message = on_message;
    r->progress.progress_monitor = on_progress;
    if (!setjmp(r->leave)) decode(r, bytes, n_bytes, out);
    jpeg_destroy_decompress(&r->dec);
    ty_status st = r->st;
    free(r);
    return st;
}
