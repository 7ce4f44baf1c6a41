/* pipeline.h: a directory with pipeline.json, read, written, and refused with a remedy. */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/model/pipeline.h"
#include "tests/support/process.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *dir;

static void write_stage(const char *name, uint32_t v) {
    ty_gguf_writer *w = NULL;
    assert_int_equal(ty_gguf_writer_create(&w, test_path("%s/%s.gguf", dir, name), "t", NULL),
                     TY_OK);
    assert_int_equal(ty_gguf_set_u32(w, "x", v, NULL), TY_OK);
    assert_int_equal(ty_gguf_finish(w, NULL), TY_OK);
    ty_gguf_writer_destroy(&w);
}

static int make_dir(void **state) {
    (void)state;
    dir = test_temp_dir();
    for (int k = 0; k < TY_STAGE_COUNT; k++)
        write_stage(ty_stage_name((ty_stage_kind)k), (uint32_t)k);
    return 0;
}

static ty_status load(ty_pipeline *p, const char *json, ty_err *err) {
    assert_int_equal(
        ty_file_write_atomic(test_path("%s/pipeline.json", dir), json, strlen(json), NULL), TY_OK);
    return ty_pipeline_load(p, dir, err);
}

#define HEAD "{\"format\":\"tyto-pipeline\",\"version\":1,\"family\":\"mplug_owl_v1\",\"stages\":"

static void pipeline_loads_what_it_saved(void **state) {
    (void)state;
    ty_pipeline p = {.family = "mplug_owl_v1"}, q;
    ty_err err = {0};
    for (int k = 0; k < TY_STAGE_COUNT; k++)
        snprintf(p.path[k], sizeof(p.path[k]), "%s.gguf", ty_stage_name((ty_stage_kind)k));
    assert_int_equal(ty_pipeline_save(&p, dir, &err), TY_OK);
    assert_int_equal(ty_pipeline_load(&q, test_path("%s/", dir), &err), TY_OK);
    assert_string_equal(q.name, strrchr(dir, '/') + 1);
    assert_string_equal(q.family, "mplug_owl_v1");
    assert_true(ty_pipeline_has_vision(&q));
    for (int k = 0; k < TY_STAGE_COUNT; k++) {
        assert_int_equal(access(q.path[k], R_OK), 0);
        assert_int_equal(strlen(q.model_id[k]), 32);
    }
    assert_string_not_equal(q.model_id[0], q.model_id[1]);
}

static void pipeline_of_a_decoder_alone_has_no_vision(void **state) {
    (void)state;
    ty_pipeline p;
    assert_int_equal(load(&p, HEAD "{\"decoder\":\"decoder.gguf\"}}", NULL), TY_OK);
    assert_false(ty_pipeline_has_vision(&p));
    assert_string_equal(p.path[TY_STAGE_VIT], "");
}

static void pipeline_takes_a_stage_from_elsewhere(void **state) {
    (void)state;
    ty_pipeline p;
    char json[512];
    snprintf(json, sizeof(json), HEAD "{\"decoder\":\"%s/vit.gguf\"}}", dir);
    assert_int_equal(load(&p, json, NULL), TY_OK);
    assert_string_equal(p.path[TY_STAGE_DECODER], test_path("%s/vit.gguf", dir));
}

static void pipeline_refuses_what_is_none(void **state) {
    (void)state;
    const struct {
        const char *json;
        ty_status want;
        const char *says;
    } cases[] = {
        {"", TY_EFORMAT, "pipeline.json"},
        {"[]", TY_EFORMAT, "format"},
        {"{\"format\":\"x\"}", TY_EFORMAT, "format"},
        {"{\"format\":\"tyto-pipeline\",\"version\":2,\"family\":\"x\"}", TY_EUNSUPPORTED,
         "version"},
        {"{\"format\":\"tyto-pipeline\",\"version\":1}", TY_EFORMAT, "family"},
        {HEAD "[]}", TY_EFORMAT, "stages"},
        {HEAD "{}}", TY_EFORMAT, "decoder"},
        {HEAD "{\"decoder\":7}}", TY_EFORMAT, "decoder"},
        {HEAD "{\"decoder\":\"decoder.gguf\",\"vit\":\"vit.gguf\"}}", TY_EFORMAT, "together"},
        {HEAD "{\"decoder\":\"decoder.gguf\",\"ocr\":\"x\"}}", TY_EUNSUPPORTED, "ocr"},
        {HEAD "{\"decoder\":\"none.gguf\"}}", TY_ENOTFOUND, "none.gguf"},
        {HEAD "{\"decoder\":\"pipeline.json\"}}", TY_EFORMAT, "stage decoder"},
        {HEAD "{\"decoder\":\"a\",\"decoder\":\"b\"}}", TY_EFORMAT, "decoder"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        ty_pipeline p;
        ty_err err = {0};
        assert_int_equal(load(&p, cases[i].json, &err), cases[i].want);
        if (!strstr(err.text, cases[i].says))
            fail_msg("\"%s\" does not say \"%s\"", err.text, cases[i].says);
    }
}

static void pipeline_names_the_remedy_when_there_is_none(void **state) {
    (void)state;
    ty_pipeline p;
    ty_err err = {0};
    assert_int_equal(ty_pipeline_load(&p, "/nonexistent/p", &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "tyto import"));
    const char *empty = test_temp_dir();
    assert_int_equal(ty_pipeline_load(&p, empty, &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "tyto import"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pipeline_loads_what_it_saved),
        cmocka_unit_test(pipeline_of_a_decoder_alone_has_no_vision),
        cmocka_unit_test(pipeline_takes_a_stage_from_elsewhere),
        cmocka_unit_test(pipeline_refuses_what_is_none),
        cmocka_unit_test(pipeline_names_the_remedy_when_there_is_none),
    };
    return cmocka_run_group_tests_name("pipeline", tests, make_dir, NULL);
}
