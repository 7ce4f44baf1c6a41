/*
 * resize.h against numbers that Pillow 13.0.0 gave for the same input: bytes of the generator below, in
 * the comment of each test.  Regenerate with Image.resize((w, h), 3), nearest with 0.
 */
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "services/preprocess/resize.h"

#include <stdlib.h>
#include <string.h>

static const int64_t FOREVER = INT64_MAX, PIXELS = 1 << 20;

/* The high bytes of s = 1664525 s + 1013904223. */
static void fill(uint8_t *out, size_t n, uint32_t seed) {
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        out[i] = (uint8_t)(seed >> 24);
    }
}

static void resizes(int w, int h, int bands, uint32_t seed, int out_w, int out_h,
                    const uint8_t *want) {
    uint8_t src[1024], dst[256];
    size_t n = (size_t)(w * h * bands), m = (size_t)(out_w * out_h * bands);
    assert_true(n <= sizeof src && m <= sizeof dst);
    fill(src, n, seed);
    resize_plan p = resize_plan_whole(w, h, out_w, out_h, PIXELS, FOREVER);
    assert_int_equal(resize_bicubic(&p, bands, src, dst, NULL), TY_OK);
    assert_memory_equal(dst, want, m);
}

static void bicubic_shrinks_rgb_as_pillow(void **state) {
    (void)state;
    static const uint8_t want[] = {133, 130, 122, 136, 155, 77,  96,  116, 126, 139, 138, 149,
                                   130, 102, 111, 148, 125, 127, 144, 144, 125, 109, 105, 128,
                                   136, 119, 128, 154, 158, 154, 136, 134, 114, 148, 114, 141};
    resizes(13, 9, 3, 1, 4, 3, want);
}

static void bicubic_goes_down_first_when_height_shrinks_most(void **state) {
    (void)state;
    static const uint8_t want[] = {130, 148, 129, 140, 138, 137, 140, 110, 151, 110, 127, 140,
                                   152, 147, 138, 113, 150, 142, 147, 118, 134, 131, 155, 111,
                                   137, 144, 120, 116, 124, 126, 120, 133, 151, 144, 114, 138};
    resizes(5, 40, 3, 2, 4, 3, want);
}

static void bicubic_enlarges_gray_as_pillow(void **state) {
    (void)state;
    static const uint8_t want[] = {43,  57,  94,  132, 145, 170, 171, 173, 176, 176,
                                   185, 189, 200, 210, 214, 79,  100, 157, 214, 235};
    resizes(2, 3, 1, 3, 5, 4, want);
}

static void bicubic_keeps_four_bands_apart(void **state) {
    (void)state;
    static const uint8_t want[] = {91,  158, 107, 101, 97,  161, 166, 86,  124, 158, 140, 125,
                                   154, 139, 97,  102, 138, 182, 102, 133, 146, 149, 111, 125};
    resizes(7, 5, 4, 4, 3, 2, want);
}

static void bicubic_16_shrinks_as_pillow(void **state) {
    (void)state;
    static const uint16_t want[] = {34128, 29762, 30357, 26002, 28090, 32690,
                                    31948, 29043, 31653, 35344, 25624, 23540};
    uint8_t bytes[11 * 6 * 2];
    uint16_t src[11 * 6], dst[12];
    fill(bytes, sizeof bytes, 5);
    for (int i = 0; i < 66; i++) src[i] = (uint16_t)(bytes[2 * i] | bytes[2 * i + 1] << 8);
    resize_plan p = resize_plan_whole(11, 6, 4, 3, PIXELS, FOREVER);
    assert_int_equal(resize_bicubic_16(&p, src, dst, NULL), TY_OK);
    assert_memory_equal(dst, want, sizeof want);
}

static void nearest_picks_as_pillow(void **state) {
    (void)state;
    static const uint8_t want[] = {61,  237, 98,  238, 61, 237, 98, 238, 35,  237, 216, 152,
                                   35,  237, 216, 152, 96, 160, 44, 171, 235, 173, 234, 54,
                                   235, 173, 234, 54,  79, 222, 38, 96,  79,  222, 38,  96};
    uint8_t src[35], dst[36];
    fill(src, sizeof src, 6);
    resize_plan p = resize_plan_whole(7, 5, 4, 9, PIXELS, FOREVER);
    assert_int_equal(resize_nearest(&p, 1, src, dst, NULL), TY_OK);
    assert_memory_equal(dst, want, sizeof want);
}

/* Thousands of weights for one output: more than one run of the pass along the rows. */
static void bicubic_shrinks_wide_rows_as_pillow(void **state) {
    (void)state;
    static const uint8_t want[] = {128, 130, 126, 125, 127, 124, 127, 127, 127,
                                   134, 125, 125, 130, 128, 127, 130, 128, 126};
    static uint8_t src[3000 * 2 * 3];
    uint8_t dst[sizeof want];
    fill(src, sizeof src, 9);
    resize_plan p = resize_plan_whole(3000, 2, 3, 2, PIXELS, FOREVER);
    assert_int_equal(resize_bicubic(&p, 3, src, dst, NULL), TY_OK);
    assert_memory_equal(dst, want, sizeof want);
}

static void bicubic_copies_when_size_stays(void **state) {
    (void)state;
    uint8_t src[6 * 5 * 3], dst[sizeof src];
    fill(src, sizeof src, 7);
    resize_plan p = resize_plan_whole(6, 5, 6, 5, PIXELS, FOREVER);
    assert_int_equal(resize_bicubic(&p, 3, src, dst, NULL), TY_OK);
    assert_memory_equal(dst, src, sizeof src);
}

/* Both orders of the passes, and both directions kept. */
static void bicubic_window_is_cut_out_of_the_whole(void **state) {
    (void)state;
    static const int sizes[][4] = {
        {40, 30, 20, 17}, {20, 60, 18, 16}, {9, 9, 20, 16}, {20, 9, 20, 30}, {9, 20, 30, 20}};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        int w = sizes[k][0], h = sizes[k][1], ow = sizes[k][2], oh = sizes[k][3];
        uint8_t *src = malloc((size_t)(w * h * 3)), *all = malloc((size_t)(ow * oh * 3));
        uint8_t cut[5 * 7 * 3];
        assert_true(src && all);
        fill(src, (size_t)(w * h * 3), 8);
        resize_plan p = resize_plan_whole(w, h, ow, oh, PIXELS, FOREVER);
        assert_int_equal(resize_bicubic(&p, 3, src, all, NULL), TY_OK);
        p.win_x = 3;
        p.win_y = 4;
        p.win_w = 5;
        p.win_h = 7;
        assert_int_equal(resize_bicubic(&p, 3, src, cut, NULL), TY_OK);
        for (int y = 0; y < 7; y++)
            assert_memory_equal(cut + y * 15, all + ((y + 4) * ow + 3) * 3, 15);
        free(src);
        free(all);
    }
}

static void bicubic_refuses_when_the_way_is_too_large(void **state) {
    (void)state;
    ty_err err = {0};
    uint8_t src[100] = {0}, dst[1];
    resize_plan p = resize_plan_whole(1, 100, 1000, 200, 50 * 1000, FOREVER);
    assert_int_equal(resize_bicubic(&p, 1, src, dst, &err), TY_ELIMIT);
    assert_non_null(strstr(err.text, "50000"));
}

static void bicubic_stops_when_time_is_over(void **state) {
    (void)state;
    ty_err err = {0};
    uint8_t src[100] = {0}, dst[100];
    resize_plan p = resize_plan_whole(10, 10, 5, 5, PIXELS, ty_now_us() - 1);
    assert_int_equal(resize_bicubic(&p, 1, src, dst, &err), TY_ELIMIT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bicubic_shrinks_rgb_as_pillow),
        cmocka_unit_test(bicubic_goes_down_first_when_height_shrinks_most),
        cmocka_unit_test(bicubic_enlarges_gray_as_pillow),
        cmocka_unit_test(bicubic_keeps_four_bands_apart),
        cmocka_unit_test(bicubic_16_shrinks_as_pillow),
        cmocka_unit_test(nearest_picks_as_pillow),
        cmocka_unit_test(bicubic_shrinks_wide_rows_as_pillow),
        cmocka_unit_test(bicubic_copies_when_size_stays),
        cmocka_unit_test(bicubic_window_is_cut_out_of_the_whole),
        cmocka_unit_test(bicubic_refuses_when_the_way_is_too_large),
        cmocka_unit_test(bicubic_stops_when_time_is_over),
    };
    return cmocka_run_group_tests_name("resize", tests, NULL, NULL);
}
