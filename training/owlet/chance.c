/* chance.c - splitmix64 over a counter. */
#include "training/owlet/chance.h"

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

chance chance_make(uint64_t seed, uint64_t record) {
    return (chance){mix(mix(seed + 0x9E3779B97F4A7C15u) ^ (record * 0xD1342543DE82EF95u)), 0};
}

uint64_t chance_bits(chance *c) {
    return mix(c->key + 0x9E3779B97F4A7C15u * ++c->n);
}

int chance_below(chance *c, int n) {
    return (int)(((chance_bits(c) >> 32) * (uint64_t)n) >> 32);
}

int chance_between(chance *c, int a, int b) {
    return a + chance_below(c, b - a + 1);
}

double chance_real(chance *c, double a, double b) {
    return a + (b - a) * ((double)(chance_bits(c) >> 11) * 0x1p-53);
}

bool chance_is(chance *c, double p) {
    return chance_real(c, 0, 1) < p;
}

void chance_shuffle(chance *c, int *x, int n) {
    for (int i = n - 1; i > 0; i--) {
        int j = chance_below(c, i + 1), t = x[i];
        x[i] = x[j];
        x[j] = t;
    }
}

void chance_order(chance *c, int *x, int n) {
    for (int i = 0; i < n; i++) x[i] = i;
    chance_shuffle(c, x, n);
}
