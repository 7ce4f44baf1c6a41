/*
 * The video variant against the reference (v1-video-micro): its ViT's and abstractor's layers and visual tokens of a
 * video, and of one of its frames as a still picture; the prompt, the spliced embeddings, logits, greedy
 * ids; the same through the offline commands.
 */
#include "tests/support/ty_test.h"

#include "common/model/safetensors.h"
#include "common/model/video_frames.h"
#include "services/abstractor/abstractor.h"
#include "services/decoder/decoder.h"
#include "services/vit/vit.h"
#include "tests/support/process.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 10x the error of the reference's own f32 run against f64 (tests/golden/README.md). */
static const double TOL_HIDDEN = 1e-4, TOL_VISUAL = 2e-4, TOL_LOGITS = 5e-4;
enum { T = 4, S = 28, PLANE = S * S };

static char pipe_dir[512], dir[512];
static ty_safetensors *golden;
static json_t *about;
static ty_pool *pool;
static vit *eye;
static abstractor *abs_;
static decoder *dec;
static float frames[T * 3 * PLANE], *features, *tokens;

static void must(ty_status st, const ty_err *err) {
    if (st != TY_OK) fail_msg("%s: %s", ty_status_name(st), err->text);
}

static ty_tensor find(const char *name) {
    ty_tensor t;
    ty_err err = {0};
    must(ty_safetensors_find(golden, name, &t, &err), &err);
    assert_int_equal(t.dtype, TY_F32);
    return t;
}

static void near_golden(const char *name, const float *got, int64_t n, double tol) {
    ty_tensor want = find(name);
    double worst = 0;
    assert_int_equal(ty_tensor_count(&want), n);
    for (int64_t i = 0; i < n; i++)
        worst = fmax(worst, fabs((double)got[i] - (double)((const float *)want.data)[i]));
    if (!(worst <= tol)) fail_msg("%s differs by %g, tolerance %g", name, worst, tol);
}

static int open_all(void **state) {
    (void)state;
    ty_err err = {0};
    snprintf(dir, sizeof dir, "%s/v1-video-micro", test_golden_dir());
    snprintf(pipe_dir, sizeof pipe_dir, "%s/video", test_temp_dir());
    test_output o =
        TEST_RUN((char *)test_bin("tyto"), (char *)"import", (char *)dir, (char *)pipe_dir);
    if (o.exit_code != 0) fail_msg("%s", o.err);
    test_output_clear(&o);
    about = json_load_file(test_path("%s/golden.json", dir), 0, NULL);
    assert_non_null(about);
    must(ty_safetensors_open(&golden, test_path("%s/golden.safetensors", dir), &err), &err);
    must(ty_pool_create(&pool, 2, &err), &err);
    const ty_run_options run = {.pool = pool};
    must(vit_create(&eye, test_path("%s/vit.gguf", pipe_dir), &run, &err), &err);
    must(abstractor_create(&abs_, test_path("%s/abstractor.gguf", pipe_dir), &run, &err), &err);
    decoder_options d = {.run = run};
    must(decoder_create(&dec, test_path("%s/decoder.gguf", pipe_dir), &d, &err), &err);
    ty_tensor pixels = find("video_pixel_values");
    assert_int_equal(ty_tensor_count(&pixels), T * 3 * PLANE);
    ty_video_frames_from_file(pixels.data, 1, T, PLANE, frames);
    features = malloc((size_t)(3 * T * vit_n_token(eye) * vit_width(eye)) * sizeof *features);
    tokens =
        malloc((size_t)(3 * abstractor_n_out(abs_) * abstractor_width_out(abs_)) * sizeof *tokens);
    return features && tokens ? 0 : -1;
}

static int close_all(void **state) {
    (void)state;
    free(features);
    free(tokens);
    decoder_destroy(&dec);
    abstractor_destroy(&abs_);
    vit_destroy(&eye);
    ty_pool_destroy(&pool);
    ty_safetensors_close(&golden);
    json_decref(about);
    return 0;
}

static void check_dump(void *ctx, const char *name, int n_dim, const int64_t *shape,
                       const float *data) {
    int64_t n = 1;
    for (int i = 0; i < n_dim; i++) n *= shape[i];
    near_golden(test_path("video/%s", name), data, n, TOL_HIDDEN);
    ++*(int *)ctx;
}

static void a_video_has_the_reference_s_visual_tokens(void **state) {
    (void)state;
    ty_err err = {0};
    int seen = 0;
    ty_dump dump = {.put = check_dump, .ctx = &seen};
    int64_t rows = T * vit_n_token(eye);
    assert_true(vit_sees_videos(eye) && abstractor_sees_videos(abs_));
    must(vit_run_videos(eye, frames, 1, T, features, &dump, &err), &err);
    near_golden("video/vit_out", features, rows * vit_width(eye), TOL_HIDDEN);
    must(abstractor_run_videos(abs_, features, 1, T, vit_n_token(eye), tokens, &dump, &err), &err);
    near_golden("video/visual_tokens", tokens, abstractor_n_out(abs_) * abstractor_width_out(abs_),
                TOL_VISUAL);
    assert_int_equal(seen, 5); /* vit_embed, two layers of each */
}

static void a_frame_alone_is_a_picture(void **state) {
    (void)state;
    ty_err err = {0};
    must(vit_run(eye, frames, 1, features, NULL, &err), &err);
    near_golden("image/vit_out", features, vit_n_token(eye) * vit_width(eye), TOL_HIDDEN);
    must(abstractor_run(abs_, features, 1, vit_n_token(eye), tokens, NULL, &err), &err);
    near_golden("image/visual_tokens", tokens, abstractor_n_out(abs_) * abstractor_width_out(abs_),
                TOL_VISUAL);
}

/* Three videos, the middle one in reverse: the first and last get the bits that they get alone. */
static void videos_in_a_batch_have_the_same_bits(void **state) {
    (void)state;
    ty_err err = {0};
    size_t each = T * 3 * PLANE;
    size_t out = (size_t)(abstractor_n_out(abs_) * abstractor_width_out(abs_));
    float *three = malloc(3 * each * sizeof *three), *alone = malloc(out * sizeof *alone);
    assert_true(three && alone);
    must(vit_run_videos(eye, frames, 1, T, features, NULL, &err), &err);
    must(abstractor_run_videos(abs_, features, 1, T, vit_n_token(eye), alone, NULL, &err), &err);
    for (int v = 0; v < 3; v++)
        for (int t = 0; t < T; t++)
            memcpy(three + (size_t)v * each + (size_t)t * 3 * PLANE,
                   frames + (size_t)(v == 1 ? T - 1 - t : t) * 3 * PLANE,
                   3 * PLANE * sizeof *three);
    must(vit_run_videos(eye, three, 3, T, features, NULL, &err), &err);
    must(abstractor_run_videos(abs_, features, 3, T, vit_n_token(eye), tokens, NULL, &err), &err);
    assert_memory_equal(tokens, alone, out * sizeof *alone);
    assert_memory_equal(tokens + 2 * out, alone, out * sizeof *alone);
    assert_memory_not_equal(tokens + out, alone, out * sizeof *alone);
    free(three);
    free(alone);
}

typedef struct {
    int32_t id[64];
    int n;
    bool done;
} answer;

static void on_token(void *ctx, const decoder_token *t, int index, const char *text, size_t len) {
    (void)text;
    (void)len;
    answer *a = ctx;
    assert_true(index < 64);
    a->id[index] = t->id;
    a->n = index + 1;
}

static void on_done(void *ctx, ty_status st, const decoder_result *r, const ty_err *err) {
    if (st != TY_OK) fail_msg("%s", err->text);
    const json_t *p = json_object_get(json_object_get(about, "prompts"), "video");
    assert_string_equal(r->text, json_string_value(json_object_get(p, "greedy_text")));
    ((answer *)ctx)->done = true;
}

static void check_embeds(void *ctx, const char *name, int n_dim, const int64_t *shape,
                         const float *data) {
    (void)n_dim;
    if (strcmp(name, "inputs_embeds") != 0) return;
    near_golden("prompt/video/inputs_embeds", data, shape[0] * shape[1], TOL_HIDDEN);
    ++*(int *)ctx;
}

static void the_prompt_and_the_answer_are_the_reference_s(void **state) {
    (void)state;
    ty_err err = {0};
    const json_t *p = json_object_get(json_object_get(about, "prompts"), "video"), *want;
    ty_chat_request chat;
    ty_tensor visual = find("video/visual_tokens"), ids_want;
    ty_ids ids = {0};
    float *logits = NULL;
    int64_t rows;
    int seen = 0;
    answer a = {0};
    uint64_t handle;
    must(ty_chat_request_init(&chat), &err);
    chat.prompt = strdup(json_string_value(json_object_get(p, "text")));
    want = json_object_get(p, "greedy_ids");
    chat.sampling.max_tokens = (int)json_array_size(want);
    decoder_request r = {.request = &chat,
                         .visual = visual.data,
                         .n_visual = 1,
                         .visual_rows = (int)visual.shape[0],
                         .sink = {.ctx = &a, .on_token = on_token, .on_done = on_done}};
    ty_dump dump = {.put = check_embeds, .ctx = &seen};
    must(decoder_score(dec, &r, -1, &ids, &logits, &rows, &dump, &err), &err);
    must(ty_safetensors_find(golden, "prompt/video/input_ids", &ids_want, &err), &err);
    assert_int_equal(ids.n, ty_tensor_count(&ids_want));
    for (int i = 0; i < ids.n; i++)
        assert_int_equal(ids.id[i], ((const int64_t *)ids_want.data)[i]);
    near_golden("prompt/video/logits", logits, rows * decoder_vocab(dec), TOL_LOGITS);
    assert_int_equal(seen, 1);
    must(decoder_submit(dec, &r, &handle, &err), &err);
    while (decoder_step(dec) > 0) {
    }
    assert_true(a.done);
    assert_int_equal(a.n, json_array_size(want));
    for (int i = 0; i < a.n; i++)
        assert_int_equal(a.id[i], json_integer_value(json_array_get(want, (size_t)i)));
    free(logits);
    ty_ids_clear(&ids);
    ty_chat_request_clear(&chat);
}

/* pixel_values as the golden has them, [3, T, S, S], through the two programs. */
static void the_offline_commands_take_a_video(void **state) {
    (void)state;
    ty_err err = {0};
    ty_tensor pixels = find("video_pixel_values"), t;
    ty_safetensors_writer *w = NULL;
    ty_safetensors *out = NULL;
    char x[512], y[512], z[512];
    const char *tmp = test_temp_dir();
    snprintf(x, sizeof x, "%s/x.safetensors", tmp);
    snprintf(y, sizeof y, "%s/y.safetensors", tmp);
    snprintf(z, sizeof z, "%s/z.safetensors", tmp);
    must(ty_safetensors_writer_create(&w, &err), &err);
    must(ty_safetensors_add(w, "pixel_values", TY_F32, 4, pixels.shape, pixels.data, &err), &err);
    must(ty_safetensors_write(w, x, &err), &err);
    ty_safetensors_writer_destroy(&w);
    test_output o =
        TEST_RUN((char *)test_bin("tyto-vit"), (char *)"--model",
                 (char *)test_path("%s/vit.gguf", pipe_dir), (char *)"--in", x, (char *)"--out", y);
    if (o.exit_code != 0) fail_msg("%s", o.err);
    test_output_clear(&o);
    o = TEST_RUN((char *)test_bin("tyto-abstractor"), (char *)"--model",
                 (char *)test_path("%s/abstractor.gguf", pipe_dir), (char *)"--in", y,
                 (char *)"--out", z);
    if (o.exit_code != 0) fail_msg("%s", o.err);
    test_output_clear(&o);
    must(ty_safetensors_open(&out, y, &err), &err);
    must(ty_safetensors_find(out, "image_features", &t, &err), &err);
    assert_int_equal(t.n_dim, 4);
    assert_int_equal(t.shape[1], T);
    ty_safetensors_close(&out);
    must(ty_safetensors_open(&out, z, &err), &err);
    must(ty_safetensors_find(out, "visual_tokens", &t, &err), &err);
    assert_int_equal(t.n_dim, 3);
    near_golden("video/visual_tokens", t.data, ty_tensor_count(&t), TOL_VISUAL);
    ty_safetensors_close(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_video_has_the_reference_s_visual_tokens),
        cmocka_unit_test(a_frame_alone_is_a_picture),
        cmocka_unit_test(videos_in_a_batch_have_the_same_bits),
        cmocka_unit_test(the_prompt_and_the_answer_are_the_reference_s),
        cmocka_unit_test(the_offline_commands_take_a_video),
    };
    return cmocka_run_group_tests_name("video", tests, open_all, close_all);
}
