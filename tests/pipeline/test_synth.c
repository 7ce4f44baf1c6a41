/* `tyto synth` as a process: exact shapes, the same bytes for a seed, and answers that print. */
#include "tests/support/ty_test.h"

#include "common/model/pipeline.h"
#include "tests/support/process.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *dir;

static int make_dir(void **state) {
    (void)state;
    dir = test_temp_dir();
    return 0;
}

static test_output synth(const char *name, const char *a, const char *b, const char *c,
                         const char *d) {
    char out[256];
    snprintf(out, sizeof(out), "%s/%s", dir, name);
    return TEST_RUN((char *)test_bin("tyto"), (char *)"synth", out, (char *)a, (char *)b, (char *)c,
                    (char *)d);
}

static void must_synth(const char *name, const char *a, const char *b, const char *c,
                       const char *d) {
    test_output o = synth(name, a, b, c, d);
    if (o.exit_code != 0) fail_msg("exit %d: %s", o.exit_code, o.err);
    test_output_clear(&o);
}

static void synth_makes_the_shapes_it_is_told(void **state) {
    (void)state;
    ty_gguf *g = NULL;
    ty_tensor t;
    must_synth("gqa", "--llm", "3,64,4,96,700,2", "--type", "q8_0");
    assert_int_equal(ty_gguf_open(&g, test_path("%s/gqa/decoder.gguf", dir), NULL), TY_OK);
    assert_int_equal(ty_gguf_tensor_count(g), 3 + 3 * 9);
    assert_int_equal(ty_gguf_find_shape(g, "blk.2.attn_k.weight", 2, (int64_t[]){32, 64}, &t, NULL),
                     TY_OK);
    assert_int_equal(t.dtype, TY_Q8_0);
    assert_int_equal(ty_gguf_find_shape(g, "token_embd.weight", 2, (int64_t[]){700, 64}, &t, NULL),
                     TY_OK);
    ty_gguf_close(&g);
    int64_t pixels = 0;
    must_synth("large", "--family=v2", "--shape=vit-l", "--vit-layers=1", "--type=q4_0");
    assert_int_equal(ty_gguf_open(&g, test_path("%s/large/vit.gguf", dir), NULL), TY_OK);
    assert_int_equal(ty_gguf_get_int(g, "vit.image_size", &pixels, NULL), TY_OK);
    assert_int_equal(pixels, 448);
    ty_gguf_close(&g);
    must_synth("owl2", "--family", "v2", "--vit", "tiny");
    assert_int_equal(ty_gguf_open(&g, test_path("%s/owl2/decoder.gguf", dir), NULL), TY_OK);
    assert_int_equal(
        ty_gguf_find_shape(g, "blk.1.vis_attn_k.weight", 2, (int64_t[]){64, 64}, &t, NULL), TY_OK);
    ty_gguf_close(&g);
    assert_int_equal(ty_gguf_open(&g, test_path("%s/owl2/abstractor.gguf", dir), NULL), TY_OK);
    const char *k_pos = "encoder.layers.1.crossattention.attention.k_pos_embed";
    assert_int_equal(ty_gguf_find_shape(g, k_pos, 2, (int64_t[]){17, 128}, &t, NULL), TY_OK);
    ty_gguf_close(&g);
}

static void synth_of_a_seed_is_always_the_same(void **state) {
    (void)state;
    ty_pipeline a, b;
    must_synth("same", "--seed", "7", NULL, NULL);
    assert_int_equal(ty_pipeline_load(&a, test_path("%s/same", dir), NULL), TY_OK);
    must_synth("same", "--seed", "7", NULL, NULL);
    assert_int_equal(ty_pipeline_load(&b, test_path("%s/same", dir), NULL), TY_OK);
    for (int k = 0; k < TY_STAGE_COUNT; k++) assert_string_equal(a.model_id[k], b.model_id[k]);
    must_synth("same", "--seed", "8", NULL, NULL);
    assert_int_equal(ty_pipeline_load(&b, test_path("%s/same", dir), NULL), TY_OK);
    assert_string_not_equal(a.model_id[TY_STAGE_DECODER], b.model_id[TY_STAGE_DECODER]);
}

static void answers_are_printable(const char *pipeline, const char *picture) {
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, pipeline);
    test_output o = TEST_RUN((char *)test_bin("tyto"), (char *)"run", (char *)"--pipeline", path,
                             (char *)"--prompt", (char *)"What is this?", (char *)"--max-tokens",
                             (char *)"40", (char *)(picture ? "--image" : NULL), (char *)picture);
    if (o.exit_code != 0) fail_msg("exit %d: %s", o.exit_code, o.err);
    assert_true(strlen(o.out) >= 40); /* a token is at least a character: none ended it early */
    for (const char *p = o.out; *p; p++) assert_true((*p >= ' ' && *p <= '~') || *p == '\n');
    test_output_clear(&o);
}

static void synth_answers_printable_words_in_every_type(void **state) {
    (void)state;
    const char *picture = test_path("%s/images/photo_9.jpg", test_golden_dir());
    const char *types[] = {"f32", "bf16", "q8_0", "q4_0"};
    for (int i = 0; i < 4; i++) {
        must_synth("words", "--type", types[i], NULL, NULL);
        answers_are_printable("words", picture);
    }
    must_synth("v2", "--family", "v2", "--type", "q8_0");
    answers_are_printable("v2", picture);
    must_synth("text", "--vit", "none", NULL, NULL);
    answers_are_printable("text", NULL);
    assert_int_not_equal(access(test_path("%s/text/vit.gguf", dir), F_OK), 0);
}

static void synth_explains_its_usage(void **state) {
    (void)state;
    const char *bad[][2] = {
        {"--llm", "1,2"},     {"--llm", "2,63,2,64,640"}, {"--vit", "huge"}, {"--shape", "giant"},
        {"--type", "vit=q5"}, {"--llm", "2,0,0,0,0"},     {"--family", "v3"}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        test_output o = synth("bad", bad[i][0], bad[i][1], NULL, NULL);
        assert_int_equal(o.exit_code, 2);
        assert_non_null(strstr(o.err, "tyto synth: "));
        test_output_clear(&o);
    }
    test_output o = synth("bad", "--family", "v2", "--shape", "giant");
    assert_int_equal(o.exit_code, 2);
    assert_non_null(strstr(o.err, "--shape giant"));
    test_output_clear(&o);
    o = synth("bad", "--llm", "2,64,4,64,640,2", "--family", "v2");
    assert_int_equal(o.exit_code, 2);
    assert_non_null(strstr(o.err, "key-value head for each"));
    test_output_clear(&o);
    o = synth("bad", "--llm", "2,64,2,64,100", NULL, NULL);
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "a vocabulary of 100"));
    test_output_clear(&o);
    assert_int_not_equal(access(test_path("%s/bad", dir), F_OK), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(synth_makes_the_shapes_it_is_told),
        cmocka_unit_test(synth_of_a_seed_is_always_the_same),
        cmocka_unit_test(synth_answers_printable_words_in_every_type),
        cmocka_unit_test(synth_explains_its_usage),
    };
    return cmocka_run_group_tests_name("synth", tests, make_dir, NULL);
}
