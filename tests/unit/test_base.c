/* buf.h, arena.h, file.h, clock.h: the small things that everything stands on. */
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/arena.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void buf_appends_and_terminates(void **state) {
    (void)state;
    ty_buf b = ty_buf_make(1000);
    assert_int_equal(ty_buf_puts(&b, "ab"), TY_OK);
    assert_int_equal(ty_buf_append(&b, "c\0d", 3), TY_OK);
    assert_int_equal(ty_buf_printf(&b, "%d", 42), TY_OK);
    assert_int_equal(b.len, 7);
    assert_memory_equal(b.data, "abc\0d42", 8);
    ty_buf_clear(&b);
    assert_null(b.data);
}

static void buf_keeps_what_it_had_when_full(void **state) {
    (void)state;
    ty_buf b = ty_buf_make(4);
    assert_int_equal(ty_buf_puts(&b, "abcd"), TY_OK);
    assert_int_equal(ty_buf_puts(&b, "e"), TY_ELIMIT);
    assert_int_equal(ty_buf_printf(&b, "%s", "xyz"), TY_ELIMIT);
    assert_string_equal(b.data, "abcd");
    assert_int_equal(b.failed, TY_ELIMIT);
    ty_buf_reset(&b);
    assert_int_equal(b.failed, TY_OK);
    assert_int_equal(ty_buf_puts(&b, "e"), TY_OK);
    ty_buf_clear(&b);
}

static void buf_take_of_an_empty_buffer_is_an_empty_string(void **state) {
    (void)state;
    ty_buf b = ty_buf_make(4);
    char *s = ty_buf_take(&b);
    assert_string_equal(s, "");
    free(s);
}

static void arena_blocks_are_aligned_and_apart(void **state) {
    (void)state;
    ty_arena *a = ty_arena_create(256);
    assert_non_null(a);
    char *p[64];
    for (int i = 0; i < 64; i++) {
        size_t n = (size_t)(1 + i * 7);
        p[i] = ty_arena_alloc(a, n);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 64, 0);
        memset(p[i], i, n);
    }
    for (int i = 0; i < 64; i++)
        for (int k = 0; k < 1 + i * 7; k++) assert_int_equal(p[i][k], i);
    ty_arena_destroy(&a);
    assert_null(a);
}

static void arena_takes_no_more_memory_after_a_reset(void **state) {
    (void)state;
    ty_arena *a = ty_arena_create(1024);
    size_t held = 0;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 40; i++) assert_non_null(ty_arena_alloc(a, (size_t)(100 * i)));
        if (round == 0) held = ty_arena_bytes(a);
        assert_int_equal(ty_arena_bytes(a), held);
        ty_arena_reset(a);
    }
    ty_arena_destroy(&a);
}

static void arena_array_refuses_an_overflow(void **state) {
    (void)state;
    ty_arena *a = ty_arena_create(0);
    assert_null(ty_arena_array(a, SIZE_MAX / 2, 3));
    assert_null(ty_arena_alloc(a, SIZE_MAX - 3));
    assert_string_equal(ty_arena_strdup(a, "owl"), "owl");
    ty_arena_destroy(&a);
}

static void file_comes_back_as_it_was_written(void **state) {
    (void)state;
    char dir[] = "/tmp/tyto_base_XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/f", dir);
    ty_err err = {0};
    char *data;
    size_t size;
    assert_int_equal(ty_file_read(path, 10, &data, &size, &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(ty_file_write_atomic(path, "0123456789", 10, &err), TY_OK);
    assert_int_equal(ty_file_read(path, 9, &data, &size, &err), TY_ELIMIT);
    assert_int_equal(ty_file_read(path, 10, &data, &size, &err), TY_OK);
    assert_int_equal(size, 10);
    assert_string_equal(data, "0123456789");
    free(data);
    ty_file_map map;
    assert_int_equal(ty_file_mmap(path, &map, &err), TY_OK);
    assert_memory_equal(map.data, "0123456789", 10);
    ty_file_unmap(&map);
    assert_int_equal(ty_file_read(dir, 10, &data, &size, &err), TY_EIO);
    assert_int_equal(ty_file_mmap(dir, &map, &err), TY_EIO);
    unlink(path);
    assert_int_equal(rmdir(dir), 0); /* nothing temporary was left */
}

/* KiB of mapped files that are in this process's memory. */
static long mapped_kib(void) {
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(ty_file_read("/proc/self/status", 1 << 16, &text, &size, NULL), TY_OK);
    const char *line = strstr(text, "RssFile:");
    long kib = line ? strtol(line + 8, NULL, 10) : -1;
    free(text);
    return kib;
}

static void file_release_gives_pages_back_and_they_come_again(void **state) {
    (void)state;
    enum { SIZE = 16 << 20 };
    const char *path = test_path("%s/pages", test_temp_dir());
    char *bytes = calloc(1, SIZE);
    ty_file_map map;
    ty_err err = {0};
    assert_non_null(bytes);
    for (size_t i = 0; i < SIZE; i++) bytes[i] = (char)(i >> 10);
    assert_int_equal(ty_file_write_atomic(path, bytes, SIZE, &err), TY_OK);
    assert_int_equal(ty_file_mmap(path, &map, &err), TY_OK);
    assert_memory_equal(map.data, bytes, SIZE);
    long before = mapped_kib();
    ty_file_release(map.data + 1, SIZE - 2);
    assert_true(mapped_kib() < before - (SIZE >> 10) / 2);
    assert_memory_equal(map.data, bytes, SIZE);
    ty_file_unmap(&map);
    free(bytes);
}

static void file_write_to_nowhere_fails_and_leaves_nothing(void **state) {
    (void)state;
    ty_err err = {0};
    assert_int_equal(ty_file_write_atomic("/nonexistent/dir/f", "x", 1, &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "/nonexistent/dir/f"));
}

static void clock_runs_forward(void **state) {
    (void)state;
    int64_t a = ty_now_us(), b = ty_now_us();
    assert_true(b >= a);
    assert_true(ty_now_unix_us() > 1700000000000000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buf_appends_and_terminates),
        cmocka_unit_test(buf_keeps_what_it_had_when_full),
        cmocka_unit_test(buf_take_of_an_empty_buffer_is_an_empty_string),
        cmocka_unit_test(arena_blocks_are_aligned_and_apart),
        cmocka_unit_test(arena_takes_no_more_memory_after_a_reset),
        cmocka_unit_test(arena_array_refuses_an_overflow),
        cmocka_unit_test(file_comes_back_as_it_was_written),
        cmocka_unit_test(file_release_gives_pages_back_and_they_come_again),
        cmocka_unit_test(file_write_to_nowhere_fails_and_leaves_nothing),
        cmocka_unit_test(clock_runs_forward),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
