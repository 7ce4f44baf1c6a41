/*
 * tell.h - what is seen, in words: how the texts of the LLM's pre-training tell a picture.
 */
#ifndef OWLET_TELL_H
#define OWLET_TELL_H

#include "training/owlet/record.h"

/* Appends n groups, of each its kind, then colour, number, and the place unless it is PLACE_COUNT: "boat yellow one
 * left, ball blue two".  Always English and always in this order, so that the LLM learns early to look one up by
 * another. */
void tell(ty_buf *b, const group *g, const place *where, int n);

/* A text to learn just that from: up to eight groups, and in several turns all colours by kind, all kinds by
 * colour and so on, in pairs ("boat: yellow") or sentences.  easy: only what all others begin with, twice, things with
 * their colours ("boat yellow") in any order and again and again. */
void tell_drill(record *r, chance *c, bool easy);

#endif
