/*
 * image_decode.h: what is refused and how - limits, cut files, damaged files, other formats.  That
 * good pictures come out right is the golden tests' matter (tests/golden/test_vision.c).
 */
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "services/preprocess/image_decode.h"
#include "tests/support/process.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <webp/encode.h>
#include <zlib.h>

static const char *const files[] = {"cmyk.jpg",     "exif_orient.jpg",     "extreme.png",
                                    "gray.jpg",     "gray_alpha.png",      "palette.png",
                                    "photo_47.jpg", "progressive_444.jpg", "rgba.png",
                                    "photo_9.jpg",  "sub422_restart.jpg"};
enum { N_FILES = sizeof files / sizeof *files };

static image_limits generous(void) {
    return (image_limits){64 << 20, ty_now_us() + 60 * 1000 * 1000};
}

static char *read_picture(const char *name, size_t *size) {
    char *data;
    ty_err err = {0};
    ty_status st = ty_file_read(test_path("%s/images/%s", test_golden_dir(), name), 1 << 24, &data,
                                size, &err);
    if (st != TY_OK) fail_msg("%s", err.text);
    return data;
}

/* A copy of exactly n bytes, so that a sanitizer sees a read behind them. */
static ty_status decode_copy(const void *bytes, size_t n, ty_err *err) {
    image im;
    image_limits limits = generous();
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    ty_status st = image_decode(copy, n, &limits, &im, err);
    if (st == TY_OK)
        assert_non_null(im.data);
    else
        assert_null(im.data);
    image_clear(&im);
    free(copy);
    return st;
}

static void decode_names_the_size_and_mode(void **state) {
    (void)state;
    static const struct {
        const char *name;
        image_mode mode;
        int w, h;
    } want[] = {{"cmyk.jpg", IMAGE_CMYK, 90, 70},        {"gray.jpg", IMAGE_L, 120, 90},
                {"palette.png", IMAGE_P, 64, 48},        {"gray_alpha.png", IMAGE_LA, 40, 30},
                {"rgba.png", IMAGE_RGBA, 97, 61},        {"extreme.png", IMAGE_RGB, 1, 300},
                {"exif_orient.jpg", IMAGE_RGB, 180, 120}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        size_t n;
        image im;
        image_limits limits = generous();
        char *data = read_picture(want[i].name, &n);
        assert_int_equal(image_decode((uint8_t *)data, n, &limits, &im, NULL), TY_OK);
        assert_string_equal(image_mode_name(im.mode), image_mode_name(want[i].mode));
        assert_int_equal(im.w, want[i].w);
        assert_int_equal(im.h, want[i].h);
        image_clear(&im);
        free(data);
    }
}

static void decode_refuses_every_cut_file(void **state) {
    (void)state;
    for (int f = 0; f < N_FILES; f++) {
        size_t n;
        char *data = read_picture(files[f], &n);
        size_t step = n / 40 + 1;
        for (size_t len = 0; len<n; len += n - len> 12 ? step : 1) {
            ty_err err = {0};
            ty_status st = decode_copy(data, len, &err);
            if (st == TY_OK) fail_msg("%s cut to %zu of %zu bytes decodes", files[f], len, n);
            if (st != TY_EIMAGE && st != TY_EUNSUPPORTED)
                fail_msg("%s cut to %zu: %s %s", files[f], len, ty_status_name(st), err.text);
            assert_true(err.text[0]);
        }
        assert_int_equal(decode_copy(data, n, NULL), TY_OK);
        free(data);
    }
}

static uint32_t next(uint32_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 17;
    return *s ^= *s << 5;
}

/* Flips, overwrites, and moved pieces: whatever comes out is a picture or a typed error. */
static void decode_survives_damage(void **state) {
    (void)state;
    uint32_t seed = 20260101;
    for (int f = 0; f < N_FILES; f++) {
        size_t n;
        char *data = read_picture(files[f], &n);
        char *bad = malloc(n);
        assert_non_null(bad);
        int rounds = n > 20000 ? 20 : 150;
        for (int r = 0; r < rounds; r++) {
            memcpy(bad, data, n);
            /* half of the damage in the headers, where it does most */
            size_t within = r % 2 ? n : (n < 700 ? n : 700);
            for (uint32_t k = next(&seed) % 6 + 1; k; k--)
                bad[next(&seed) % within] = (char)next(&seed);
            if (r % 5 == 0) {
                size_t a = next(&seed) % n, b = next(&seed) % n, len = n - (a > b ? a : b);
                memmove(bad + a, bad + b, len);
            }
            ty_err err = {0};
            ty_status st = decode_copy(bad, n, &err);
            if (st != TY_OK && st != TY_EIMAGE && st != TY_EUNSUPPORTED && st != TY_ELIMIT)
                fail_msg("%s round %d: %s %s", files[f], r, ty_status_name(st), err.text);
        }
        free(bad);
        free(data);
    }
}

static void put_u32(uint8_t *p, uint32_t v) {
    v = htonl(v);
    memcpy(p, &v, 4);
}

/* One chunk; returns its length. */
static size_t put_chunk(uint8_t *p, const char *type, const uint8_t *data, uint32_t n) {
    put_u32(p, n);
    memcpy(p + 4, type, 4);
    if (n) memcpy(p + 8, data, n);
    put_u32(p + 8 + n, (uint32_t)crc32(0, p + 4, n + 4));
    return n + 12;
}

static size_t png_header(uint8_t *p, uint32_t w, uint32_t h, uint8_t depth, uint8_t colour) {
    uint8_t ihdr[13] = {0};
    put_u32(ihdr, w);
    put_u32(ihdr + 4, h);
    ihdr[8] = depth;
    ihdr[9] = colour;
    memcpy(p, "\x89PNG\r\n\x1a\n", 8);
    return 8 + put_chunk(p + 8, "IHDR", ihdr, 13);
}

/* A PNG of the rows given (each with its filter byte), compressed. */
static size_t png_make(uint8_t *p, uint32_t w, uint32_t h, uint8_t depth, uint8_t colour,
                       const uint8_t *rows, size_t n_rows) {
    uint8_t packed[1024];
    uLongf n_packed = sizeof packed;
    size_t at = png_header(p, w, h, depth, colour);
    if (colour == 3) at += put_chunk(p + at, "PLTE", (const uint8_t *)"\1\2\3\4\5\6", 6);
    assert_int_equal(compress(packed, &n_packed, rows, n_rows), Z_OK);
    at += put_chunk(p + at, "IDAT", packed, (uint32_t)n_packed);
    return at + put_chunk(p + at, "IEND", NULL, 0);
}

static long peak_rss_kb(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss;
}

static void decode_refuses_a_huge_png_without_allocating(void **state) {
    (void)state;
    uint8_t png[256];
    static const uint8_t rows[4] = {0};
    static const uint32_t edges[][2] = {
        {30000, 30000}, {0x7fffffff, 0x7fffffff}, {1, 0x7fffffff}, {0x7fffffff, 1}};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        ty_err err = {0};
        size_t n = png_make(png, edges[i][0], edges[i][1], 8, 2, rows, sizeof rows);
        long before = peak_rss_kb();
        assert_int_equal(decode_copy(png, n, &err), TY_ELIMIT);
        assert_true(peak_rss_kb() - before < 32 * 1024);
        assert_non_null(strstr(err.text, "67108864"));
    }
}

static void decode_refuses_a_huge_jpeg(void **state) {
    (void)state;
    size_t n;
    ty_err err = {0};
    char *data = read_picture("gray.jpg", &n);
    for (size_t i = 2; i + 9 < n; i++)
        if ((uint8_t)data[i] == 0xff && (uint8_t)data[i + 1] == 0xc0) {
            memcpy(data + i + 5, "\xff\xdc\xff\xdc", 4); /* height, width of the frame header */
            break;
        }
    assert_int_equal(decode_copy(data, n, &err), TY_ELIMIT);
    assert_non_null(strstr(err.text, "65500"));
    free(data);
}

static void decode_refuses_zero_pixels(void **state) {
    (void)state;
    uint8_t png[256];
    static const uint8_t rows[4] = {0};
    size_t n = png_make(png, 0, 5, 8, 2, rows, sizeof rows);
    assert_int_equal(decode_copy(png, n, NULL), TY_EIMAGE);
}

/* A progressive file that repeats a scan without end costs its sender little. */
static void decode_refuses_a_scan_bomb(void **state) {
    (void)state;
    size_t n, scan = 0;
    ty_err err = {0};
    char *data = read_picture("progressive_444.jpg", &n);
    for (size_t i = 0; i + 1 < n; i++)
        if ((uint8_t)data[i] == 0xff && (uint8_t)data[i + 1] == 0xda) scan = i;
    assert_true(scan > 0);
    size_t len = n - 2 - scan, total = scan + 700 * len + 2;
    char *bomb = malloc(total);
    assert_non_null(bomb);
    memcpy(bomb, data, scan);
    for (size_t k = 0; k < 700; k++) memcpy(bomb + scan + k * len, data + scan, len);
    memcpy(bomb + total - 2, "\xff\xd9", 2);
    assert_int_equal(decode_copy(bomb, total, &err), TY_ELIMIT);
    free(bomb);
    free(data);
}

static void decode_stops_when_time_is_over(void **state) {
    (void)state;
    for (int f = 0; f < N_FILES; f++) {
        size_t n;
        image im;
        ty_err err = {0};
        image_limits limits = {64 << 20, ty_now_us() - 1};
        char *data = read_picture(files[f], &n);
        assert_int_equal(image_decode((uint8_t *)data, n, &limits, &im, &err), TY_ELIMIT);
        free(data);
    }
}

static void decode_says_what_it_takes(void **state) {
    (void)state;
    ty_err err = {0};
    assert_int_equal(decode_copy("GIF89a......", 12, &err), TY_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "GIF"));
    assert_int_equal(decode_copy("hello", 5, &err), TY_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "JPEG, PNG nor WebP"));
    assert_int_equal(decode_copy("", 0, &err), TY_EIMAGE);
}

static void png_depths_open_as_pillow_opens_them(void **state) {
    (void)state;
    static const struct {
        uint8_t depth, colour;
        uint8_t rows[8];
        size_t n_rows;
        image_mode mode;
        uint8_t rgb[6]; /* of the two pixels */
    } t[] = {
        {1, 0, {0, 0x40}, 2, IMAGE_1, {0, 0, 0, 255, 255, 255}},
        {2, 0, {0, 0x60}, 2, IMAGE_L, {85, 85, 85, 170, 170, 170}},
        {4, 0, {0, 0x3f}, 2, IMAGE_L, {51, 51, 51, 255, 255, 255}},
        {16, 0, {0, 0, 9, 1, 9}, 5, IMAGE_I16, {9, 9, 9, 255, 255, 255}},
        {1, 3, {0, 0x40}, 2, IMAGE_P, {1, 2, 3, 4, 5, 6}},
        {8, 3, {0, 1, 7}, 3, IMAGE_P, {4, 5, 6, 0, 0, 0}}, /* index 7 of 2 colours */
        {16, 4, {0, 9, 1, 255, 255, 8, 1}, 9, IMAGE_LA, {9, 9, 9, 8, 8, 8}},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        uint8_t png[1024], rgb[6], rows[16] = {0};
        image im;
        image_limits limits = generous();
        memcpy(rows, t[i].rows, sizeof t[i].rows);
        size_t n = png_make(png, 2, 1, t[i].depth, t[i].colour, rows, t[i].n_rows);
        ty_err err = {0};
        if (image_decode(png, n, &limits, &im, &err) != TY_OK) fail_msg("%zu: %s", i, err.text);
        assert_string_equal(image_mode_name(im.mode), image_mode_name(t[i].mode));
        image_to_rgb(&im, rgb);
        assert_memory_equal(rgb, t[i].rgb, 6);
        image_clear(&im);
    }
}

static void webp_decodes_and_refuses_cuts(void **state) {
    (void)state;
    uint8_t rgba[40 * 30 * 4], *file = NULL;
    uint32_t seed = 7;
    for (size_t i = 0; i < sizeof rgba; i++) rgba[i] = (uint8_t)next(&seed);
    size_t n = WebPEncodeLosslessRGBA(rgba, 40, 30, 160, &file);
    image im;
    image_limits limits = generous();
    assert_true(n > 0);
    assert_int_equal(image_decode(file, n, &limits, &im, NULL), TY_OK);
    assert_int_equal(im.mode, IMAGE_RGBA);
    for (size_t i = 0; i < sizeof rgba; i += 4) {
        assert_int_equal(im.data[i + 3], rgba[i + 3]);
        if (rgba[i + 3]) assert_memory_equal(im.data + i, rgba + i, 3);
    }
    image_clear(&im);
    for (size_t len = 12; len < n; len += 97) {
        ty_err err = {0};
        if (decode_copy(file, len, &err) == TY_OK) fail_msg("WebP cut to %zu decodes", len);
    }
    for (int r = 0; r < 300; r++) {
        uint8_t *bad = malloc(n);
        assert_non_null(bad);
        memcpy(bad, file, n);
        for (int k = 0; k < 3; k++) bad[next(&seed) % (r % 2 ? n : 64)] = (uint8_t)next(&seed);
        decode_copy(bad, n, NULL);
        free(bad);
    }
    WebPFree(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_names_the_size_and_mode),
        cmocka_unit_test(decode_refuses_every_cut_file),
        cmocka_unit_test(decode_survives_damage),
        cmocka_unit_test(decode_refuses_a_huge_png_without_allocating),
        cmocka_unit_test(decode_refuses_a_huge_jpeg),
        cmocka_unit_test(decode_refuses_zero_pixels),
        cmocka_unit_test(decode_refuses_a_scan_bomb),
        cmocka_unit_test(decode_stops_when_time_is_over),
        cmocka_unit_test(decode_says_what_it_takes),
        cmocka_unit_test(png_depths_open_as_pillow_opens_them),
        cmocka_unit_test(webp_decodes_and_refuses_cuts),
    };
    return cmocka_run_group_tests_name("image_decode", tests, NULL, NULL);
}
