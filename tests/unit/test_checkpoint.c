/* checkpoint.h: four containers, one view. */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/model/checkpoint.h"
#include "common/model/safetensors.h"
#include "tests/support/process.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static ty_checkpoint *open_golden(const char *folder) {
    ty_checkpoint *c = NULL;
    assert_int_equal(
        ty_checkpoint_open(&c, test_path("%s/v1-micro/%s", test_golden_dir(), folder), NULL),
        TY_OK);
    return c;
}

static float first_of(const ty_checkpoint *c, const char *name, ty_dtype *t) {
    ty_loaded l;
    float x;
    assert_int_equal(ty_checkpoint_load(c, name, &l, NULL), TY_OK);
    ty_dtype_to_f32(l.t.dtype, l.t.data, 0, 1, &x);
    *t = l.t.dtype;
    ty_checkpoint_release(&l);
    assert_null(l.t.data);
    return x;
}

static void checkpoint_shows_the_same_tensors_in_every_container(void **state) {
    (void)state;
    const char *folders[] = {".", "safetensors", "sharded-bin", "sharded-safetensors"};
    const ty_dtype types[] = {TY_F32, TY_F32, TY_F16, TY_BF16};
    const char *name = "language_model.model.embed_tokens.weight";
    ty_checkpoint *one = open_golden("safetensors");
    ty_dtype t;
    float want = first_of(one, name, &t);
    for (int i = 0; i < 4; i++) {
        ty_checkpoint *c = open_golden(folders[i]);
        ty_tensor info;
        assert_int_equal(ty_checkpoint_count(c), ty_checkpoint_count(one));
        for (int k = 0; k < ty_checkpoint_count(c); k++)
            assert_string_equal(ty_checkpoint_name(c, k), ty_checkpoint_name(one, k));
        assert_int_equal(ty_checkpoint_info(c, name, &info, NULL), TY_OK);
        assert_int_equal(info.shape[0], 640);
        assert_null(info.data);
        float x = first_of(c, name, &t);
        assert_true(fabsf(x - want) <= 0.01f * fabsf(want));
        assert_int_equal(t, types[i]);
        ty_checkpoint_close(&c);
    }
    ty_checkpoint_close(&one);
}

static void checkpoint_reads_again_what_was_released(void **state) {
    (void)state;
    ty_checkpoint *c = open_golden(".");
    ty_dtype t;
    float x = first_of(c, "language_model.lm_head.weight", &t);
    assert_true(x == first_of(c, "language_model.lm_head.weight", &t));
    ty_checkpoint_close(&c);
}

static void checkpoint_names_what_it_lacks(void **state) {
    (void)state;
    ty_checkpoint *c = open_golden(".");
    ty_loaded l;
    ty_err err = {0};
    assert_false(ty_checkpoint_has(c, "x.y"));
    assert_int_equal(ty_checkpoint_load(c, "x.y", &l, &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "x.y"));
    ty_checkpoint_release(&l);
    ty_checkpoint_close(&c);
    assert_int_equal(ty_checkpoint_open(&c, test_temp_dir(), &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "pytorch_model.bin"));
}

static void write_shard(const char *dir, const char *file, const char *name) {
    ty_safetensors_writer *w = NULL;
    const float x = 1;
    assert_int_equal(ty_safetensors_writer_create(&w, NULL), TY_OK);
    assert_int_equal(ty_safetensors_add(w, name, TY_F32, 1, (int64_t[]){1}, &x, NULL), TY_OK);
    assert_int_equal(ty_safetensors_write(w, test_path("%s/%s", dir, file), NULL), TY_OK);
    ty_safetensors_writer_destroy(&w);
}

static void checkpoint_checks_the_index(void **state) {
    (void)state;
    const struct {
        const char *json;
        ty_status want;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}", TY_OK},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\"}}", TY_EFORMAT},
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"c\":\"same.safetensors\"}}", TY_EFORMAT},
        {"{\"weight_map\":{\"a\":\"3.safetensors\"}}", TY_ENOTFOUND},
        {"{\"weight_map\":{\"a\":\"/etc/x.bin\"}}", TY_EFORMAT},
        {"{\"weight_map\":{\"a\":\".x.bin\"}}", TY_EFORMAT},
        {"{\"weight_map\":{\"a\":7}}", TY_EFORMAT},
        {"{\"weight_map\":{\"a\":\"passwd\"}}", TY_EFORMAT},
        {"{\"weight_map\":[]}", TY_EFORMAT},
        {"{}", TY_EFORMAT},
        {"{", TY_EFORMAT},
    };
    const char *dir = test_temp_dir();
    write_shard(dir, "1.safetensors", "a");
    write_shard(dir, "2.safetensors", "b");
    write_shard(dir, "same.safetensors", "a"); /* one tensor in two shards */
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        ty_checkpoint *c = NULL;
        const char *index = test_path("%s/model.safetensors.index.json", dir);
        assert_int_equal(ty_file_write_atomic(index, cases[i].json, strlen(cases[i].json), NULL),
                         TY_OK);
        assert_int_equal(ty_checkpoint_open(&c, dir, NULL), cases[i].want);
        assert_true((c != NULL) == (cases[i].want == TY_OK));
        ty_checkpoint_close(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checkpoint_shows_the_same_tensors_in_every_container),
        cmocka_unit_test(checkpoint_reads_again_what_was_released),
        cmocka_unit_test(checkpoint_names_what_it_lacks),
        cmocka_unit_test(checkpoint_checks_the_index),
    };
    return cmocka_run_group_tests_name("checkpoint", tests, NULL, NULL);
}
