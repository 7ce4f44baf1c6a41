/* layout.h and stage_types.h: names, shapes, the rope permutation, and --type's rules. */
#include "tests/support/ty_test.h"

#include "common/model/layout.h"
#include "orchestration/stage_types.h"

#include <math.h>
#include <string.h>

static const ty_tensor_spec *find(const ty_layout *l, const char *name) {
    for (int i = 0; i < l->n; i++)
        if (strcmp(l->item[i].name, name) == 0) return &l->item[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void layout_names_the_decoder_in_both_worlds(void **state) {
    (void)state;
    const ty_decoder_dims d = {512, 64, 2, 8, 2, 128, 640, 1e-6f, 0, false, false};
    ty_layout l = {0};
    assert_int_equal(ty_layout_decoder(&l, &d, NULL), TY_OK);
    assert_int_equal(l.n, 3 + 2 * 9);
    const ty_tensor_spec *k = find(&l, "blk.1.attn_k.weight");
    assert_string_equal(k->source, "model.layers.1.self_attn.k_proj.weight");
    assert_int_equal(k->shape[0], 16);
    assert_int_equal(k->shape[1], 64);
    assert_int_equal(k->rope_heads, 2);
    assert_int_equal(find(&l, "blk.1.attn_q.weight")->rope_heads, 8);
    assert_int_equal(find(&l, "blk.1.attn_v.weight")->rope_heads, 0);
    assert_int_equal(find(&l, "blk.0.ffn_norm.weight")->n_dim, 1);
    ty_layout_clear(&l);
    assert_int_equal(l.n, 0);
}

static void layout_keeps_the_vision_towers_names(void **state) {
    (void)state;
    const ty_vit_dims v = {56, 14, 64, 3, 4, 256, 1e-6f, "quick_gelu", 0};
    const ty_abstractor_dims a = {8, 64, 2, 4, 176, 0, 64, 96, 1e-6f, false};
    ty_layout l = {0};
    assert_int_equal(ty_layout_vit(&l, &v, NULL), TY_OK);
    const ty_tensor_spec *s = find(&l, "embeddings.position_embedding");
    assert_int_equal(s->shape[1], 17);
    assert_int_equal(s->role, TY_ROLE_OTHER);
    s = find(&l, "encoder.layers.2.self_attn.query_key_value.weight");
    assert_string_equal(s->source,
                        "vision_model.encoder.layers.2.self_attn.query_key_value.weight");
    assert_int_equal(s->shape[0], 192);
    ty_layout_clear(&l);
    assert_int_equal(ty_layout_abstractor(&l, &a, NULL), TY_OK);
    assert_string_equal(find(&l, "query_tokens")->source, "query_tokens");
    assert_string_equal(find(&l, "vit_eos")->source, "abstractor.vit_eos");
    s = find(&l, "encoder.layers.1.crossattention.output.mlp.w2.weight");
    assert_int_equal(s->shape[0], 64);
    assert_int_equal(s->shape[1], 176);
    ty_layout_clear(&l);
}

static void layout_has_v2_s_second_ways(void **state) {
    (void)state;
    const ty_decoder_dims d = {512, 64, 2, 8, 8, 128, 640, 1e-6f, 0, true, false};
    ty_layout l = {0};
    assert_int_equal(ty_layout_decoder(&l, &d, NULL), TY_OK);
    assert_int_equal(l.n, 3 + 2 * 13);
    assert_string_equal(ty_layout_decoder_arch(&d), "mplug_owl2");
    assert_string_equal(find(&l, "blk.1.attn_k.weight")->source,
                        "model.layers.1.self_attn.k_proj.multiway.0.weight");
    const ty_tensor_spec *k = find(&l, "blk.1.vis_attn_k.weight");
    assert_string_equal(k->source, "model.layers.1.self_attn.k_proj.multiway.1.weight");
    assert_int_equal(k->rope_heads, 8);
    assert_string_equal(find(&l, "blk.0.vis_ffn_norm.weight")->source,
                        "model.layers.0.post_attention_layernorm.multiway.1.weight");
    assert_string_equal(find(&l, "blk.0.attn_q.weight")->source,
                        "model.layers.0.self_attn.q_proj.weight");
    ty_layout_clear(&l);
}

static void layout_makes_v2_s_positions(void **state) {
    (void)state;
    const ty_abstractor_dims a = {3, 8, 1, 2, 16, 2, 8, 96, 1e-6f, false};
    ty_layout l = {0};
    float x[5 * 8];
    assert_int_equal(ty_layout_abstractor(&l, &a, NULL), TY_OK);
    assert_string_equal(find(&l, "query_tokens")->source, "visual_abstractor.query_embeds");
    assert_string_equal(find(&l, "vit_eos")->source, "visual_abstractor.vit_eos");
    const ty_tensor_spec *s = find(&l, "encoder.layers.0.crossattention.attention.q_pos_embed");
    assert_int_equal(s->fixed, TY_FIXED_POSITIONS);
    ty_layout_fill_fixed(s, x); /* row 2: sin and cos of 2 * 10000^(-j/4) */
    assert_true(fabs((double)x[2 * 8] - sin(2)) < 1e-6);
    assert_true(fabs((double)x[2 * 8 + 1] - sin(0.2)) < 1e-6);
    assert_true(fabs((double)x[2 * 8 + 4] - cos(2)) < 1e-6);
    s = find(&l, "encoder.layers.0.crossattention.attention.k_pos_embed");
    assert_int_equal(s->fixed, TY_FIXED_GRID);
    assert_int_equal(s->shape[0], 5);
    ty_layout_fill_fixed(s, x);
    for (int i = 0; i < 8; i++) assert_true(x[i] == 0); /* the class token */
    /* cell 1 is row 0, column 1: the column's half first */
    assert_true(fabs((double)x[2 * 8] - sin(1)) < 1e-6);
    assert_true(fabs((double)x[2 * 8 + 2] - cos(1)) < 1e-6);
    assert_true(x[2 * 8 + 4] == 0);
    assert_true(x[2 * 8 + 6] == 1);
    ty_layout_clear(&l);
}

static void permute_puts_the_halves_of_a_head_side_by_side(void **state) {
    (void)state;
    const char from[] = "abcdefgh"; /* two heads of four rows of one byte */
    char to[9] = {0};
    ty_layout_permute_rope(from, to, 2, 8, 1);
    assert_string_equal(to, "acbdegfh");
    const char wide[] = "aAbBcCdD"; /* one head of rows of two bytes */
    ty_layout_permute_rope(wide, to, 1, 4, 2);
    assert_string_equal(to, "aAcCbBdD");
}

static stage_types parse(const char *a, const char *b) {
    ty_option_list words = {.item = {a, b}, .n = b ? 2 : 1};
    stage_types t;
    assert_int_equal(stage_types_parse(&t, &words, NULL), TY_OK);
    return t;
}

static void split_gathers_q_k_and_v_of_all_heads(void **state) {
    (void)state;
    /* two heads of two: q0 k0 v0 q1 k1 v1, two rows each */
    const uint8_t src[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    const uint8_t want[12] = {1, 2, 7, 8, 3, 4, 9, 10, 5, 6, 11, 12};
    uint8_t dst[12];
    ty_layout_split_qkv(src, dst, 2, 12, 1);
    assert_memory_equal(dst, want, sizeof want);
}

static void types_of_a_stage_beat_the_general_one(void **state) {
    (void)state;
    stage_types t = parse("vit=f16", "q8_0");
    assert_int_equal(t.of[TY_STAGE_VIT], TY_F16);
    assert_int_equal(t.of[TY_STAGE_DECODER], TY_Q8_0);
    t = parse("decoder=q4_0", NULL);
    assert_int_equal(t.of[TY_STAGE_VIT], -1);
    const char *bad[] = {"q5_0", "vit=", "=f32", "preprocess=f32", "head=f32", "i8", ""};
    for (int i = 0; i < 7; i++) {
        ty_option_list words = {.item = {bad[i]}, .n = 1};
        assert_int_equal(stage_types_parse(&t, &words, NULL), TY_EINVAL);
    }
}

static void types_follow_role_and_row(void **state) {
    (void)state;
    const ty_tensor_spec linear = {.role = TY_ROLE_LINEAR, .n_dim = 2, .shape = {4, 64}};
    const ty_tensor_spec odd = {.role = TY_ROLE_LINEAR, .n_dim = 2, .shape = {4, 88}};
    const ty_tensor_spec gain = {.role = TY_ROLE_GAIN, .n_dim = 1, .shape = {64}};
    stage_types q = parse("q4_0", NULL), f16 = parse("f16", NULL), keep = parse("vit=f32", NULL);
    const ty_stage_kind vit = TY_STAGE_VIT, abs = TY_STAGE_ABSTRACTOR, dec = TY_STAGE_DECODER;
    bool undivided;
    assert_int_equal(stage_types_choose(&q, vit, &linear, TY_BF16, &undivided), TY_Q4_0);
    assert_false(undivided);
    assert_int_equal(stage_types_choose(&q, vit, &odd, TY_BF16, &undivided), TY_F32);
    assert_true(undivided);
    assert_int_equal(stage_types_choose(&f16, vit, &odd, TY_F32, &undivided), TY_F16);
    assert_int_equal(stage_types_choose(&q, vit, &gain, TY_BF16, NULL), TY_F32);
    assert_int_equal(stage_types_choose(&keep, abs, &gain, TY_BF16, NULL), TY_BF16);
    assert_int_equal(stage_types_choose(&keep, abs, &linear, TY_F64, NULL), TY_F32);
    assert_int_equal(stage_types_choose(&keep, dec, &gain, TY_BF16, NULL), TY_F32);
    assert_int_equal(stage_types_choose(&keep, dec, &linear, TY_BF16, NULL), TY_BF16);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout_names_the_decoder_in_both_worlds),
        cmocka_unit_test(layout_keeps_the_vision_towers_names),
        cmocka_unit_test(layout_has_v2_s_second_ways),
        cmocka_unit_test(layout_makes_v2_s_positions),
        cmocka_unit_test(permute_puts_the_halves_of_a_head_side_by_side),
        cmocka_unit_test(split_gathers_q_k_and_v_of_all_heads),
        cmocka_unit_test(types_of_a_stage_beat_the_general_one),
        cmocka_unit_test(types_follow_role_and_row),
    };
    return cmocka_run_group_tests_name("layout", tests, NULL, NULL);
}
