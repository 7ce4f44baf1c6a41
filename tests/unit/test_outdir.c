/* outdir.h: a directory appears or is replaced only when whole. */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "orchestration/outdir.h"
#include "tests/support/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void write_file(const char *path, const char *text) {
    assert_int_equal(ty_file_write_atomic(path, text, strlen(text), NULL), TY_OK);
}

static void fill(const outdir *d, const char *text) {
    char path[4200];
    assert_int_equal(outdir_file(d, "pipeline.json", path, sizeof(path), NULL), TY_OK);
    write_file(path, text);
}

static char first_byte(const char *path) {
    char *data = NULL;
    size_t n = 0;
    assert_int_equal(ty_file_read(path, 100, &data, &n, NULL), TY_OK);
    char c = data[0];
    free(data);
    return c;
}

static void outdir_appears_at_commit(void **state) {
    (void)state;
    outdir d;
    char out[128];
    snprintf(out, sizeof(out), "%s/a/b/p/", test_temp_dir()); /* parents are made */
    assert_int_equal(outdir_begin(&d, out, NULL), TY_OK);
    fill(&d, "1");
    assert_int_not_equal(access(out, F_OK), 0);
    assert_int_equal(outdir_commit(&d, NULL), TY_OK);
    assert_int_equal(first_byte(test_path("%spipeline.json", out)), '1');
    assert_int_equal(d.tmp[0], '\0');
    outdir_abandon(&d);
    assert_int_equal(access(out, F_OK), 0);
}

static void outdir_replaces_a_pipeline_and_keeps_the_rest(void **state) {
    (void)state;
    outdir d;
    char out[128];
    snprintf(out, sizeof(out), "%s", test_temp_dir());
    write_file(test_path("%s/pipeline.json", out), "1");
    write_file(test_path("%s/vit.gguf", out), "1");
    write_file(test_path("%s/mine.txt", out), "m");
    assert_int_equal(outdir_begin(&d, out, NULL), TY_OK);
    fill(&d, "2");
    assert_int_equal(first_byte(test_path("%s/pipeline.json", out)), '1');
    char tmp[4096];
    memcpy(tmp, d.tmp, sizeof(tmp));
    assert_int_equal(outdir_commit(&d, NULL), TY_OK);
    assert_int_equal(first_byte(test_path("%s/pipeline.json", out)), '2');
    assert_int_equal(first_byte(test_path("%s/mine.txt", out)), 'm');
    assert_int_not_equal(access(test_path("%s/vit.gguf", out), F_OK), 0);
    assert_int_not_equal(access(tmp, F_OK), 0);
}

static void outdir_abandoned_leaves_nothing(void **state) {
    (void)state;
    outdir d;
    char out[128], tmp[4096];
    snprintf(out, sizeof(out), "%s/p", test_temp_dir());
    assert_int_equal(outdir_begin(&d, out, NULL), TY_OK);
    fill(&d, "1");
    memcpy(tmp, d.tmp, sizeof(tmp));
    outdir_abandon(&d);
    assert_int_not_equal(access(tmp, F_OK), 0);
    assert_int_not_equal(access(out, F_OK), 0);
}

static void outdir_refuses_what_it_must_not_replace(void **state) {
    (void)state;
    outdir d;
    ty_err err = {0};
    const char *dir = test_temp_dir();
    write_file(test_path("%s/letter", dir), "x");
    assert_int_equal(outdir_begin(&d, dir, &err), TY_EEXIST);
    assert_non_null(strstr(err.text, "is no pipeline"));
    assert_int_equal(outdir_begin(&d, test_path("%s/letter", dir), &err), TY_EIO);
    assert_int_equal(outdir_begin(&d, "", &err), TY_EINVAL);
    assert_int_equal(outdir_begin(&d, "///", &err), TY_EINVAL);
    outdir_abandon(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outdir_appears_at_commit),
        cmocka_unit_test(outdir_replaces_a_pipeline_and_keeps_the_rest),
        cmocka_unit_test(outdir_abandoned_leaves_nothing),
        cmocka_unit_test(outdir_refuses_what_it_must_not_replace),
    };
    return cmocka_run_group_tests_name("outdir", tests, NULL, NULL);
}
