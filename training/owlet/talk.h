/* talk.h - instructions without a picture: small sums, opposites, words of another language, order, repetition. */
#ifndef OWLET_TALK_H
#define OWLET_TALK_H

#include "training/owlet/record.h"

/* r: initialised with ABILITY_TEXT.  `turns` instructions, at least 1, that have nothing to do with one another. */
void talk_make(record *r, chance *c, bool held_out, int turns);

#endif
