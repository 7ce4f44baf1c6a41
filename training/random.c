#include "training/random.h"
#include "common/model/logits.h"

#include <math.h>

double random_unit(uint64_t seed, uint64_t stream, uint64_t index) {
    /* Two keys into one: stream and seed meet in an odd multiplier, so that streams do not overlap. */
    return ty_draw(seed ^ (stream + 1) * 0x9E3779B97F4A7C15u, index);
}

void random_uniform(uint64_t seed, uint64_t stream, double bound, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)((2 * random_unit(seed, stream, (uint64_t)i) - 1) * bound);
}

void random_normal(uint64_t seed, uint64_t stream, double deviation, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++) {
        double u = 1 - random_unit(seed, stream, 2 * (uint64_t)i);
        double v = random_unit(seed, stream, 2 * (uint64_t)i + 1);
        out[i] = (float)(deviation * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
    }
}

static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

void random_dropout(uint64_t seed, uint64_t stream, double p, const float *x, int64_t n, float *y) {
    uint64_t key = mix(mix(seed + 0x9E3779B97F4A7C15u) ^ stream),
             below = (uint64_t)(p * 18446744073709551615.0);
    float scale = (float)(1 / (1 - p));
    for (int64_t i = 0; i < n; i++)
        y[i] = mix(key + (uint64_t)i * 0x9E3779B97F4A7C15u) < below ? 0 : x[i] * scale;
}
