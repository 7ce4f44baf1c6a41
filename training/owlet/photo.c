/*
 * photo.c - backdrops, and what a camera does: light, vignette, blur, noise.  JPEG by libjpeg-turbo.
 */
#include "training/owlet/photo.h"

#include "training/owlet/draw.h"

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

/* ---- backdrops ---- */

static void wash(cairo_t *cr, double w, double h, const double top[3], const double bottom[3]) {
    cairo_pattern_t *g = cairo_pattern_create_linear(0, 0, 0, h);
    cairo_pattern_add_color_stop_rgb(g, 0, top[0], top[1], top[2]);
    cairo_pattern_add_color_stop_rgb(g, 1, bottom[0], bottom[1], bottom[2]);
    cairo_set_source(cr, g);
    cairo_rectangle(cr, 0, 0, w, h);
    cairo_fill(cr);
    cairo_pattern_destroy(g);
}

#define WASH(cr, w, h, ...)                                                                        \
    do {                                                                                           \
        const double ends[2][3] = {__VA_ARGS__};                                                   \
        wash(cr, w, h, ends[0], ends[1]);                                                          \
    } while (0)

static void blobs(cairo_t *cr, double w, double h, chance *c, int n, double r, double g, double b,
                  double alpha) {
    for (int i = 0; i < n; i++) {
        double x = chance_real(c, 0, w), y = chance_real(c, 0, h),
               s = chance_real(c, 0.06, 0.2) * w;
        cairo_pattern_t *p = cairo_pattern_create_radial(x, y, 0, x, y, s);
        cairo_pattern_add_color_stop_rgba(p, 0, r, g, b, alpha);
        cairo_pattern_add_color_stop_rgba(p, 1, r, g, b, 0);
        cairo_set_source(cr, p);
        cairo_arc(cr, x, y, s, 0, 2 * M_PI);
        cairo_fill(cr);
        cairo_pattern_destroy(p);
    }
}

/* Thin strokes: grass, grain. */
static void strokes(cairo_t *cr, double w, double h, chance *c, int n, double dx, double dy,
                    double f) {
    cairo_set_line_width(cr, w / 150);
    for (int i = 0; i < n; i++) {
        double x = chance_real(c, 0, w), y = chance_real(c, 0, h), shade_of = chance_real(c, -f, f);
        cairo_set_source_rgba(cr, shade_of > 0, shade_of > 0, shade_of > 0, fabs(shade_of));
        cairo_move_to(cr, x, y);
        cairo_line_to(cr, x + dx * w * chance_real(c, 0.5, 1), y + dy * h * chance_real(c, 0.5, 1));
        cairo_stroke(cr);
    }
}

static void bricks(cairo_t *cr, double w, double h, double rows, double alpha) {
    cairo_set_source_rgba(cr, 0.3, 0.27, 0.25, alpha);
    cairo_set_line_width(cr, w / 110);
    for (int i = 0; i <= (int)rows; i++) {
        double y = h * i / rows;
        cairo_move_to(cr, 0, y);
        cairo_line_to(cr, w, y);
        for (int k = 0; k <= 4 - i % 2; k++) {
            double x = ((i % 2 ? 0.5 : 0) + k) * w / 4;
            cairo_move_to(cr, x, y);
            cairo_line_to(cr, x, y + h / rows);
        }
    }
    cairo_stroke(cr);
}

static void draw_backdrop(cairo_t *cr, backdrop back, double w, double h, chance *c) {
    switch (back) {
    case BACKDROP_SKY:
        WASH(cr, w, h, {0.50, 0.70, 0.93}, {0.80, 0.89, 0.97});
        blobs(cr, w, h, c, 10, 1, 1, 1, 0.5);
        break;
    case BACKDROP_MEADOW:
        WASH(cr, w, h, {0.52, 0.72, 0.38}, {0.38, 0.60, 0.26});
        strokes(cr, w, h, c, 500, 0.015, -0.05, 0.22);
        break;
    case BACKDROP_SAND:
        WASH(cr, w, h, {0.90, 0.82, 0.62}, {0.84, 0.74, 0.53});
        strokes(cr, w, h, c, 300, 0.02, 0.004, 0.15);
        break;
    case BACKDROP_WALL:
        WASH(cr, w, h, {0.86, 0.84, 0.80}, {0.76, 0.74, 0.70});
        bricks(cr, w, h, 8, 0.25);
        break;
    case BACKDROP_WOOD:
        WASH(cr, w, h, {0.72, 0.54, 0.35}, {0.62, 0.45, 0.28});
        strokes(cr, w, h, c, 260, 0.35, 0.006, 0.14);
        break;
    case BACKDROP_BOKEH:
        WASH(cr, w, h, {0.45, 0.50, 0.50}, {0.60, 0.56, 0.52});
        blobs(cr, w, h, c, 14, 0.95, 0.9, 0.75, 0.35);
        break;
    case BACKDROP_TILES:
        WASH(cr, w, h, {0.88, 0.91, 0.92}, {0.80, 0.84, 0.86});
        bricks(cr, w, h, 5, 0.2);
        break;
    default:
        WASH(cr, w, h, {0.07, 0.08, 0.20}, {0.16, 0.16, 0.32});
        blobs(cr, w, h, c, 12, 0.5, 0.5, 0.8, 0.25);
        break;
    }
}

static void draw_sign(cairo_t *cr, const scene *s, double w, double h, landmarks *marks) {
    const shade *board = lexicon_shade(s->sign_col), *ink = lexicon_shade(s->ink);
    cairo_text_extents_t e;
    cairo_save(cr);
    cairo_translate(cr, s->sign_x * w, s->sign_y * h);
    cairo_rotate(cr, s->sign_turn);
    paper_font(cr, s->sign_font, 100);
    cairo_text_extents(cr, s->sign, &e);
    double bw = s->sign_w * w, size = 100 * bw * 0.86 / (e.width > 0 ? e.width : 1);
    if (size > 0.34 * h) size = 0.34 * h;
    double bh = size * 1.15;
    cairo_rectangle(cr, -bw / 2, -bh / 2, bw, bh);
    cairo_set_source_rgb(cr, board->r, board->g, board->b);
    cairo_fill_preserve(cr);
    cairo_set_source_rgb(cr, ink->r, ink->g, ink->b);
    cairo_set_line_width(cr, w / 90);
    cairo_stroke(cr);
    cairo_set_font_size(cr, size);
    cairo_text_extents(cr, s->sign, &e);
    cairo_move_to(cr, -e.width / 2 - e.x_bearing, -e.height / 2 - e.y_bearing);
    landmarks_text(marks, cr, s->sign);
    cairo_show_text(cr, s->sign);
    cairo_restore(cr);
}

/* ---- the camera ---- */

static unsigned char clamp(double x) {
    return x < 0 ? 0 : x > 255 ? 255 : (unsigned char)lround(x);
}

/* Surface (BGRX) to RGB with light, vignette and noise. */
static void expose(const unsigned char *from, int stride, int side, double light, chance *c,
                   unsigned char *rgb) {
    double noise = chance_real(c, 1, 9), edge = chance_real(c, 0, 0.28);
    double tint[3] = {chance_real(c, 0.95, 1.05), 1, chance_real(c, 0.95, 1.05)};
    for (int y = 0; y < side; y++) {
        for (int x = 0; x < side; x++) {
            double dx = 2.0 * x / side - 1, dy = 2.0 * y / side - 1;
            double gain = light * (1 - edge * (dx * dx + dy * dy) / 2);
            uint64_t bits = chance_bits(c);
            for (int k = 0; k < 3; k++) {
                /* The sum of four bytes is near enough to a normal draw. */
                double n = (double)((bits >> (16 * k) & 255) + (bits >> (16 * k + 8) & 255)) - 255;
                double v = from[(size_t)y * (size_t)stride + (size_t)x * 4 + (size_t)(2 - k)] *
                               gain * tint[k] +
                           n * noise / 104;
                rgb[((size_t)y * (size_t)side + (size_t)x) * 3 + (size_t)k] = clamp(v);
            }
        }
    }
}

/* A box of 2r+1 in each direction. */
static void blur(unsigned char *rgb, int side, int r, unsigned char *spare) {
    const unsigned char *from = rgb;
    unsigned char *to = spare;
    for (int pass = 0; pass < 2; pass++) {
        for (int y = 0; y < side; y++)
            for (int x = 0; x < side; x++)
                for (int k = 0; k < 3; k++) {
                    int sum = 0, n = 0;
                    for (int d = -r; d <= r; d++) {
                        int u = pass ? x : x + d, v = pass ? y + d : y;
                        if (u < 0 || v < 0 || u >= side || v >= side) continue;
                        sum += from[((size_t)v * (size_t)side + (size_t)u) * 3 + (size_t)k];
                        n++;
                    }
                    to[((size_t)y * (size_t)side + (size_t)x) * 3 + (size_t)k] =
                        (unsigned char)((sum + n / 2) / n);
                }
        from = spare;
        to = rgb;
    }
}

/* ---- JPEG ---- */

typedef struct {
    struct jpeg_error_mgr base;
    jmp_buf jump;
    char text[JMSG_LENGTH_MAX];
} jpeg_trouble;

static void on_trouble(j_common_ptr c) {
    jpeg_trouble *t = (jpeg_trouble *)c->err;
    c->err->format_message(c, t->text);
    longjmp(t->jump, 1);
}

static ty_status encode(const unsigned char *rgb, int side, int quality, unsigned char **jpeg,
                        size_t *size, ty_err *err) {
    struct jpeg_compress_struct c;
    jpeg_trouble trouble;
    unsigned long n = 0;
    *jpeg = NULL;
    c.err = jpeg_std_error(&trouble.base);
    trouble.base.error_exit = on_trouble;
    if (setjmp(trouble.jump)) {
        jpeg_destroy_compress(&c);
        free(*jpeg);
        *jpeg = NULL;
        return ty_fail(err, TY_EIO, "JPEG: %s", trouble.text);
    }
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, jpeg, &n);
    c.image_width = c.image_height = (JDIMENSION)side;
    c.input_components = 3;
    c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, quality, TRUE);
    jpeg_start_compress(&c, TRUE);
    while (c.next_scanline < c.image_height) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)(rgb + (size_t)c.next_scanline * (size_t)side * 3);
        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    *size = n;
    return TY_OK;
}

static ty_status develop(cairo_surface_t *s, int side, double light, chance *c,
                         unsigned char **jpeg, size_t *size, ty_err *err) {
    size_t n = (size_t)side * (size_t)side * 3;
    unsigned char *rgb = malloc(2 * n);
    ty_status st =
        rgb ? TY_OK : ty_fail(err, TY_ENOMEM, "no memory for a picture of %d x %d", side, side);
    if (st == TY_OK) {
        cairo_surface_flush(s);
        expose(cairo_image_surface_get_data(s), cairo_image_surface_get_stride(s), side, light, c,
               rgb);
        if (chance_is(c, 0.4)) blur(rgb, side, 1, rgb + n);
        st = encode(rgb, side, chance_between(c, 70, 95), jpeg, size, err);
    }
    free(rgb);
    return st;
}

static cairo_t *canvas(cairo_surface_t **s, int side, ty_err *err) {
    *s = cairo_image_surface_create(CAIRO_FORMAT_RGB24, side, side);
    cairo_t *cr = cairo_create(*s);
    if (cairo_status(cr) == CAIRO_STATUS_SUCCESS) return cr;
    ty_fail(err, TY_ENOMEM, "cairo: %s", cairo_status_to_string(cairo_status(cr)));
    cairo_destroy(cr);
    cairo_surface_destroy(*s);
    return NULL;
}

static ty_status finish(cairo_t *cr, cairo_surface_t *s, int side, double light, chance *c,
                        unsigned char **jpeg, size_t *size, ty_err *err) {
    ty_status st =
        cairo_status(cr) == CAIRO_STATUS_SUCCESS
            ? develop(s, side, light, c, jpeg, size, err)
            : ty_fail(err, TY_EIO, "cairo: %s", cairo_status_to_string(cairo_status(cr)));
    cairo_destroy(cr);
    cairo_surface_destroy(s);
    return st;
}

ty_status photo_scene(const scene *s, int side, landmarks *marks, unsigned char **jpeg,
                      size_t *size, ty_err *err) {
    cairo_surface_t *surface;
    cairo_t *cr = canvas(&surface, side, err);
    chance c = chance_make(s->texture, 1);
    if (!cr) return TY_ENOMEM;
    draw_backdrop(cr, s->back, side, side, &c);
    for (int i = 0; i < s->n_object; i++) {
        draw_object(cr, &s->object[i], side, side, &c);
        landmarks_thing(marks, s, i, side);
    }
    if (s->sign[0]) draw_sign(cr, s, side, side, marks);
    return finish(cr, surface, side, s->light, &c, jpeg, size, err);
}

ty_status photo_paper(const paper *p, int side, landmarks *marks, unsigned char **jpeg,
                      size_t *size, ty_err *err) {
    static const backdrop TABLE[] = {BACKDROP_WOOD, BACKDROP_TILES, BACKDROP_BOKEH, BACKDROP_SAND};
    cairo_surface_t *surface;
    cairo_t *cr = canvas(&surface, side, err);
    chance c = chance_make(p->texture, 2);
    if (!cr) return TY_ENOMEM;
    draw_backdrop(cr, TABLE[chance_below(&c, 4)], side, side, &c);
    double w = side * chance_real(&c, 0.86, 0.95), h = side * chance_real(&c, 0.74, 0.85);
    cairo_translate(cr, side / 2.0, side / 2.0);
    cairo_rotate(cr, p->turn);
    cairo_translate(cr, -w / 2, -h / 2);
    paper_draw(cr, p, w, h, marks);
    return finish(cr, surface, side, chance_real(&c, 0.85, 1.05), &c, jpeg, size, err);
}
