/* rope.h and what the metadata says of it: each scaling against its formula in double precision, and what is
 * refused.  Against llama.cpp: tests/clients/check_llama_gguf.py. */
#include "tests/support/ty_test.h"

#include "services/decoder/llama_impl.h"
#include "services/decoder/rope.h"
#include "tests/support/process.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CONTEXT = 64, D = 16, HALF = D / 2, TRAINED = 16 };

/* What a file says beside the sizes. */
typedef struct {
    const char *type; /* NULL: nothing */
    float factor, attn_factor;
    bool factors, log_multiplier; /* rope_freqs.weight; a key that is not known */
} says;

static const float FREQS[HALF] = {1, 1, 1, 2, 4, 8, 8, 8};

static ty_gguf *write_file(const says *s) {
    const char *path = test_path("%s/rope.gguf", test_temp_dir());
    ty_gguf_writer *w = NULL;
    ty_gguf *g = NULL;
    assert_int_equal(ty_gguf_writer_create(&w, path, "llama", NULL), TY_OK);
    const struct {
        const char *key;
        uint32_t v;
    } sizes[] = {{"llama.block_count", 1},
                 {"llama.embedding_length", 2 * D},
                 {"llama.feed_forward_length", 8},
                 {"llama.context_length", CONTEXT},
                 {"llama.attention.head_count", 2}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        assert_int_equal(ty_gguf_set_u32(w, sizes[i].key, sizes[i].v, NULL), TY_OK);
    if (s->type)
        assert_int_equal(
            ty_gguf_set_str(w, "llama.rope.scaling.type", s->type, strlen(s->type), NULL), TY_OK);
    if (s->factor > 0)
        assert_int_equal(ty_gguf_set_f32(w, "llama.rope.scaling.factor", s->factor, NULL), TY_OK);
    if (s->attn_factor > 0)
        assert_int_equal(ty_gguf_set_f32(w, "llama.rope.scaling.attn_factor", s->attn_factor, NULL),
                         TY_OK);
    if (s->log_multiplier)
        assert_int_equal(ty_gguf_set_f32(w, "llama.rope.scaling.yarn_log_multiplier", 1, NULL),
                         TY_OK);
    assert_int_equal(
        ty_gguf_set_u32(w, "llama.rope.scaling.original_context_length", TRAINED, NULL), TY_OK);
    if (s->factors) {
        const int64_t n = HALF;
        assert_int_equal(ty_gguf_declare(w, "rope_freqs.weight", TY_F32, 1, &n, NULL), TY_OK);
        assert_int_equal(ty_gguf_write(w, FREQS, sizeof FREQS, NULL), TY_OK);
    }
    assert_int_equal(ty_gguf_finish(w, NULL), TY_OK);
    ty_gguf_writer_destroy(&w);
    assert_int_equal(ty_gguf_open(&g, path, NULL), TY_OK);
    return g;
}

/* Every angle of the table is the one that `angle` gives, cos and sin times `magnitude`. */
static void check(const says *s, double (*angle)(int pos, int j), double magnitude) {
    ty_gguf *g = write_file(s);
    llama_dims d = {0};
    llama_rope r = {0};
    ty_err err = {0};
    if (llama_read_dims(g, &d, &err) != TY_OK) fail_msg("%s", err.text);
    if (llama_rope_create(&r, g, &d, CONTEXT, &err) != TY_OK) fail_msg("%s", err.text);
    for (int p = 0; p < CONTEXT; p++)
        for (int j = 0; j < HALF; j++) {
            double a = angle(p, j);
            if (fabs((double)r.cos[p * HALF + j] - magnitude * cos(a)) > 1e-5 ||
                fabs((double)r.sin[p * HALF + j] - magnitude * sin(a)) > 1e-5)
                fail_msg("%s: position %d, frequency %d is not turned by %g",
                         s->type ? s->type : "no type", p, j, a);
        }
    llama_rope_clear(&r);
    ty_gguf_close(&g);
}

static double plain(int pos, int j) {
    return pos * pow(10000, -2.0 * j / D);
}

static double linear(int pos, int j) {
    return plain(pos, j) / 4;
}

static double factored(int pos, int j) {
    return plain(pos, j) / (double)FREQS[j];
}

/* YaRN: frequencies that turn more than 32 times in the trained context are kept, those that turn less than
 * once are slowed fourfold, a ramp between. */
static double yarn(int pos, int j) {
    double low = D * log(TRAINED / (32 * 2 * M_PI)) / (2 * log(10000));
    double high = D * log(TRAINED / (1 * 2 * M_PI)) / (2 * log(10000));
    low = fmax(0, floor(low));
    high = fmin(D - 1, ceil(high));
    double slowed = fmin(1, fmax(0, (j - low) / fmax(0.001, high - low)));
    return plain(pos, j) * (1 - slowed) + plain(pos, j) / 4 * slowed;
}

static void tables_follow_the_files_scaling(void **state) {
    (void)state;
    check(&(says){0}, plain, 1);
    check(&(says){.type = "none", .factor = 4}, plain, 1);
    check(&(says){.type = "linear", .factor = 4}, linear, 1);
    check(&(says){.factor = 4}, linear, 1); /* a factor alone is linear */
    check(&(says){.factors = true}, factored, 1);
    check(&(says){.type = "yarn", .factor = 4}, yarn, 1 + 0.1 * log(4));
    check(&(says){.type = "yarn", .factor = 4, .attn_factor = 0.5f}, yarn,
          0.5 * (1 + 0.1 * log(4)));
}

static void refused(const says *s, const char *word) {
    ty_gguf *g = write_file(s);
    llama_dims d = {0};
    ty_err err = {0};
    assert_int_equal(llama_read_dims(g, &d, &err), TY_EUNSUPPORTED);
    if (!strstr(err.text, word)) fail_msg("\"%s\" does not name %s", err.text, word);
    ty_gguf_close(&g);
}

static void other_scalings_are_refused_by_name(void **state) {
    (void)state;
    refused(&(says){.type = "longrope", .factor = 4}, "longrope");
    refused(&(says){.type = "yarn", .factor = 4, .log_multiplier = true}, "yarn_log_multiplier");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_follow_the_files_scaling),
        cmocka_unit_test(other_scalings_are_refused_by_name),
    };
    return cmocka_run_group_tests_name("rope", tests, NULL, NULL);
}
