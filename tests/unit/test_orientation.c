/* orientation.h: EXIF's eight orientations, where each format keeps them, and what strangers may send. */
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "services/preprocess/orientation.h"
#include "services/preprocess/preprocess.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 256, EXIF_BYTES = 26 };

static image_limits generous(void) {
    return (image_limits){1 << 20, ty_now_us() + 60000000};
}

/* A TIFF block with the one tag. */
static size_t make_exif(uint8_t *out, bool big, int orientation) {
    static const uint8_t little_endian[EXIF_BYTES] = {
        'I', 'I', '*', 0, 8, 0, 0, 0, 1, 0, 0x12, 0x01, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    static const uint8_t big_endian[EXIF_BYTES] = {
        'M', 'M', 0, '*', 0, 0, 0, 8, 0, 1, 0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0};
    memcpy(out, big ? big_endian : little_endian, EXIF_BYTES);
    out[big ? 19 : 18] = (uint8_t)orientation;
    return EXIF_BYTES;
}

static size_t make_jpeg(uint8_t *out, bool big, int orientation) {
    static const uint8_t head[] = {0xff, 0xd8, 0xff, 0xe0, 0,
                                   4,    1,    2, /* another segment before it */
                                   0xff, 0xff, 0xe1, 0,    2 + 6 + EXIF_BYTES,
                                   'E',  'x',  'i',  'f',  0,
                                   0};
    memcpy(out, head, sizeof(head));
    return sizeof(head) + make_exif(out + sizeof(head), big, orientation);
}

static size_t make_png(uint8_t *out, bool big, int orientation) {
    static const uint8_t head[] = {0x89, 'P', 'N', 'G', '\r',       '\n', 0x1a, '\n', 0,  0,
                                   0,    1,   't', 'E', 'X',        't',  'x',  0,    0,  0,
                                   0,    0,   0,   0,   EXIF_BYTES, 'e',  'X',  'I',  'f'};
    memcpy(out, head, sizeof(head));
    size_t n = sizeof(head) + make_exif(out + sizeof(head), big, orientation);
    memset(out + n, 0, 4); /* CRC */
    return n + 4;
}

static size_t make_webp(uint8_t *out, bool big, int orientation) {
    static const uint8_t head[] = {
        'R', 'I', 'F', 'F', 0,          0, 0, 0, 'W', 'E', 'B', 'P',
        'A', 'L', 'P', 'H', 3,          0, 0, 0, 1,   2,   3,   0, /* padded */
        'E', 'X', 'I', 'F', EXIF_BYTES, 0, 0, 0};
    memcpy(out, head, sizeof(head));
    return sizeof(head) + make_exif(out + sizeof(head), big, orientation);
}

static size_t (*const makers[])(uint8_t *, bool, int) = {make_jpeg, make_png, make_webp};

static void orientation_is_found_in_each_format(void **state) {
    (void)state;
    uint8_t file[FILE_MAX];
    for (size_t k = 0; k < 3; k++)
        for (int o = 0; o <= 9; o++)
            for (int big = 0; big < 2; big++) {
                size_t n = makers[k](file, big != 0, o);
                assert_int_equal(orientation_of(file, n), o >= 1 && o <= 8 ? o : 1);
            }
    char *photo = NULL;
    size_t n;
    const char *path = test_path("%s/images/exif_orient.jpg", test_golden_dir());
    assert_int_equal(ty_file_read(path, 1 << 20, &photo, &n, NULL), TY_OK);
    assert_int_equal(orientation_of((uint8_t *)photo, n), 6);
    free(photo);
}

/* In memory of exactly that size, for the sanitizers to see what is read. */
static int of_copy(const uint8_t *bytes, size_t n) {
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    int o = orientation_of(copy, n);
    free(copy);
    assert_in_range(o, 1, 8);
    return o;
}

static void orientation_survives_cuts_and_damage(void **state) {
    (void)state;
    uint8_t file[FILE_MAX], bad[FILE_MAX];
    uint32_t seed = 1;
    for (size_t k = 0; k < 3; k++) {
        size_t n = makers[k](file, k == 1, 6);
        for (size_t len = 0; len < n - 12; len++) assert_int_equal(of_copy(file, len), 1);
        for (int r = 0; r < 20000; r++) {
            memcpy(bad, file, n);
            for (int i = 0; i < 3; i++) {
                seed = seed * 1664525u + 1013904223u;
                bad[(seed >> 8) % n] = (uint8_t)(seed >> 24);
            }
            (void)of_copy(bad, n);
        }
    }
}

/* What A B C / D E F becomes; from the EXIF specification's table, by hand. */
static void pixels_are_turned_as_the_specification_says(void **state) {
    (void)state;
    static const char *const want[] = {"ABCDEF", "CBAFED", "FEDCBA", "DEFABC",
                                       "ADBECF", "DAEBFC", "FCEBDA", "CFBEAD"};
    for (int o = 1; o <= 8; o++)
        for (int bands = 1; bands <= 3; bands += 2) {
            image im = {.mode = bands == 1 ? IMAGE_L : IMAGE_RGB, .w = 3, .h = 2};
            image_limits limits = generous();
            im.data = malloc((size_t)(6 * bands));
            assert_non_null(im.data);
            for (int i = 0; i < 6 * bands; i++)
                im.data[i] = (uint8_t)("ABCDEF"[i / bands] + i % bands);
            assert_int_equal(orientation_apply(&im, o, &limits, NULL), TY_OK);
            assert_int_equal(im.w, o >= 5 ? 2 : 3);
            assert_int_equal(im.h, o >= 5 ? 3 : 2);
            for (int i = 0; i < 6 * bands; i++)
                assert_int_equal(im.data[i], want[o - 1][i / bands] + i % bands);
            image_clear(&im);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(orientation_is_found_in_each_format),
        cmocka_unit_test(orientation_survives_cuts_and_damage),
        cmocka_unit_test(pixels_are_turned_as_the_specification_says),
    };
    return cmocka_run_group_tests_name("orientation", tests, NULL, NULL);
}
