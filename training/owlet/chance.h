/*
 * chance.h - the generator's dice: counter-based, so that record i of a seed is the same whatever was made
 * before it, on any machine.  The mixing is splitmix64's (Steele, Lea, Flood: Fast splittable
 * pseudorandom number generators, 2014).
 */
#ifndef OWLET_CHANCE_H
#define OWLET_CHANCE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t key, n;
} chance;

/* The dice of one record. */
chance chance_make(uint64_t seed, uint64_t record);
uint64_t chance_bits(chance *c);
/* 0 .. n-1; n > 0. */
int chance_below(chance *c, int n);
/* a .. b, both possible. */
int chance_between(chance *c, int a, int b);
/* a <= x < b. */
double chance_real(chance *c, double a, double b);
/* True once in 1/p. */
bool chance_is(chance *c, double p);
/* Puts n numbers into a random order. */
void chance_shuffle(chance *c, int *x, int n);
/* x = 0 .. n - 1 in some order. */
void chance_order(chance *c, int *x, int n);

#endif
