/* bloom.h: the slopes against the published ones, and which tensors belong to it.  The network against transformers' is in
 * tests/golden/test_decoder.c. */
#include "tests/support/ty_test.h"

#include "services/decoder/bloom.h"

#include <math.h>

static void check_slopes(int n, const double *want) {
    float slope[16];
    bloom_slopes(n, slope);
    for (int h = 0; h < n; h++)
        if (fabs((double)slope[h] - want[h]) > 1e-6)
            fail_msg("%d heads: slope %d is %g, want %g", n, h, (double)slope[h], want[h]);
}

/* Eight heads: 1/2 .. 1/256, as in the paper; others from the power of two below. */
static void slopes_are_alibis(void **state) {
    (void)state;
    check_slopes(1, (double[]){1.0 / 256});
    check_slopes(2, (double[]){1.0 / 16, 1.0 / 256});
    check_slopes(3, (double[]){1.0 / 16, 1.0 / 256, 1.0 / 4});
    check_slopes(8,
                 (double[]){0.5, 0.25, 0.125, 1.0 / 16, 1.0 / 32, 1.0 / 64, 1.0 / 128, 1.0 / 256});
    check_slopes(12, (double[]){0.5, 0.25, 0.125, 1.0 / 16, 1.0 / 32, 1.0 / 64, 1.0 / 128,
                                1.0 / 256, sqrt(0.5), pow(2, -1.5), pow(2, -2.5), pow(2, -3.5)});
}

static void its_tensors_are_known_whole(void **state) {
    (void)state;
    assert_true(bloom_knows("attn_qkv.weight") && bloom_knows("output_norm.bias"));
    assert_false(bloom_knows("attn_q.weight") || bloom_knows("attn_qkv") ||
                 bloom_knows("ffn_gate.weight") || bloom_knows("ffn_up.scale"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slopes_are_alibis),
        cmocka_unit_test(its_tensors_are_known_whole),
    };
    return cmocka_run_group_tests_name("bloom", tests, NULL, NULL);
}
