/* video.h: the frames of tests/golden/videos (make_videos.py says what is in them), which frames the reference
 * takes, and what is damaged, cut, too large or none of these. */
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "services/preprocess/video.h"
#include "tests/support/process.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { S = 28, FRAMES = 9, N = 4 };
static const int wanted[N] = {1, 3, 5, 7};

static uint8_t *load(const char *name, size_t *n) {
    char *bytes = NULL;
    ty_err err = {0};
    if (ty_file_read(test_path("%s/videos/%s", test_golden_dir(), name), 1 << 20, &bytes, n,
                     &err) != TY_OK)
        fail_msg("%s", err.text);
    return (uint8_t *)bytes;
}

static image_limits limits(void) {
    return (image_limits){.max_pixels = 1 << 20, .deadline_us = ty_now_us() + 10 * 1000000};
}

/* What make_videos.py drew. */
static int truth(int frame, int x, int y, int c) {
    bool square = y >= 4 && y < 10 && x >= 2 * frame && x < 2 * frame + 6;
    return c == 0 ? 25 * frame : c == 1 ? (square ? 200 : 0) : 40 * (y / 4);
}

static void check(const char *name, double mean_limit) {
    size_t n;
    uint8_t *bytes = load(name, &n), rgb[N * S * S * 3];
    ty_err err = {0};
    image_limits l = limits();
    assert_true(video_recognise(bytes, n));
    if (video_decode(bytes, n, &l, N, S, rgb, &err) != TY_OK) fail_msg("%s: %s", name, err.text);
    for (int t = 0; t < N; t++) {
        double sum = 0;
        for (int i = 0; i < S * S * 3; i++)
            sum += abs(rgb[t * S * S * 3 + i] - truth(wanted[t], i / 3 % S, i / 3 / S, i % 3));
        if (sum / (S * S * 3) > mean_limit)
            fail_msg("%s: frame %d differs by %g levels on average", name, t, sum / (S * S * 3));
    }
    free(bytes);
}

static void lossless_videos_give_their_frames(void **state) {
    (void)state;
    check("nine.gif", 0);
    check("nine.webp", 0);
}

/* Chroma and quantisation cost a level or two on average; another frame would be 16 away. */
static void lossy_videos_give_them_nearly(void **state) {
    (void)state;
    check("nine-mjpeg.avi", 3);
    check("nine-mjpeg.mp4", 3);
    check("nine-h264.mp4", 3);
}

static void frames_are_the_reference_s(void **state) {
    (void)state;
    json_t *all =
        json_load_file(test_path("%s/images_golden/images.json", test_golden_dir()), 0, NULL);
    const char *key;
    json_t *list;
    int seen = 0;
    json_object_foreach(json_object_get(all, "video_frame_index"), key, list) {
        int total, n;
        assert_int_equal(sscanf(key, "%d,%d", &total, &n), 2);
        assert_int_equal(json_array_size(list), n);
        for (int i = 0; i < n; i++, seen++)
            assert_int_equal(video_frame_index(total, n, i),
                             json_integer_value(json_array_get(list, (size_t)i)));
    }
    assert_true(seen > 50);
    json_decref(all);
}

/* More frames wanted than there are: some come twice. */
static void a_frame_that_is_wanted_twice_comes_twice(void **state) {
    (void)state;
    size_t n;
    enum { MANY = 24 };
    static uint8_t rgb[MANY * S * S * 3];
    const char *const names[] = {"nine.gif", "nine.webp"};
    for (int k = 0; k < 2; k++) {
        uint8_t *bytes = load(names[k], &n);
        image_limits l = limits();
        assert_int_equal(video_decode(bytes, n, &l, MANY, S, rgb, NULL), TY_OK);
        for (int t = 0; t < MANY; t++)
            assert_int_equal(rgb[t * S * S * 3], 25 * video_frame_index(FRAMES, MANY, t));
        free(bytes);
    }
}

/* Every prefix of a file, and a byte changed here and there: an error or some frames, never more. */
static void damaged_videos_are_refused_or_read(void **state) {
    (void)state;
    static const char *const names[] = {"nine.gif", "nine.webp", "nine-mjpeg.avi", "nine-mjpeg.mp4",
                                        "nine-h264.mp4"};
    static uint8_t rgb[N * S * S * 3];
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        size_t n;
        uint8_t *bytes = load(names[k], &n), *copy = malloc(n);
        int refused = 0;
        assert_non_null(copy);
        for (size_t cut = 0; cut < n; cut += cut < 64 ? 1 : n / 24 + 1) {
            image_limits l = limits();
            ty_err err = {0};
            memcpy(copy, bytes, cut);
            ty_status st = video_decode(copy, cut, &l, N, S, rgb, &err);
            if (st != TY_OK) assert_true(*err.text);
            refused += st != TY_OK;
        }
        assert_true(refused > 24);
        for (unsigned r = 1; r < 60; r++) {
            image_limits l = limits();
            memcpy(copy, bytes, n);
            copy[r * 2654435761u % n] ^= (uint8_t)(1 + r % 255);
            (void)video_decode(copy, n, &l, N, S, rgb, NULL);
        }
        free(copy);
        free(bytes);
    }
}

static void limits_hold(void **state) {
    (void)state;
    static const char *const names[] = {"nine.gif", "nine.webp", "nine-mjpeg.mp4"};
    static uint8_t rgb[N * S * S * 3];
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        size_t n;
        uint8_t *bytes = load(names[k], &n);
        ty_err err = {0};
        image_limits small = limits(), late = limits();
        small.max_pixels = S * S - 1;
        late.deadline_us = ty_now_us() - 1;
        assert_int_equal(video_decode(bytes, n, &small, N, S, rgb, &err), TY_ELIMIT);
        assert_non_null(strstr(err.text, "28 x 28"));
        assert_int_equal(video_decode(bytes, n, &late, N, S, rgb, &err), TY_ELIMIT);
        free(bytes);
    }
}

static void what_is_no_video_is_not_one(void **state) {
    (void)state;
    size_t n;
    uint8_t *bytes = load("still.webp", &n), rgb[S * S * 3];
    image_limits l = limits();
    ty_err err = {0};
    assert_false(video_recognise(bytes, n));
    assert_int_equal(video_decode(bytes, n, &l, 1, S, rgb, &err), TY_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "GIF"));
    assert_false(video_recognise(bytes, 0));
    assert_false(video_recognise((const uint8_t *)"\xff\xd8\xff\xe0", 4));
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lossless_videos_give_their_frames),
        cmocka_unit_test(lossy_videos_give_them_nearly),
        cmocka_unit_test(frames_are_the_reference_s),
        cmocka_unit_test(a_frame_that_is_wanted_twice_comes_twice),
        cmocka_unit_test(damaged_videos_are_refused_or_read),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(what_is_no_video_is_not_one),
    };
    return cmocka_run_group_tests_name("video_decode", tests, NULL, NULL);
}
