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

static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static uint64_t stream_key(uint64_t seed, uint64_t stream) {
    return mix(mix(seed + 0x9E3779B97F4A7C15u) ^ stream);
}

/* The i-th number of a stream, 64 random bits. */
static uint64_t bits(uint64_t key, uint64_t i) {
    return mix(key + i * 0x9E3779B97F4A7C15u);
}

/* Box and Muller: two numbers of each two draws. */
void random_normal(uint64_t seed, uint64_t stream, double deviation, int64_t n, float *out) {
    uint64_t key = stream_key(seed, stream);
    for (int64_t i = 0; i < n; i += 2) {
        double u = (double)((bits(key, (uint64_t)i) >> 11) + 1) * 0x1p-53;
        double angle = (double)(bits(key, (uint64_t)i + 1) >> 11) * (0x1p-53 * 6.283185307179586);
        double length = deviation * sqrt(-2 * log(u));
        out[i] = (float)(length * cos(angle));
        if (i + 1 < n) out[i + 1] = (float)(length * sin(angle));
    }
}

void random_dropout(uint64_t seed, uint64_t stream, double p, const float *x, int64_t n, float *y) {
    uint64_t key = mix(mix(seed + 0x9E3779B97F4A7C15u) ^ stream),
             below = (uint64_t)(p * 18446744073709551615.0);
    float scale = (float)(1 / (1 - p));
    for (int64_t i = 0; i < n; i++) y[i] = bits(key, (uint64_t)i) < below ? 0 : x[i] * scale;
}
