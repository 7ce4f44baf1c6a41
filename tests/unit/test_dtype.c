/* dtype.h: conversions against their definitions, the block quantisers against known bytes. */
#include "tests/support/ty_test.h"

#include "common/math/dtype.h"

#include <math.h>
#include <string.h>

static void dtype_names_come_back(void **state) {
    (void)state;
    const ty_dtype all[] = {TY_F32, TY_F16, TY_BF16, TY_Q4_0, TY_Q8_0, TY_I8,
                            TY_I16, TY_I32, TY_I64,  TY_F64,  TY_U8,   TY_BOOL};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        assert_int_equal(ty_dtype_parse(ty_dtype_name((int)all[i])), (int)all[i]);
    assert_int_equal(ty_dtype_parse("iq2_s"), -1);
    assert_string_equal(ty_dtype_name(4), "?");
    assert_null(ty_dtype_get(-1));
    assert_int_equal(ty_dtype_bytes(TY_Q4_0, 64), 36);
    assert_int_equal(ty_dtype_bytes(TY_Q8_0, 64), 68);
    assert_int_equal(ty_dtype_bytes(TY_F64, 3), 24);
}

static void tensor_counts_and_prints_its_shape(void **state) {
    (void)state;
    ty_tensor t = {.dtype = TY_F32, .n_dim = 3, .shape = {3, 28, 7}};
    char text[32];
    assert_int_equal(ty_tensor_count(&t), 588);
    assert_int_equal(ty_tensor_rows(&t), 84);
    assert_int_equal(ty_tensor_cols(&t), 7);
    assert_string_equal(ty_tensor_shape_text(&t, text, sizeof text), "[3,28,7]");
    assert_string_equal(ty_tensor_shape_text(&t, text, 5), "[3,2");
    t.n_dim = 0;
    assert_string_equal(ty_tensor_shape_text(&t, text, sizeof text), "[]");
    assert_int_equal(ty_tensor_cols(&t), 1);
}

/* The value of a half by its definition, in double. */
static double half_value(uint16_t h) {
    int exp = h >> 10 & 31, man = h & 1023;
    double v = exp ? ldexp(1024 + man, exp - 25) : ldexp(man, -24);
    return h & 0x8000 ? -v : v;
}

static void f16_widens_exactly_for_every_pattern(void **state) {
    (void)state;
    for (unsigned h = 0; h < 65536; h++) {
        float f = ty_f16_to_f32((uint16_t)h);
        if ((h & 0x7c00) == 0x7c00) {
            assert_true((h & 1023) ? isnan(f) : isinf(f));
            continue;
        }
        assert_true((double)f == half_value((uint16_t)h));
        assert_int_equal(ty_f32_to_f16(f), h);
    }
}

/* Between two neighbours the nearer one wins, in the middle the even one. */
static void f16_rounds_to_nearest_even(void **state) {
    (void)state;
    for (unsigned h = 0; h < 0x7bff; h++) {
        double a = half_value((uint16_t)h), b = half_value((uint16_t)(h + 1));
        float mid = (float)((a + b) / 2);
        unsigned even = h & 1 ? h + 1 : h;
        assert_int_equal(ty_f32_to_f16(mid), even);
        assert_int_equal(ty_f32_to_f16(nextafterf(mid, 0)), h);
        assert_int_equal(ty_f32_to_f16(nextafterf(mid, INFINITY)), h + 1);
        assert_int_equal(ty_f32_to_f16(-nextafterf(mid, INFINITY)), 0x8000 | (h + 1));
    }
    assert_int_equal(ty_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(ty_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(ty_f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(ty_f32_to_f16(1e-10f), 0);
    assert_true(isnan(ty_f16_to_f32(ty_f32_to_f16(NAN))));
}

static void bf16_rounds_to_nearest_even(void **state) {
    (void)state;
    assert_int_equal(ty_f32_to_bf16(1.0f), 0x3f80);
    assert_int_equal(ty_f32_to_bf16(0x1.01p0f), 0x3f80); /* a tie: down to even */
    assert_int_equal(ty_f32_to_bf16(0x1.03p0f), 0x3f82); /* a tie: up to even */
    assert_int_equal(ty_f32_to_bf16(0x1.010002p0f), 0x3f81);
    assert_int_equal(ty_f32_to_bf16(3.4e38f), 0x7f80);
    assert_true(isnan(ty_bf16_to_f32(ty_f32_to_bf16(NAN))));
}

/* 127 at amax: d = 1 exactly, values rounded half away from zero as roundf does. */
static void q8_0_quantises_as_ggml(void **state) {
    (void)state;
    float x[32] = {127, -127, 0.5f, -0.5f, 1.5f, 2.49f, -63.5f, 100.4f};
    const int8_t want[8] = {127, -127, 1, -1, 2, 2, -64, 100};
    uint8_t b[34];
    float back[32];
    ty_dtype_from_f32(TY_Q8_0, x, 32, b);
    assert_int_equal(b[0] | b[1] << 8, 0x3c00);
    for (int i = 0; i < 8; i++) assert_int_equal((int8_t)b[2 + i], want[i]);
    ty_dtype_to_f32(TY_Q8_0, b, 0, 32, back);
    for (int i = 0; i < 8; i++) assert_true(back[i] == (float)want[i]);
}

/* The largest magnitude keeps its sign and becomes level 0: d = max / -8. */
static void q4_0_quantises_as_ggml(void **state) {
    (void)state;
    float x[32] = {8, -8, 1, -1, 0.49f, 0.5f, 7, -7};
    x[16] = 3;
    x[31] = -2;
    uint8_t b[18];
    float back[32];
    ty_dtype_from_f32(TY_Q4_0, x, 32, b);
    assert_int_equal(b[0] | b[1] << 8, 0xbc00); /* d = -1: +8 came first */
    /* q = min(15, (int)(-x + 8.5)) */
    const int low[8] = {0, 15, 7, 9, 8, 8, 1, 15};
    for (int i = 0; i < 8; i++) assert_int_equal(b[2 + i] & 15, low[i]);
    assert_int_equal(b[2] >> 4, 5);
    assert_int_equal(b[17] >> 4, 10);
    ty_dtype_to_f32(TY_Q4_0, b, 0, 32, back);
    assert_true(back[0] == 8 && back[1] == -7 && back[16] == 3 && back[31] == -2);
}

static void zero_blocks_stay_zero(void **state) {
    (void)state;
    float x[64] = {0}, back[64];
    uint8_t b[68];
    for (int i = 0; i < 2; i++) {
        ty_dtype t = i ? TY_Q4_0 : TY_Q8_0;
        memset(back, 1, sizeof back);
        ty_dtype_from_f32(t, x, 64, b);
        ty_dtype_to_f32(t, b, 32, 32, back + 32);
        for (int k = 32; k < 64; k++) assert_true(back[k] == 0);
    }
}

static void integers_widen(void **state) {
    (void)state;
    const int8_t a[3] = {-128, 0, 127};
    const int64_t b[2] = {-5, 1 << 20};
    const double c[2] = {0.5, -3};
    const uint8_t d[2] = {255, 1};
    float f[3];
    ty_dtype_to_f32(TY_I8, a, 0, 3, f);
    assert_true(f[0] == -128 && f[2] == 127);
    ty_dtype_to_f32(TY_I64, b, 1, 1, f);
    assert_true(f[0] == 1 << 20);
    ty_dtype_to_f32(TY_F64, c, 0, 2, f);
    assert_true(f[0] == 0.5f && f[1] == -3);
    ty_dtype_to_f32(TY_U8, d, 0, 2, f);
    assert_true(f[0] == 255);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dtype_names_come_back),
        cmocka_unit_test(tensor_counts_and_prints_its_shape),
        cmocka_unit_test(f16_widens_exactly_for_every_pattern),
        cmocka_unit_test(f16_rounds_to_nearest_even),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(q8_0_quantises_as_ggml),
        cmocka_unit_test(q4_0_quantises_as_ggml),
        cmocka_unit_test(zero_blocks_stay_zero),
        cmocka_unit_test(integers_widen),
    };
    return cmocka_run_group_tests_name("dtype", tests, NULL, NULL);
}
