/* ggml_blocks.h: random blocks against the values that the `gguf` package gives
 * (tests/support/make_ggml_blocks.py), and a linear layer of such blocks against the same in f32. */
#include "tests/support/ty_test.h"

#include "common/math/ggml_blocks.h"
#include "common/math/linear.h"
#include "common/model/safetensors.h"

#include <math.h>
#include <stdio.h>

static const ty_dtype TYPE[] = {TY_Q4_1, TY_Q5_0, TY_Q5_1, TY_Q2_K,
                                TY_Q3_K, TY_Q4_K, TY_Q5_K, TY_Q6_K};
enum { N_TYPE = sizeof TYPE / sizeof *TYPE, BLOCKS = 3 };

static ty_safetensors *file;

static int open_data(void **state) {
    (void)state;
    return ty_safetensors_open(&file, "tests/unit/data/ggml_blocks.safetensors", NULL) != TY_OK;
}

static int close_data(void **state) {
    (void)state;
    ty_safetensors_close(&file);
    return 0;
}

static ty_tensor find(ty_dtype type, const char *part) {
    char name[32];
    ty_tensor t;
    snprintf(name, sizeof name, "%s.%s", ty_dtype_name((int)type), part);
    assert_int_equal(ty_safetensors_find(file, name, &t, NULL), TY_OK);
    return t;
}

static void blocks_have_ggmls_values(void **state) {
    (void)state;
    for (int i = 0; i < N_TYPE; i++) {
        ty_tensor blocks = find(TYPE[i], "blocks"), values = find(TYPE[i], "values");
        size_t n = (size_t)ty_tensor_count(&values), one = n / BLOCKS;
        float got[BLOCKS * 256];
        assert_int_equal(ty_dtype_get((int)TYPE[i])->block, one);
        assert_int_equal(ty_dtype_bytes(TYPE[i], n), blocks.size_bytes);
        ty_dtype_to_f32(TYPE[i], blocks.data, 0, n, got);
        for (size_t k = 0; k < n; k++) {
            double want = (double)((const float *)values.data)[k];
            if (fabs((double)got[k] - want) > 1e-6 * (1 + fabs(want)))
                fail_msg("%s: element %zu is %g, want %g", ty_dtype_name((int)TYPE[i]), k,
                         (double)got[k], want);
        }
        /* A row further down is found by its block. */
        float last[256];
        ty_dtype_to_f32(TYPE[i], blocks.data, n - one, one, last);
        assert_memory_equal(last, got + n - one, one * sizeof(float));
    }
}

/* The three blocks as three rows, each of the ways to compute. */
static void a_layer_of_blocks_is_the_layer_of_its_values(void **state) {
    (void)state;
    static const struct {
        ty_compute how;
        double limit; /* of the largest output: rounding of weights and activations */
    } WAY[] = {{TY_COMPUTE_F32, 1e-5},
               {TY_COMPUTE_AUTO, 0.02},
               {TY_COMPUTE_INT8, 0.02},
               {TY_COMPUTE_BF16, 0.02}};
    for (int i = 0; i < N_TYPE; i++)
        for (size_t c = 0; c < sizeof WAY / sizeof *WAY; c++) {
            ty_tensor w = find(TYPE[i], "blocks"), values = find(TYPE[i], "values");
            int K = (int)ty_tensor_cols(&values);
            float x[256], y[BLOCKS];
            double worst = 0, top = 0;
            ty_linear *l = NULL;
            w.dtype = TYPE[i];
            w.shape[1] = K;
            for (int k = 0; k < K; k++) x[k] = sinf((float)(k * 7 + 1));
            assert_int_equal(ty_linear_create(&l, &w, NULL, 1, WAY[c].how, NULL, NULL), TY_OK);
            assert_int_equal(ty_linear_apply(l, NULL, x, K, 1, y, BLOCKS), TY_OK);
            for (int r = 0; r < BLOCKS; r++) {
                double want = 0, size = 0;
                for (int k = 0; k < K; k++) {
                    double p = (double)x[k] * (double)((const float *)values.data)[r * K + k];
                    want += p;
                    size += p * p;
                }
                worst = fmax(worst, fabs(want - (double)y[r]));
                top = fmax(top, sqrt(size));
            }
            if (worst > WAY[c].limit * top)
                fail_msg("%s, compute %zu: error %g of %g", ty_dtype_name((int)TYPE[i]), c, worst,
                         top);
            ty_linear_destroy(&l);
        }
}

static void no_reader_for_types_that_have_their_own(void **state) {
    (void)state;
    assert_null(ty_ggml_block_reader(TY_Q8_0));
    assert_null(ty_ggml_block_reader(TY_F32));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_have_ggmls_values),
        cmocka_unit_test(a_layer_of_blocks_is_the_layer_of_its_values),
        cmocka_unit_test(no_reader_for_types_that_have_their_own),
    };
    return cmocka_run_group_tests_name("ggml_blocks", tests, open_data, close_data);
}
